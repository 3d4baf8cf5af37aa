"""The images of a run: where each one's bytes are, and how they are fetched."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

import pyarrow as pa
from PIL import Image

from heatproof.errors import ImageError
from heatproof.images import Photo, open_encoded, read_file
from heatproof.store.files import REMOTE, open_binary
from heatproof.store.schema import LISTING_COLUMNS, Table

LISTING = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("container", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("prompts", pa.list_(pa.string())),
    ]
)
DATASETS = "datasets:"
# What fetching from a disk, a network or an archive raises.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, EOFError)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image to explain.

    Attributes:
        path: what it is called: a file's path or address, or its place in a container.
        container: the archive or data set that holds its bytes, from `offset` on, `length` long;
            None for a file of its own. In a data set, `offset` is the row.
        prompts: its own prompts; None where all images have the same.
    """

    index: int
    id: str
    path: str
    container: str | None = None
    offset: int = 0
    length: int = 0
    prompts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ItemPhoto(Photo):
    """A photo that is fetched again from its item when it is no longer held."""

    item: Item | None = None
    content_sha256: str = field(default="", kw_only=True)

    @cached_property
    def image(self) -> Image.Image:
        """Return the pixels, fetched where they are not held."""
        if self.held is not None or self.item is None:
            return super().image
        return open_item(self.item).image


def open_item(item: Item) -> ItemPhoto:
    """Return an item's photo, held.

    Raises:
        ImageError: it cannot be fetched or read.
    """
    data = fetch(item)
    photo = open_encoded(data, item.path)
    digest = sha256(data).hexdigest()
    return ItemPhoto(photo.held, photo.source, photo.notices, item, content_sha256=digest)


def fetch(item: Item) -> bytes:
    """Return the bytes of an item's image file.

    Raises:
        ImageError: they cannot be had.
    """
    try:
        if item.container is None:
            return _read_address(item.path) if REMOTE.match(item.path) else read_file(item.path)
        if item.container.startswith(DATASETS):
            return _read_row(item.container, item.offset)
        return _read_member(item.container, item.offset, item.length)
    except ImageError:
        raise
    except UNREADABLE as error:
        raise ImageError(
            f"{item.path}: cannot be fetched ({type(error).__name__}: {error})"
        ) from error


def _read_address(address: str) -> bytes:
    with open_binary(address) as file:
        return bytes(file.read())


def _read_member(archive: str, offset: int, length: int) -> bytes:
    if REMOTE.match(archive):
        file = _opened(archive, os.getpid())
        file.seek(offset)
        data = bytes(file.read(length))
    else:
        with open_binary(archive) as file:
            file.seek(offset)
            data = file.read(length)
    if len(data) < length:
        raise ImageError(f"{archive}: cut short; copy or download it again")
    return data


@lru_cache(maxsize=8)
def _opened(archive: str, process: int) -> Any:
    """Open a remote archive once per process: its images are read one after the other."""
    del process
    return open_binary(archive).open()


def _read_row(container: str, row: int) -> bytes:
    column, _, folder = container.removeprefix(DATASETS).partition(":")
    cell = open_data_set(folder, column)[row][column]
    if cell["bytes"] is None:
        return read_file(cell["path"])
    return bytes(cell["bytes"])


@lru_cache(maxsize=8)
def open_data_set(folder: str, column: str) -> Any:
    """Open a data set that `datasets` saved to disk; its images stay encoded."""
    import datasets

    library: Any = datasets
    rows = library.load_from_disk(folder)
    return rows.cast_column(column, library.Image(decode=False))


class Items(Sequence[Item]):
    """The list of items as a table: millions of them take little memory."""

    def __init__(self, table: Table) -> None:
        """table: the columns of `LISTING`, then the user's own."""
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, number: Any) -> Any:
        """Return one item, or a list of them for a slice."""
        if isinstance(number, slice):
            first, stop, _ = number.indices(len(self))
            return list(self._items(first, stop))
        return next(self._items(int(number), int(number) + 1))

    def _items(self, first: int, stop: int) -> Iterator[Item]:
        part = self.table.select(list(LISTING_COLUMNS)).slice(first, stop - first)
        for index, row in enumerate(part.to_pylist(), first):
            prompts = row.pop("prompts")
            yield Item(index=index, prompts=None if prompts is None else tuple(prompts), **row)

    @property
    def extras(self) -> list[str]:
        """Names of the user's own columns."""
        return [name for name in self.table.column_names if name not in LISTING_COLUMNS]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the list: ids, places, prompts and the user's own columns."""
        digest = sha256(json.dumps(self.table.column_names).encode())
        # Row by row: how the table is cut into batches must not matter.
        for batch in self.table.to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return digest.hexdigest()
