"""What a data set does not show as it lies on disk, counted: nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

NAMED = 3
"""How many items of a count are named."""
Item = TypeVar("Item")


class LeftOut:
    """Counts of what was left out or read in another way, by reason, and lines on the whole set.

    Masks are opened late, and often more than once: an item counts once for a reason, by its name.
    """

    def __init__(self) -> None:
        self._items: dict[str, dict[str, None]] = {}

    def add(self, reason: str, names: Iterable[str]) -> None:
        """Count these items under the reason, a noun phrase such as "images without a mask"."""
        for name in names:
            self._items.setdefault(reason, {})[name] = None

    def say(self, line: str) -> None:
        """Add a notice of the whole set, without a count."""
        self._items.setdefault(line, {})

    @property
    def lines(self) -> tuple[str, ...]:
        """Return one notice per reason, with its count."""
        return tuple(_line(reason, list(items)) for reason, items in self._items.items())


def _line(reason: str, names: list[str]) -> str:
    if not names:
        return reason
    more = ", ..." if len(names) > NAMED else ""
    return f"{reason}: {len(names)} ({', '.join(names[:NAMED])}{more})"
