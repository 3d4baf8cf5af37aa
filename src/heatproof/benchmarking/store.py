"""Store every single value chunk by chunk as Parquet, so that a run that was stopped resumes.

    parts/manifest.json            what was asked for, and what was left out and why
    parts/values-00000.parquet     a row for each item, method and metric of chunk 0
    parts/curves-00000.parquet     the curves of the metrics that have one

Of a chunk the values are written last, so that a chunk whose values are there is done.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from heatproof.errors import InputError
from heatproof.whole_files import write_whole

Kind = Literal["values", "curves"]
KINDS: tuple[Kind, ...] = ("values", "curves")
Table = Any
"""A pyarrow table: pyarrow has no types."""
_WORD = pa.dictionary(pa.int32(), pa.string())
_ITEM: list[tuple[str, pa.DataType]] = [
    ("item", pa.int64()),
    ("image", _WORD),
    ("prompt", _WORD),
    ("right", pa.bool_()),
    ("method", _WORD),
    ("settings", _WORD),
    ("metric", _WORD),
    ("metric_settings", _WORD),
]
SCHEMAS: dict[Kind, pa.Schema] = {
    "values": pa.schema([*_ITEM, ("value", pa.float64())]),
    "curves": pa.schema(
        [*_ITEM, ("fractions", pa.list_(pa.float32())), ("heights", pa.list_(pa.float32()))]
    ),
}
"""`item` counts the data's pictures, `right` is the model's answer to the item's prompt (null
where the data do not tell), settings are JSON; a value is NaN where the metric
has no meaning for the item."""
SECONDS = b"seconds"


class ResultStore:
    """The parts of one benchmark in a folder; a folder of another benchmark is refused."""

    def __init__(self, folder: Path, order: Mapping[str, Any]) -> None:
        self.folder, self.order = folder, json.loads(json.dumps(order))
        self.notes: dict[str, Any] = {}
        path = folder / "manifest.json"
        if path.is_file():
            self.notes = self._same(path)
        # Without its manifest nobody knows what the parts were measured with.
        elif self.done():
            raise InputError(f"{folder} holds parts without a manifest; try another -o")

    def _same(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text("utf-8"))
            other, notes = dict(found["order"]), dict(found["notes"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is no manifest of a benchmark; try another -o") from None
        # All differences are named: one of them is what the user did not mean to change.
        keys = [k for k in {**other, **self.order} if other.get(k) != self.order.get(k)]
        if keys:
            theirs = "; ".join(f"{k} {_short(other.get(k))}" for k in keys[:3])
            raise InputError(
                f"{path.parent.parent} holds another benchmark ({theirs}; "
                f"now {'; '.join(_short(self.order.get(k)) for k in keys[:3])}); try another -o"
            )
        return notes

    def note(self, **notes: Any) -> None:
        """Write down what is known before the first chunk, as a resumed run will read it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"order": self.order, "notes": {**self.notes, **notes}}, indent=1)
        write_whole(self.folder / "manifest.json", lambda path: path.write_text(text, "utf-8"))
        self.notes = json.loads(text)["notes"]

    def path(self, kind: Kind, chunk: int) -> Path:
        """Return where a part lies."""
        return self.folder / f"{kind}-{chunk:05d}.parquet"

    def has(self, chunk: int) -> bool:
        """Return whether the chunk is done and can be read."""
        path = self.path("values", chunk)
        if not path.is_file():
            return False
        try:
            # The schema stands at the end of the file: a part that was cut off has none.
            return pq.read_schema(path).equals(SCHEMAS["values"])
        except (OSError, pa.ArrowException):
            return False  # a disk that was full or lost it: the chunk is measured again

    def done(self) -> list[int]:
        """Return the chunks that are there, in order."""
        return sorted(int(path.stem[-5:]) for path in self.folder.glob("values-*.parquet"))

    def add(
        self,
        chunk: int,
        values: Mapping[str, Sequence[Any]],
        curves: Mapping[str, Sequence[Any]],
        seconds: Mapping[str, float],
    ) -> None:
        """Write a chunk: columns by name, and the seconds that each method and metric took."""
        both: tuple[tuple[Kind, Mapping[str, Sequence[Any]]], ...] = (
            ("curves", curves),
            ("values", values),
        )
        for kind, columns in both:
            schema = SCHEMAS[kind]
            arrays = [pa.array(columns[f.name], _plain(f.type)).cast(f.type) for f in schema]
            table = pa.Table.from_arrays(arrays, schema=schema)
            if kind == "values":
                # In the file itself: a chunk is done with all that belongs to it, or not at all.
                table = table.replace_schema_metadata({SECONDS: json.dumps(seconds).encode()})
            path = self.path(kind, chunk)
            write_whole(path, partial(_write_table, table))

    def tables(self, kind: Kind) -> Iterator[Table]:
        """Yield the parts in order."""
        for chunk in self.done():
            yield pq.read_table(self.path(kind, chunk)).replace_schema_metadata(None)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each method and metric took, over all parts."""
        total: dict[str, float] = {}
        for chunk in self.done():
            metadata = pq.read_schema(self.path("values", chunk)).metadata or {}
            for name, took in json.loads(metadata.get(SECONDS, b"{}")).items():
                total[name] = total.get(name, 0.0) + took
        return total

    def join(self, kind: Kind, path: Path) -> None:
        """Write all parts into one file, a part at a time."""

        def write(unfinished: Path) -> None:
            with pq.ParquetWriter(unfinished, SCHEMAS[kind], compression="zstd") as writer:
                for table in self.tables(kind):
                    writer.write_table(table)

        write_whole(path, write)


def _plain(kind: Any) -> Any:
    return pa.string() if pa.types.is_dictionary(kind) else kind


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write_table(table: Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")
