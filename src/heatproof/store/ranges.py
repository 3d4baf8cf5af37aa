"""Which items are done: ranges [first, stop) of item numbers, and the files named after them."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FILE = re.compile(r"^(\d{12})-(\d{12})\.parquet$")


class Range(NamedTuple):
    """Items from number `first` to before `stop`."""

    first: int
    stop: int

    @property
    def name(self) -> str:
        """Return the name of the file that holds them."""
        return f"{self.first:012d}-{self.stop:012d}.parquet"


def range_of(name: str) -> Range | None:
    """Return the range that a file's name says; None for another file."""
    found = FILE.match(name)
    return None if found is None else Range(int(found[1]), int(found[2]))


def overlapping(ranges: Iterable[Range]) -> list[Range]:
    """Return those to drop so that no two overlap; the longer of two stays."""
    dropped: list[Range] = []
    end, last = 0, Range(0, 0)
    for own in sorted(ranges, key=lambda r: (r.first, -r.stop)):
        if own.first >= end:
            end, last = own.stop, own
        elif own.stop - own.first > last.stop - last.first:
            dropped.append(last)
            end, last = own.stop, own
        else:
            dropped.append(own)
    return dropped


def pending(done: Iterable[Range], count: int) -> list[Range]:
    """Return what of `count` items no range covers, in order."""
    gaps: list[Range] = []
    end = 0
    for own in sorted(done):
        if own.first > end:
            gaps.append(Range(end, own.first))
        end = max(end, own.stop)
    if end < count:
        gaps.append(Range(end, count))
    return gaps


def split(ranges: Sequence[Range], size: int) -> list[Range]:
    """Cut ranges into pieces of at most `size` items, at multiples of it."""
    pieces: list[Range] = []
    for own in ranges:
        first = own.first
        while first < own.stop:
            stop = min(own.stop, (first // size + 1) * size)
            pieces.append(Range(first, stop))
            first = stop
    return pieces
