"""A store of maps: read it row by row, image by image, or as a table."""

import io
import json
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from jaxtyping import Float

from heatproof import checking
from heatproof.errors import InputError, UnknownName
from heatproof.store import manifest as manifests
from heatproof.store.files import StoreFiles
from heatproof.store.items import Items
from heatproof.store.ranges import Range, overlapping, pending, range_of
from heatproof.store.schema import FAILURES, Table

MAPS, FAILED = "maps", "failures"


@dataclass(frozen=True)
class StoredMap:
    """One row of a store: the map of one image, by one method, for one prompt.

    Attributes:
        map: signed and unnormalised, (row, col).
        errors: standard error of each value, where the method has one.
        fields: all other columns by name.
    """

    map: Float[np.ndarray, "row col"]
    errors: Float[np.ndarray, "row col"] | None
    fields: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The image's id."""
        return str(self.fields["id"])

    @property
    def prompt(self) -> str:
        """The prompt."""
        return str(self.fields["prompt"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.fields["method"])

    @property
    def score(self) -> float:
        """The untouched model's score."""
        return float(self.fields["score"])

    @property
    def holds(self) -> bool | None:
        """Whether the row's certificate holds; None where it is not established."""
        return self.fields["holds"]


class Store:
    """The rows of a store, or those of them that a filter leaves.

    Attributes:
        manifest: what it was begun with.
    """

    def __init__(self, address: str | Path) -> None:
        """Open a store that exists; nothing but its manifest is read.

        Raises:
            InputError: there is none.
        """
        self.files = StoreFiles(address)
        found = manifests.read(self.files)
        if found is None:
            raise InputError(
                f"{checking.shown(address)}: no store (no {manifests.NAME} in it); "
                "heatproof run writes one"
            )
        self.manifest = found
        self._where: Any = None

    @property
    def address(self) -> str:
        """Where the store lies."""
        return self.files.address

    @property
    def run(self) -> dict[str, Any]:
        """What was asked for: model, methods, prompts, settings."""
        return self.manifest["run"]

    @cached_property
    def items(self) -> Items:
        """The list of the images."""
        return Items(pq.read_table(io.BytesIO(self.files.read(manifests.LISTING))))

    # --- which parts ---

    def parts(self, folder: str = MAPS) -> list[Range]:
        """Return the ranges that have a file, in order; no two overlap."""
        ranges = [own for name in self.files.names(folder) if (own := range_of(name))]
        dropped = set(overlapping(ranges))
        return sorted(own for own in ranges if own not in dropped)

    def pending(self) -> list[Range]:
        """Return the ranges of items that are still to do."""
        return pending(self.parts(), int(self.manifest["items"]))

    @property
    def complete(self) -> bool:
        """Whether all items are done."""
        return not self.pending()

    # --- rows ---

    def dataset(self, folder: str = MAPS) -> Any:
        """Return a `pyarrow.dataset` over the parts: it scans them without loading all."""
        done = self.parts()
        names = {own.name for own in done} & set(self.files.names(folder))
        paths = [self.files.place(f"{folder}/{name}") for name in sorted(names)]
        schema = self.schema if folder == MAPS else FAILURES
        if not paths:
            return ds.dataset(schema.empty_table())
        return ds.dataset(paths, schema=schema, filesystem=self.files.filesystem, format="parquet")

    @cached_property
    def schema(self) -> Any:
        """The columns of the rows."""
        parts = self.parts()
        if not parts:
            raise InputError(f"{self.address}: the store has no part yet")
        return _schema_of(self.files, parts[0]).remove_metadata()

    def table(self, columns: list[str] | None = None) -> Table:
        """Return the rows as a pyarrow table, ordered by image."""
        if columns is not None and (missing := set(columns) - set(self.schema.names)):
            raise UnknownName("column", min(missing), self.schema.names)
        return self.dataset().to_table(columns=columns, filter=self._where)

    def failures(self) -> Table:
        """Return the images that could not be read, and why."""
        return self.dataset(FAILED).to_table()

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.dataset().count_rows(filter=self._where)) if self.parts() else 0

    def filter(self, expression: Any = None, **equal: Any) -> "Store":
        """Return the store with fewer rows.

        Args:
            expression: a pyarrow expression, such as `pyarrow.dataset.field("score") > 0.3`.
            equal: values of columns, or lists of values: `method="gae", prompt=["a dog", "a cat"]`.

        Raises:
            UnknownName: no column has this name.
        """
        where = self._where
        wanted = [] if expression is None else [expression]
        for name, value in equal.items():
            if name not in self.schema.names:
                raise UnknownName("column", name, self.schema.names)
            column = ds.field(name)
            many = isinstance(value, list | tuple | set)
            wanted.append(column.isin(list(value)) if many else column == value)  # pyright: ignore
        for own in wanted:
            where = own if where is None else where & own
        view = copy(self)
        view._where = where
        return view

    def __iter__(self) -> Iterator[StoredMap]:
        """Yield the rows in order; few of them are in memory at a time."""
        if not self.parts():
            return
        for batch in self.dataset().to_batches(
            filter=self._where, batch_size=256, batch_readahead=1, fragment_readahead=1
        ):
            yield from rows_of(batch)

    def __getitem__(self, id: str) -> list[StoredMap]:
        """Return all rows of one image.

        Raises:
            InputError: there is none.
        """
        rows = list(self.filter(id=checking.text("id", id)))
        if not rows:
            raise InputError(f"{self.address}: no map of an image with the id {id!r}")
        return rows


def rows_of(batch: Any) -> Iterator[StoredMap]:
    """Yield the rows of a record batch or table."""
    names = [name for name in batch.schema.names if name not in ("map", "errors")]
    plain: list[dict[str, Any]] = batch.select(names).to_pylist()
    for number, row in enumerate(plain):
        shape = (row["grid_rows"], row["grid_cols"])
        maps, errors = (_values(batch.column(name)[number], shape) for name in ("map", "errors"))
        assert maps is not None
        yield StoredMap(maps, errors, row)


def _values(cell: Any, shape: tuple[int, int]) -> np.ndarray | None:
    if not cell.is_valid:
        return None
    return np.asarray(cell.values).astype(np.float32).reshape(shape)


def part_facts(files: StoreFiles, part: Range) -> Mapping[str, Any]:
    """Return what a part's file says of itself: counts, seconds, environment."""
    metadata: Any = _schema_of(files, part).metadata or {}
    return json.loads(metadata.get(b"heatproof", b"{}"))


def _schema_of(files: StoreFiles, part: Range) -> Any:
    place = files.place(f"{MAPS}/{part.name}")
    return pq.read_schema(place, filesystem=files.filesystem)


def open_store(address: str | Path) -> Store:
    """Open a store that `heatproof run` wrote: a folder or an fsspec address.

    Raises:
        InputError: there is no store.
    """
    if isinstance(address, str) and "://" in address:
        return Store(address)
    return Store(checking.path("address", address))
