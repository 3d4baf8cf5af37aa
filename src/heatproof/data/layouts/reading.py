"""What every layout needs: its error, a seeded sample, and files read whole or refused by name."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from heatproof.errors import InputError

PICTURES = (".jpeg", ".jpg", ".png")
Item = TypeVar("Item")


class LayoutError(InputError):
    """A folder that is not laid out as its data set is; one line."""


class NoLayout(LayoutError):
    """A folder in which nothing of the layout was found: it may be the wrong one."""


@dataclass(frozen=True)
class Sample:
    """How many images are wanted (None: all), and the seed that they are drawn by."""

    most: int | None = None
    seed: int = 0

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Draw a seeded sample without replacement, in the items' own order."""
        if self.most is None or len(items) <= self.most:
            return list(items)
        # In the items' own order, so that a larger sample reads files in the same sequence.
        rows = random.Random(self.seed).sample(range(len(items)), self.most)
        return [items[row] for row in sorted(rows)]


def text_of(path: Path) -> str:
    """Return the text of a file; what cannot be read is a `LayoutError`."""
    try:
        # Spreadsheets write a byte order mark, which would become part of the first name.
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is no UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise LayoutError(f"{path} cannot be read ({error.strerror})") from None


def lines_of(path: Path) -> list[str]:
    """Return the lines that hold anything, stripped."""
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def json_of(path: Path) -> Any:
    """Return the content of a JSON file; what cannot be read is a `LayoutError`."""
    try:
        return json.loads(text_of(path))
    # Deep nesting makes the parser recurse until Python stops it.
    except (json.JSONDecodeError, RecursionError) as error:
        raise LayoutError(f"{path} is not readable as JSON ({error})") from None


def table_of(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Return (line, row) of a CSV file whose first line names its columns, these among them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            head = rows.fieldnames or ()
            missing = [column for column in columns if column not in head]
            if missing:
                raise LayoutError(
                    f"{path} has no column {missing[0]!r}; its first line names "
                    f"{', '.join(head) or 'none'}"
                )
            for row in rows:
                # csv marks a surplus field by the key None and a missing one by the value None.
                if None in row or None in row.values():
                    raise LayoutError(
                        f"{path}, line {rows.line_num}: the row does not have the first line's "
                        f"{len(head)} columns"
                    )
                yield rows.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise LayoutError(f"{path} is not readable as CSV ({error})") from None


def visible_in(folder: Path) -> list[Path]:
    """Return what the folder holds, in order, without what systems hide or leave there
    (`._a.jpg`)."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith((".", "__MACOSX")))


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, in order."""
    return [each for each in visible_in(folder) if each.is_dir()]


def pictures_in(folder: Path) -> list[Path]:
    """List the images in a folder, in order."""
    return [each for each in visible_in(folder) if each.suffix.lower() in PICTURES]


def picture(path: Path, said_by: str) -> Path:
    """Check that there is an image at `path`, which `said_by` names."""
    if not path.is_file():
        raise LayoutError(f"got no picture {path}, which {said_by} speaks of")
    return path


def picture_in(places: Sequence[Path], name: str, said_by: str) -> Path:
    """Return the image of this name in the first of the folders that has it."""
    for place in places:
        if (place / name).is_file():
            return place / name
    return picture(places[0] / name, said_by)


def first_folder(places: Sequence[Path], what: str) -> Path:
    """Return the first of these folders that is there."""
    for place in places:
        if place.is_dir():
            return place
    tried = ", ".join(str(place) for place in places)
    raise LayoutError(f"got no folder of {what}; looked for {tried}")
