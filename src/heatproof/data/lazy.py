"""Sequences whose items are made when they are asked for: many images, little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

from PIL import Image

from heatproof.images import open_image

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """`make(row)` for each row of `rows`, anew each time: hold on to an item that is used twice."""

    def __init__(self, make: Callable[[int], T], rows: Sequence[int]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy[T]: ...
    def __getitem__(self, index: int | slice) -> T | Lazy[T]:
        if isinstance(index, slice):
            return self.chosen(range(*index.indices(len(self))))
        return self.make(self.rows[index])

    def __iter__(self) -> Iterator[T]:
        return (self.make(row) for row in self.rows)

    def chosen(self, indices: Sequence[int]) -> Lazy[T]:
        """Return the items at these indices; none is made."""
        return Lazy(self.make, [self.rows[index] for index in indices])


class Files(Lazy[Image.Image]):
    """Images on disk, upright RGB; one that cannot be read raises `ImageError`, by name."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        super().__init__(lambda row: open_image(self.paths[row]).image, range(len(self.paths)))

    def chosen(self, indices: Sequence[int]) -> Files:
        """Return the files at these indices; none is opened."""
        return Files([self.paths[index] for index in indices])


def chosen(items: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    """Return the items at these indices, still lazy where they were."""
    if isinstance(items, Lazy):
        return items.chosen(indices)
    return tuple(items[index] for index in indices)
