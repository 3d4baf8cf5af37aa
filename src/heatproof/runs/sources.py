"""What `heatproof run` is pointed at, as a list of items: files, folders, manifests, archives."""

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heatproof.checking import IMAGE_ENDINGS
from heatproof.errors import InputError
from heatproof.runs import manifests, shards
from heatproof.store.files import REMOTE
from heatproof.store.items import LISTING, Items
from heatproof.store.schema import LISTING_COLUMNS, Table

KINDS = "an image, a folder, a glob, a manifest (.csv, .parquet, .jsonl), a .tar, a saved data set"
MANIFESTS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
SAVED = ("state.json", "dataset_dict.json")
"""Files by which a folder is known as a data set that `datasets` saved to disk."""


def list_items(
    sources: Sequence[str], *, prompt_column: str | None = None, most: int | None = None
) -> Items:
    """List the images of all sources, in the order of the sources and, in each, of its names.

    Args:
        prompt_column: the column of manifests, or the ending of an archive's texts, that holds
            each image's own prompts.
        most: only the first so many.

    Raises:
        InputError: a source is not there, or holds no image; ids stand twice in a manifest.
    """
    tables = [_list_one(source, prompt_column, len(sources) > 1) for source in sources]
    table = pa.concat_tables(tables, promote_options="permissive")
    table = table.select([*LISTING_COLUMNS, *_extras(table)])
    if most is not None:
        table = table.slice(0, most)
    _check_ids(table)
    return Items(table.combine_chunks())


def _extras(table: Table) -> list[str]:
    return [name for name in table.column_names if name not in LISTING_COLUMNS]


def _check_ids(table: Table) -> None:
    counts = pc.value_counts(table.column("id"))  # pyright: ignore
    if len(counts) == table.num_rows:
        return
    twice = next(row["values"] for row in counts.to_pylist() if row["counts"] > 1)
    raise InputError(
        f"the id {twice!r} stands for more than one image; ids must differ: give each row of the "
        "manifest an id of its own, or each source once"
    )


def _list_one(source: str, prompt_column: str | None, several: bool) -> Table:
    source = source.removeprefix("file://")
    lower = source.lower().rstrip("/")
    if any(sign in source for sign in "*?[") and not _exists(source):
        table = _many(_globbed(source), prompt_column)
    elif lower.endswith(MANIFESTS):
        table = manifests.read(_existing(source), prompt_column)
    elif lower.endswith((".tar", ".tar.gz", ".tgz")):
        table = shards.read(_existing(source), prompt_column)
    elif lower.endswith(IMAGE_ENDINGS) and not _is_folder(source):
        table = _files([source])
    elif _is_folder(source):
        table = _folder(source, prompt_column, several)
    else:
        raise InputError(f"{source}: {_why_not(source)}; expected {KINDS}")
    if not table.num_rows:
        raise InputError(f"{source}: no image in it; expected {KINDS}")
    return table


def _existing(source: str) -> str:
    if not _exists(source):
        raise InputError(f"{source}: no such file; check the path")
    return source


def _exists(source: str) -> bool:
    if not REMOTE.match(source):
        return os.path.exists(source)  # noqa: PTH110 (that of Path raises on odd names)
    filesystem, path = _remote(source)
    return bool(filesystem.exists(path))


def _is_folder(source: str) -> bool:
    if not REMOTE.match(source):
        return os.path.isdir(source)  # noqa: PTH112 (that of Path raises on odd names)
    filesystem, path = _remote(source)
    return bool(filesystem.isdir(path))


def _why_not(source: str) -> str:
    return "not an image by its name" if _exists(source) else "no such file or folder"


def _remote(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{address}: cannot be opened ({error})") from None


def _globbed(pattern: str) -> list[str]:
    if REMOTE.match(pattern):
        filesystem, path = _remote(pattern)
        return sorted(str(filesystem.unstrip_protocol(name)) for name in filesystem.glob(path))
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return sorted(name for name in names if not Path(name).is_dir())


def _many(names: list[str], prompt_column: str | None) -> Table:
    """Return the items of a glob's files: images, or archives and manifests."""
    images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
    others = [
        name for name in names if name.lower().endswith((*MANIFESTS, ".tar", ".tar.gz", ".tgz"))
    ]
    tables = [_files(images)] if images or not others else []
    tables += [_list_one(name, prompt_column, True) for name in others]
    return pa.concat_tables(tables, promote_options="permissive")


def _files(paths: Iterable[str], ids: Iterable[str] | None = None) -> Table:
    paths = list(paths)
    return table_of(paths if ids is None else list(ids), paths)


def table_of(ids: Sequence[str], paths: Sequence[str], **more: Any) -> Table:
    """Return a list of items; columns that are not given are null, or 0."""
    count = len(ids)
    columns: dict[str, Any] = {
        "id": ids,
        "path": paths,
        "container": [None] * count,
        "offset": [0] * count,
        "length": [0] * count,
        "prompts": [None] * count,
        **more,
    }
    # Bytes of a file's name that are not UTF-8 cannot stand in a table.
    for name in ("id", "path"):
        bad = next((text for text in columns[name] if not _is_utf8(text)), None)
        if bad is not None:
            raise InputError(f"{bad!r}: the name is not UTF-8; a table cannot hold it; rename it")
    return pa.table([pa.array(columns[name], LISTING.field(name).type) for name in columns],
                    names=list(columns))  # fmt: skip


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


# --- folders ----------------------------------------------------------------------------------


def _folder(source: str, prompt_column: str | None, several: bool) -> Table:
    root = source.rstrip("/") or "/"
    if REMOTE.match(source):
        filesystem, path = _remote(root)
        names = sorted(str(name) for name in filesystem.find(path))
        images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
        prefix = path.rstrip("/") + "/"
        ids = [name.removeprefix(prefix) for name in images]
        paths = [str(filesystem.unstrip_protocol(name)) for name in images]
    else:
        if any((Path(source) / name).is_file() for name in SAVED):
            return shards.read_saved(source, prompt_column)
        ids = _walk(root, lambda name: name.lower().endswith(IMAGE_ENDINGS))
        paths = [f"{root.rstrip('/')}/{name}" for name in ids]
    # Two folders may hold the same names.
    return _files(paths, [f"{root}/{name}" for name in ids] if several else ids)


def _walk(root: str, wanted: Callable[[str], bool]) -> list[str]:
    """Return the files below a folder, relative to it, in order; hidden ones are left out."""
    found: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.path.relpath(folder, root)
        own = sorted(name for name in names if wanted(name) and not name.startswith("."))
        found += [name if place == "." else f"{place}/{name}" for name in own]
    return found
