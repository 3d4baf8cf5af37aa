"""Check a store, and merge its parts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heatproof.errors import ImageError, InputError
from heatproof.store.items import fetch
from heatproof.store.lock import locked
from heatproof.store.ranges import Range
from heatproof.store.schema import FAILURES, digest_of
from heatproof.store.store import FAILED, MAPS, Store, part_facts
from heatproof.store.writer import settle, write_part


@dataclass(frozen=True)
class Problem:
    """What is wrong with a part; `harmful` if its rows cannot be trusted."""

    part: Range
    text: str
    harmful: bool = True


def verify(store: Store, *, sources: bool = False) -> Iterator[Problem]:
    """Read every part and yield what is wrong.

    Each item must have its rows, once, or a failure; checksums of the file's pages must hold.

    Args:
        sources: read every image again, and compare its bytes with what was explained.
    """
    for part in store.parts():
        try:
            rows, failures = _read(store, MAPS, part), _read(store, FAILED, part)
        except (OSError, pa.ArrowException) as error:
            yield Problem(part, f"{part.name} cannot be read: {' '.join(str(error).split())[:160]}")
            continue
        if digest_of(rows) != part_facts(store.files, part).get("rows_sha256"):
            yield Problem(part, f"{part.name}: its rows are not those that were written")
            continue
        yield from _counted(store, part, rows, failures)
        if sources:
            yield from _compared(store, part, rows)


def _read(store: Store, folder: str, part: Range) -> Any:
    name = f"{folder}/{part.name}"
    if folder == FAILED and not store.files.exists(name):
        return FAILURES.empty_table()
    return pq.ParquetFile(
        store.files.place(name),
        filesystem=store.files.filesystem,
        page_checksum_verification=True,
    ).read()


def _counted(store: Store, part: Range, rows: Any, failures: Any) -> Iterator[Problem]:
    failed = {int(own) for own in failures.column("index").to_pylist()}
    seen: dict[int, set[tuple[str, int]]] = {}
    columns = (rows.column(name).to_pylist() for name in ("index", "method", "prompt_number", "id"))
    items = {item.index: item.id for item in store.items[part.first : part.stop]}
    for index, method, number, own in zip(*columns, strict=True):
        keys = seen.setdefault(index, set())
        if (method, number) in keys:
            yield Problem(part, f"{part.name}: image {index} has two rows for one prompt")
            return
        keys.add((method, number))
        if items.get(index) != own:
            yield Problem(part, f"{part.name}: image {index} has the id {own!r} of another one")
            return
    methods = len(store.run["methods"])
    for index in items:
        if (index in seen) == (index in failed):
            text = "both rows and a failure" if index in seen else "neither rows nor a failure"
            yield Problem(part, f"{part.name}: image {index} has {text}")
            return
        if index in seen and len({method for method, _ in seen[index]}) != methods:
            yield Problem(part, f"{part.name}: image {index} misses a method")
            return


def _compared(store: Store, part: Range, rows: Any) -> Iterator[Problem]:
    hashes = dict(
        zip(
            rows.column("index").to_pylist(),
            rows.column("content_sha256").to_pylist(),
            strict=True,
        )
    )
    for item in store.items[part.first : part.stop]:
        if item.index not in hashes:
            continue
        try:
            same = sha256(fetch(item)).hexdigest() == hashes[item.index]
        except ImageError as error:
            yield Problem(part, str(error), harmful=False)
            continue
        if not same:
            yield Problem(part, f"{item.path}: changed since it was explained", harmful=False)


def repair(store: Store, problems: Sequence[Problem]) -> int:
    """Remove parts that cannot be trusted; the run that wrote them makes them again."""
    parts = {problem.part for problem in problems if problem.harmful}
    with locked(_local(store)):
        for part in parts:
            for folder in (MAPS, FAILED):
                store.files.remove(f"{folder}/{part.name}")
    return len(parts)


def _local(store: Store) -> Any:
    if store.files.folder is None:
        raise InputError(f"{store.address}: a remote store cannot be locked; copy it here first")
    return store.files.folder


def compact(store: Store, images: int) -> tuple[int, int]:
    """Merge neighbouring parts up to so many images each; return the parts before and after.

    A merged part is written whole before those that it holds are removed; a kill in between leaves
    both, of which `open_store` reads one, and the next `compact` or run removes the other.
    """
    with locked(_local(store)):
        settle(store)
        before = store.parts()
        for group in _groups(before, images):
            _merge(store, group)
        return len(before), len(store.parts())


def _groups(parts: Sequence[Range], images: int) -> list[list[Range]]:
    groups: list[list[Range]] = []
    for part in parts:
        last = groups[-1] if groups else []
        fits = last and last[-1].stop == part.first and part.stop - last[0].first <= images
        if fits:
            last.append(part)
        else:
            groups.append([part])
    return [group for group in groups if len(group) > 1]


def _merge(store: Store, group: Sequence[Range]) -> None:
    rows = pa.concat_tables([_read(store, MAPS, part).replace_schema_metadata() for part in group])
    failures = pa.concat_tables([_read(store, FAILED, part) for part in group])
    facts = [dict(part_facts(store.files, part)) for part in group]
    merged = facts[0] | {
        name: sum(own[name] for own in facts) for name in ("images", "failures", "seconds")
    }
    texts = {json.dumps(own["environment"], sort_keys=True) for own in facts}
    if len(texts) > 1:
        merged["environment"] = [json.loads(text) for text in sorted(texts)]
    whole = Range(group[0].first, group[-1].stop)
    write_part(store.files, whole, rows, failures, merged)
    for part in group:
        for folder in (MAPS, FAILED):
            store.files.remove(f"{folder}/{part.name}")
