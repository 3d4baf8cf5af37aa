"""The columns of a store: one row per image, method and prompt; failures apart.

A map is a flat list in row-major order, of fixed length where all grids are alike: every reader of
Parquet takes that. Its shape is in `grid_rows` and `grid_cols`.
"""

import io
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from heatproof.errors import InputError

Table = Any
"""A pyarrow table: pyarrow has no types."""
MapType = Literal["float16", "float32"]
MAP_TYPES: tuple[MapType, ...] = ("float16", "float32")
LIGHTS = ("same_model", "same_derivatives", "follows_the_prompt", "input")
FIGURES = (
    "parity_gap",
    "parity_limit",
    "change_under_empty",
    "change_under_gibberish",
    "change_under_unrelated",
    "common_share",
)
"""Names in `Certificate.figures`, with underscores for spaces."""
IMAGE: list[tuple[str, Any]] = [
    ("index", pa.int64()),
    ("id", pa.string()),
    ("path", pa.string()),
    ("content_sha256", pa.string()),
]
"""Columns that name an image: `index` is its place in the list of items."""
FAILURES = pa.schema([*IMAGE[:3], ("reason", pa.string())])
VALUES = ("map", "errors")
LISTING_COLUMNS = ("id", "path", "container", "offset", "length", "prompts")
"""Columns of the list of items; all others are the user's own, carried along."""


def maps_schema(grid: tuple[int, int] | None, map_type: MapType, extras: Sequence[Any] = ()) -> Any:
    """Return the schema of the rows.

    Args:
        grid: rows and columns of patches; None where each image has a grid of its own.
        extras: pyarrow fields of the user's own columns.

    Raises:
        InputError: one of these has the name of a column of the store.
    """
    value = pa.from_numpy_dtype(map_type)
    values = pa.list_(value, -1 if grid is None else grid[0] * grid[1])
    fields: list[tuple[str, Any]] = [
        *IMAGE,
        ("method", pa.string()),
        ("prompt_number", pa.int32()),
        ("prompt", pa.string()),
        ("score", pa.float32()),
        ("explained_score", pa.float32()),
        ("map", values),
        ("errors", values),
        ("map_rounding", pa.float32()),
        ("grid_rows", pa.int32()),
        ("grid_cols", pa.int32()),
        ("verdict", pa.string()),
        ("holds", pa.bool_()),
        *((name, pa.string()) for name in LIGHTS),
        *((name, pa.float32()) for name in FIGURES),
        ("parity_measured", pa.bool_()),
        ("certificate", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *((name, pa.float32()) for name in ("left", "top", "right", "bottom")),
        ("notices", pa.string()),
        ("seconds", pa.float32()),
    ]
    schema = pa.schema(fields)
    for field in extras:
        if field.name in schema.names:
            raise InputError(
                f"got the column {field.name!r}, which is a name of the store's own; rename it"
            )
        schema = schema.append(field)
    return schema


def table_of(columns: Mapping[str, Any], schema: Any) -> Table:
    """Return a table of these columns, in the schema's order and types."""
    arrays = [_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Any, kind: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        array: Any = values
        return array if array.type == kind else array.cast(kind)
    return pa.array(values, kind)


def digest_of(table: Table) -> str:
    """Return the SHA-256 of all values, however the file is cut and compressed."""
    digest = sha256()
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name == "map":
            digest.update(column.flatten().to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def as_bytes(table: Table, metadata: Mapping[str, str]) -> bytes:
    """Return a Parquet file."""
    table = table.replace_schema_metadata(dict(metadata) or None)
    # Floats compress better with their bytes apart; dictionaries are for what repeats.
    floats = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in VALUES}
    names = [field.name for field in table.schema if field.name not in VALUES]
    options: dict[str, Any] = {}
    if "map" in table.column_names:
        options = {"use_dictionary": names, "column_encoding": floats}
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True, **options)
    return file.getvalue()
