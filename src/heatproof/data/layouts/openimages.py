"""Open Images V7's point labels (Benenson and Ferrari, arXiv 2210.14142)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.reading import (
    LayoutError,
    Sample,
    first_folder,
    picture,
    table_of,
    text_of,
)
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.images import Frame, frame_of

COLUMNS = ("ImageId", "X", "Y", "Label", "EstimatedYesNo")
VALIDATION = re.compile(r"(^|[-_.])val")
PLACES = ("validation", "images", "data", "val")
Point = tuple[float, float]


@dataclass
class Points:
    """Where a class was judged in one image, as shares of its width and height."""

    yes: list[Point] = field(default_factory=list)
    no: list[Point] = field(default_factory=list)


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return one thing a class that an image has a point of. `mask` holds the points that are on
    it, `judged` these and those that are not; "unsure" points are unjudged, and so are pixels that
    were judged both ways. Images without a "yes" are left out. What has no points may still be
    there, so the set is not complete."""
    file = _points_file(root)
    said, left_out = _said(file), LeftOut()
    # Without a "yes" there is no object that a map could lie on.
    silent = [name for name, of in said.items() if not any(p.yes for p in of.values())]
    left_out.add("images left out, without a point that is on its class", silent)
    for name in silent:
        del said[name]
    chosen = sample.of(sorted(said))
    if not chosen:
        raise LayoutError(f"got no point in {file} that is on its class (EstimatedYesNo: yes)")
    folder = first_folder([root / place for place in PLACES], "Open Images' pictures")
    paths = [picture(folder / f"{name}.jpg", file.name) for name in chosen]
    names = _names(root)
    kinds = sorted({kind for name in chosen for kind, points in said[name].items() if points.yes})
    unnamed = [kind for kind in kinds if kind not in names]
    if unnamed:
        raise LayoutError(f"the class descriptions in {root} have no name for {unnamed[0]}")
    label_of = {kind: label for label, kind in enumerate(kinds)}

    def things(row: int) -> tuple[Instance, ...]:
        frame = frame_of(paths[row])
        return visible(
            (
                _thing(label_of[kind], points, frame)
                for kind, points in said[chosen[row]].items()
                if points.yes
            ),
            left_out,
            chosen[row],
        )

    return LabelledImages(
        name="Open Images V7",
        photos=Files(paths),
        things=Lazy(things, range(len(paths))),
        prompts=tuple(template.format(names[kind]) for kind in kinds),
        seed=sample.seed,
        complete=False,
        left_out=left_out,
    )


def _thing(label: int, points: Points, frame: Frame) -> Instance:
    yes, no = (_marked(each, frame) for each in (points.yes, points.no))
    # A pixel that was judged both ways is known to nobody: neither on the object nor judged.
    return Instance(label, yes & ~no, yes ^ no)


def _marked(points: list[Point], frame: Frame) -> np.ndarray:
    mask = np.zeros((frame.height, frame.width), dtype=bool)
    for x, y in points:
        # A share of exactly 1 would fall behind the last pixel.
        col, row = int(x * frame.width), int(y * frame.height)
        mask[min(row, frame.height - 1), min(col, frame.width - 1)] = True
    return np.ascontiguousarray(masks.turned(mask, frame.orientation))


def _said(file: Path) -> dict[str, dict[str, Points]]:
    """Return the points of each class in each image."""
    said: dict[str, dict[str, Points]] = {}
    for line, row in table_of(file, COLUMNS):
        answer = row["EstimatedYesNo"].strip().lower()
        try:
            point = (float(row["X"]), float(row["Y"]))
        except ValueError:
            # No number: out of range, and so refused below with its line.
            point = (-1.0, -1.0)
        if answer not in ("yes", "no", "unsure") or not all(0 <= each <= 1 for each in point):
            raise LayoutError(
                f"{file}, line {line}: X {row['X']}, Y {row['Y']}, EstimatedYesNo "
                f"{row['EstimatedYesNo']!r}; expected shares from 0 to 1, and yes, no or unsure"
            )
        if answer != "unsure":
            points = said.setdefault(row["ImageId"], {}).setdefault(row["Label"], Points())
            (points.yes if answer == "yes" else points.no).append(point)
    return said


def _points_file(root: Path) -> Path:
    """Return the CSV file of points: the validation set's where there are several."""
    found: list[Path] = []
    for path in sorted([*root.glob("*.csv"), *(root / "annotations").glob("*.csv")]):
        with path.open(encoding="utf-8", errors="replace") as file:
            if set(COLUMNS) <= set(file.readline().strip("\ufeff\r\n").split(",")):
                found.append(path)
    # The training set's points have the same columns; the images here are those of validation.
    some = [path for path in found if VALIDATION.search(path.name)] or found
    if len(some) != 1:
        names = ", ".join(path.name for path in some) or "no CSV file of points"
        raise LayoutError(
            f"got {names} in {root}, expected one whose first line names {', '.join(COLUMNS)}"
        )
    return some[0]


def _names(root: Path) -> dict[str, str]:
    """Read class names by label, of all class descriptions (with a line of names or without)."""
    files = [
        *root.glob("*class-descriptions*.csv"),
        *root.glob("annotations/*class-descriptions*.csv"),
    ]
    rows = [row for path in files for row in csv.reader(text_of(path).splitlines())]
    return {row[0]: row[1] for row in rows if len(row) >= 2}
