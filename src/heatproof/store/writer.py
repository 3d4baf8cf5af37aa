"""Write a store: begin it or go on with it, part by part."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from heatproof.errors import InputError
from heatproof.store import manifest as manifests
from heatproof.store.files import StoreFiles
from heatproof.store.items import Items
from heatproof.store.ranges import Range, overlapping, range_of
from heatproof.store.schema import Table, as_bytes, digest_of
from heatproof.store.store import FAILED, MAPS, Store


def begin(address: str, manifest: manifests.Manifest, items: Items) -> tuple[Store, list[str]]:
    """Begin a store, or open the one that an equal run has begun; call it under its lock.

    Returns:
        The store, and notices of what is different though it changes no setting (versions).

    Raises:
        InputError: there is a store of another run; the line names all that changed.
    """
    files = StoreFiles(address)
    then = manifests.read(files)
    if then is None:
        if files.names(MAPS):
            # Without its manifest nobody knows what the parts were made with.
            raise InputError(f"{address} holds parts without a manifest; try another -o")
        # The manifest is written last: a store that has one has its list of items.
        files.write(manifests.LISTING, as_bytes(items.table, {}))
        manifests.write(files, manifest)
        return Store(address), []
    differ = manifests.changes(then["run"], manifest["run"])
    if differ:
        sources = [_sources_changed(files, items)] if _listed(then) != _listed(manifest) else []
        settings = [line for line in differ if not line.startswith("sources")]
        manifests.refuse(str(address), [*sources, *settings])
    other = manifests.changes(then["environment"], manifest["environment"])
    notice = "the store was begun in another environment, whose maps may differ by rounding: "
    return Store(address), [notice + "; ".join(other)] if other else []


def _listed(manifest: manifests.Manifest) -> Any:
    return manifest["run"].get("sources")


def _sources_changed(files: StoreFiles, items: Items) -> str:
    old = Items(pq.read_table(io.BytesIO(files.read(manifests.LISTING))))
    before, after = (set(own.table.column("id").to_pylist()) for own in (old, items))
    new, gone = sorted(after - before), sorted(before - after)
    parts = [f"{len(old)} images then, {len(items)} now"]
    parts += [f"new: {new[0]}"] if new else []
    parts += [f"gone: {gone[0]}"] if gone else []
    return "sources: " + ", ".join(parts)


def settle(store: Store) -> None:
    """Remove what a killed run left behind: unfinished files, failures without maps, overlaps."""
    files = store.files
    for folder in ("", MAPS, FAILED):
        for name in files.names(folder, hidden=True):
            if name.endswith(".tmp"):
                files.remove(f"{folder}/{name}".lstrip("/"))
    ranges = [own for name in files.names(MAPS) if (own := range_of(name))]
    for own in overlapping(ranges):
        files.remove(f"{MAPS}/{own.name}")
    done = {own.name for own in store.parts()}
    for name in files.names(FAILED):
        if name not in done:
            files.remove(f"{FAILED}/{name}")


def write_part(
    files: StoreFiles, part: Range, rows: Table, failures: Table, facts: Mapping[str, Any]
) -> int:
    """Write the rows and failures of a range of items; return the bytes of both.

    The rows come last: a range whose rows are there is done, with all that belongs to it.
    """
    written = 0
    if failures.num_rows:
        data = as_bytes(failures, {})
        files.write(f"{FAILED}/{part.name}", data)
        written += len(data)
    about = {**facts, "rows_sha256": digest_of(rows)}
    data = as_bytes(rows, {"heatproof": json.dumps(about)})
    files.write(f"{MAPS}/{part.name}", data)
    return written + len(data)
