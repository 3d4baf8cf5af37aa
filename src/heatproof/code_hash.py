"""A hash of the code that measures: what another program left half done is not gone on with."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_sha256(*shown: str) -> str:
    """First 16 digits over the package's sources by path, without `report` and without what is
    `shown`: folders and files that say or draw what was measured, and change none of it."""
    root = Path(__file__).parent
    left_out = {"report", *shown}
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if not left_out & {place.as_posix(), *(each.as_posix() for each in place.parents)}:
            digest.update(place.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
