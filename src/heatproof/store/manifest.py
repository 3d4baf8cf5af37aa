"""What a store was begun with: a run with anything else in it is refused, and told what changed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from heatproof.errors import InputError, shortened
from heatproof.store.files import StoreFiles

NAME = "manifest.json"
LISTING = "listing.parquet"
SCHEMA = 1
Manifest = dict[str, Any]
"""`schema`, `run` (what was asked for: any change is refused), `environment` (that of the first
run: a change is a notice), `items` and `grid`."""


def read(files: StoreFiles) -> Manifest | None:
    """Return a store's manifest; None where there is none.

    Raises:
        InputError: it is no manifest, or one of a later version.
    """
    if not files.exists(NAME):
        return None
    try:
        found = json.loads(files.read(NAME))
        schema = int(found["schema"])
        dict(found["run"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{files.address}/{NAME}: no manifest of a store; try another -o"
        ) from None
    if schema != SCHEMA:
        raise InputError(
            f"{files.address} has schema {schema}, this version reads {SCHEMA}; "
            "use the version of heatproof that wrote it"
        )
    return found


def write(files: StoreFiles, manifest: Manifest) -> None:
    """Write a manifest."""
    files.write(NAME, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def refuse(address: str, differences: Sequence[str]) -> NoReturn:
    """Raise an `InputError` that names all differences from the run that began the store."""
    raise InputError(
        f"{address} was begun with another run: {'; '.join(differences)}; give the same as then to "
        "go on with it, or another -o"
    )


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe each entry that differs: "model: scenes then, scenes:step-00200 now"."""
    plain = json.loads(json.dumps(now))  # as a manifest reads back
    lines: list[str] = []
    for name in dict.fromkeys([*then, *plain]):
        before, after = then.get(name), plain.get(name)
        if before != after:
            lines.append(f"{name.replace('_', ' ')}: {_difference(before, after)}")
    return lines


def _difference(then: Any, now: Any) -> str:
    if isinstance(then, list) and isinstance(now, list):
        gone = [item for item in then if item not in now]
        new = [item for item in now if item not in then]
        parts = [f"{_short(gone)} is gone"] if gone else []
        parts += [f"{_short(new)} is new"] if new else []
        return ", ".join(parts) or "another order"
    return f"{_short(then)} then, {_short(now)} now"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return shortened(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
