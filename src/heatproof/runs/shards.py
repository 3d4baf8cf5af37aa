"""Images inside other files: WebDataset's tar shards, and data sets that `datasets` saved."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from heatproof.checking import IMAGE_ENDINGS
from heatproof.errors import InputError
from heatproof.runs.manifests import as_prompts
from heatproof.store.files import open_binary
from heatproof.store.items import DATASETS, LISTING
from heatproof.store.schema import LISTING_COLUMNS, Table

TEXTS = (".txt", ".cls")
"""Endings of texts beside an image in a shard, carried along as columns."""


@dataclass
class _Sample:
    """What a shard holds under one key."""

    name: str = ""
    offset: int = 0
    length: int = 0
    texts: dict[str, Any] = field(default_factory=dict[str, Any])


def read(source: str, prompt_column: str | None) -> Table:
    """Return the images of a tar shard by their keys, with the texts (.txt, .cls, .json) of each.

    Only headers and texts are read: the images' places in the archive are noted.

    Raises:
        InputError: it is no tar, or is compressed: places in it cannot be found again.
    """
    if not source.lower().endswith(".tar"):
        raise InputError(f"{source}: a compressed archive, expected a plain .tar; unpack it first")
    try:
        with open_binary(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            samples = dict(_samples(archive))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{source}: cannot be read as a tar ({error})") from error
    images = {key: sample for key, sample in samples.items() if sample.name}
    columns = list(dict.fromkeys(name for own in images.values() for name in own.texts))
    if prompt_column is not None and images and prompt_column not in columns:
        raise InputError(
            f"{source}: no text {prompt_column!r} beside its images, "
            f"but {', '.join(columns) or 'none'}"
        )
    shard = source.rpartition("/")[2]
    prompts: list[list[str] | None] = [None] * len(images)
    if prompt_column is not None:
        prompts = [
            as_prompts(f"{source}, {key}", own.texts.get(prompt_column))
            for key, own in images.items()
        ]
    arrays: dict[str, Any] = {
        "id": [f"{shard}/{key}" for key in images],
        "path": [f"{source}/{own.name}" for own in images.values()],
        "container": [source] * len(images),
        "offset": [own.offset for own in images.values()],
        "length": [own.length for own in images.values()],
        "prompts": prompts,
    }
    listed = [pa.array(arrays[name], LISTING.field(name).type) for name in LISTING_COLUMNS]
    extras = [name for name in columns if name != prompt_column]
    values = [
        pa.array([_text(own.texts.get(name)) for own in images.values()], pa.string())
        for name in extras
    ]
    return pa.table([*listed, *values], names=[*LISTING_COLUMNS, *extras])


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, _Sample]]:
    """Yield the samples of a shard: members of one name up to its first dot belong together."""
    sample, key = _Sample(), None
    for member in archive:
        if not member.isfile():
            continue
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        own = f"{folder}{slash}{stem}"
        if own != key:
            if key is not None:
                yield key, sample
            sample, key = _Sample(), own
        ending = f"{dot}{ending}".lower()
        if ending.endswith(IMAGE_ENDINGS):
            sample.name, sample.offset, sample.length = member.name, member.offset_data, member.size
        elif ending.endswith((*TEXTS, ".json")):
            sample.texts |= _texts(archive, member, ending)
    if key is not None:
        yield key, sample


def _texts(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> dict[str, Any]:
    file = archive.extractfile(member)
    assert file is not None
    text = file.read().decode("utf-8", "replace")
    if not ending.endswith(".json"):
        return {ending.rpartition(".")[2]: text.strip()}
    try:
        found = json.loads(text)
    except ValueError:
        return {"json": text.strip()}
    return dict(found) if isinstance(found, dict) else {"json": text.strip()}


# --- data sets on disk ------------------------------------------------------------------------


def read_saved(source: str, prompt_column: str | None) -> Table:
    """Return the images of a data set that `datasets` saved to disk (`save_to_disk`).

    Raises:
        InputError: the package `datasets` is missing, or no column holds images.
    """
    if find_spec("datasets") is None:
        raise InputError(
            f"{source} is a data set of the package datasets, which is not installed; "
            "try: pip install datasets"
        )
    splits = Path(source) / "dataset_dict.json"
    if splits.is_file():
        names: list[str] = json.loads(splits.read_text("utf-8"))["splits"]
        root = source.rstrip("/")
        tables = [_read_split(f"{root}/{name}", prompt_column, f"{name}/") for name in names]
        return pa.concat_tables(tables, promote_options="permissive")
    return _read_split(source.rstrip("/"), prompt_column, "")


def _read_split(folder: str, prompt_column: str | None, prefix: str) -> Table:
    import datasets

    library: Any = datasets
    rows = library.load_from_disk(folder)
    kinds = dict(rows.features)
    images = [name for name, kind in kinds.items() if isinstance(kind, library.Image)]
    if not images:
        raise InputError(f"{folder}: no column of images in it ({', '.join(kinds)})")
    if prompt_column is not None and prompt_column not in kinds:
        raise InputError(f"{folder}: no column {prompt_column!r} in it ({', '.join(kinds)})")
    column, count = images[0], len(rows)
    plain = {name: rows.with_format(None)[name][:] for name, kind in kinds.items()
             if isinstance(kind, library.Value)}  # fmt: skip
    ids = plain.get("id") or [f"{number}" for number in range(count)]
    prompts: list[list[str] | None] = [None] * count
    if prompt_column is not None:
        own = rows.with_format(None)[prompt_column][:]
        prompts = [as_prompts(f"{folder}, row {row}", value) for row, value in enumerate(own)]
    arrays: dict[str, Any] = {
        "id": [f"{prefix}{own}" for own in ids],
        "path": [f"{folder}/{column}/{number}" for number in range(count)],
        "container": [f"{DATASETS}{column}:{folder}"] * count,
        "offset": list(range(count)),
        "length": [0] * count,
        "prompts": prompts,
    }
    listed = [pa.array(arrays[name], LISTING.field(name).type) for name in LISTING_COLUMNS]
    extras = [name for name in plain if name not in ("id", prompt_column)]
    return pa.table(
        [*listed, *(pa.array(plain[name]) for name in extras)], names=[*LISTING_COLUMNS, *extras]
    )
