"""A hash of the code that computes results: a part that other code left behind is not reused."""

import hashlib
from functools import cache
from pathlib import Path

PRESENTATION = ("cli", "demo.py", "pages", "plots")
"""Packages and files that show results and change none."""


@cache
def code_sha256(*unused: str) -> str:
    """Return 16 hexadecimal digits over the package's sources and their paths.

    Args:
        unused: packages and files, relative to the package, that take no part in the results of
            the caller; `PRESENTATION` is left out anyway.

    Raises:
        ValueError: a path that does not exist. A stale name would make the hash depend on code
            that changes no result.
    """
    root = Path(__file__).parent
    left_out = {*PRESENTATION, *unused}
    missing = [name for name in left_out if not (root / name).exists()]
    if missing:
        raise ValueError(f"no such file or package in {root.name}: {', '.join(sorted(missing))}")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if not left_out & {place.as_posix(), *(parent.as_posix() for parent in place.parents)}:
            digest.update(place.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
