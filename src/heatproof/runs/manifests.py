"""Manifests: tables with a row per image, as CSV, Parquet or JSON lines."""

import os
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from heatproof.errors import InputError
from heatproof.store.files import REMOTE, open_binary
from heatproof.store.items import LISTING
from heatproof.store.schema import LISTING_COLUMNS, Table

PATHS = ("path", "image", "file", "filepath", "file_name", "filename", "image_path", "url")
"""Names under which the column of paths is looked for, in this order."""
PROMPTS = ("prompts", "prompt")
NESTED = "a list of texts, or one text"


def read(source: str, prompt_column: str | None) -> Table:
    """Return the items of a manifest.

    Paths are relative to the manifest's own folder. The column of prompts is `prompt_column`, or
    `prompts` or `prompt`: a list of texts or one text. `id` names images; without it, their paths
    do. All other columns are carried along.

    Raises:
        InputError: it cannot be read, or has no column of paths or prompts where one was named.
    """
    table = _load(source)
    names = table.column_names
    column = next((name for name in PATHS if name in names), None)
    if column is None:
        raise InputError(f"{source}: no column of paths in it ({_listed(names)}); name one 'path'")
    if prompt_column is not None and prompt_column not in names:
        raise InputError(f"{source}: no column {prompt_column!r} in it ({_listed(names)})")
    paths: list[Any] = table.column(column).to_pylist()
    empty = next((row for row, path in enumerate(paths, 1) if not path), None)
    if empty is not None:
        raise InputError(f"{source}: row {empty} has no {column}")
    prompts = prompt_column or next((name for name in PROMPTS if name in names), None)
    columns: dict[str, Any] = {
        "id": [str(own) for own in table.column("id").to_pylist()] if "id" in names else paths,
        "path": [_beside(source, str(path)) for path in paths],
        "container": [None] * len(paths),
        "offset": [0] * len(paths),
        "length": [0] * len(paths),
        "prompts": _prompts(source, table, prompts),
    }
    arrays = [pa.array(columns[name], LISTING.field(name).type) for name in LISTING_COLUMNS]
    used = {"id", column, prompts}
    extras = [name for name in names if name not in used]
    return pa.table(
        [*arrays, *(table.column(name) for name in extras)],
        names=[*LISTING_COLUMNS, *(_free(name) for name in extras)],
    )


def _free(name: str) -> str:
    """Return the name under which a column is carried along."""
    return f"source_{name}" if name in LISTING_COLUMNS else name


def _listed(names: list[str]) -> str:
    return f"columns: {', '.join(names[:12])}" if names else "no columns"


def _load(source: str) -> Table:
    lower = source.lower()
    try:
        with open_binary(source) as file:
            if lower.endswith(".parquet"):
                return pq.read_table(file)
            if lower.endswith((".csv", ".tsv")):
                delimiter = "\t" if lower.endswith(".tsv") else ","
                # Texts stay what they are: an id of "007" is no number.
                strings = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
                return pyarrow.csv.read_csv(
                    file,
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=delimiter, newlines_in_values=True
                    ),
                    convert_options=_as_text(source, delimiter, strings),
                )
            return pyarrow.json.read_json(file)
    except (pa.ArrowException, ValueError, OSError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: cannot be read as a table ({line})") from error


def _as_text(source: str, delimiter: str, options: Any) -> Any:
    """Read ids, paths and prompts as texts."""
    with open_binary(source) as file:
        head = file.readline().decode("utf-8", "replace").lstrip("\ufeff")
    names = [name.strip().strip('"') for name in head.strip().split(delimiter)]
    options.column_types = {name: pa.string() for name in names if name in ("id", *PATHS, *PROMPTS)}
    return options


def _beside(source: str, path: str) -> str:
    if REMOTE.match(path) or os.path.isabs(path):  # noqa: PTH117 (no Path: it may be an address)
        return path
    folder = source.rpartition("/")[0]
    return f"{folder}/{path}" if folder else path


def _prompts(source: str, table: Table, column: str | None) -> list[list[str] | None]:
    if column is None:
        return [None] * table.num_rows
    return [
        as_prompts(f"{source}, row {row}", value)
        for row, value in enumerate(table.column(column).to_pylist(), 1)
    ]


def as_prompts(where: str, value: Any) -> list[str]:
    """Return an image's own prompts as a list.

    Raises:
        InputError: they are no texts, or there is none.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise InputError(f"{where}: got no prompt, expected {NESTED}")
    plain: list[Any] = texts
    if not all(isinstance(text, str) and text.strip() for text in plain):
        raise InputError(f"{where}: got an empty prompt or one that is no text, expected {NESTED}")
    return [str(text) for text in plain]
