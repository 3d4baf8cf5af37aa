"""Draw rows of a store: a report per image, with its overlays, and a page that leads to them."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatproof.certificate import KINDS, certificate_from
from heatproof.errors import ImageError, InputError
from heatproof.image_maps import ImageMaps, Record
from heatproof.models.geometry import PhotoView
from heatproof.pages import bundle
from heatproof.pages.folder import check_folder
from heatproof.store.items import open_item
from heatproof.store.store import Store, StoredMap

VIEW = ("width", "height", "left", "top", "right", "bottom")


def image_maps(store: Store) -> Iterator[ImageMaps]:
    """Yield the maps of one image by one method at a time, with its photo opened again.

    Raises:
        ImageError: the image is not there any more, or is another one.
    """
    for _, rows in groupby(store, key=lambda row: (row.fields["index"], row.method)):
        yield _from_rows(store, list(rows))


def _from_rows(store: Store, rows: Sequence[StoredMap]) -> ImageMaps:
    fields = rows[0].fields
    photo = open_item(store.items[fields["index"]])
    if photo.content_sha256 != fields["content_sha256"]:
        raise ImageError(f"{photo.source}: changed since it was explained")
    certificates = tuple(certificate_from(_certificate(store, row)) for row in rows)
    return ImageMaps(
        photo=photo,
        view=PhotoView(**{name: fields[name] for name in VIEW}),
        maps=torch.from_numpy(np.stack([row.map for row in rows])),
        scores=torch.tensor([row.score for row in rows]),
        explained_scores=torch.tensor([row.fields["explained_score"] for row in rows]),
        certificate=min(certificates, key=lambda own: KINDS.index(own.kind)),
        certificates=certificates,
        record=_record(store, rows, photo.notices),
    )


def _certificate(store: Store, row: StoredMap) -> dict[str, Any]:
    run = store.run
    about: dict[str, Any] = json.loads(row.fields["certificate"])
    own = {"weights_sha256": run["weights_sha256"], "seed": run["seed"]}
    return about | {"environment": store.manifest["environment"] | own}


def _record(store: Store, rows: Sequence[StoredMap], notices: Sequence[str]) -> Record:
    run = store.run
    method = next(own for own in run["methods"] if own["name"] == rows[0].method)
    size = run["image_size"] or "native"
    signs = method["signs"]
    return Record(
        model=run["model"],
        method=method["name"],
        settings=method["settings"],
        score=run["score"],
        prompts=tuple(row.prompt for row in rows),
        seed=run["seed"],
        notices=tuple(notices),
        image_size=size if isinstance(size, str) else "x".join(map(str, size)),
        signs=None if signs is None else (signs[0], signs[1]),
    )


def export(store: Store, folder: Path, most: int) -> tuple[Path, list[str]]:
    """Write a report per image and method, and a page that leads to them.

    Args:
        most: of the first so many.

    Returns:
        The page's path, and a line for each image that could not be drawn.

    Raises:
        InputError: the store has no row, or the folder cannot be written to.
    """
    check_folder(folder)
    reports: list[tuple[str, str, str]] = []
    left_out: list[str] = []
    several = len(store.run["methods"]) > 1
    for number, (_, group) in enumerate(
        groupby(store, key=lambda row: (row.fields["index"], row.method))
    ):
        if number == most:
            break
        rows = list(group)
        try:
            maps = _from_rows(store, rows)
        except ImageError as error:
            left_out.append(str(error))
            continue
        name = f"{number:04d}-{bundle.stem(rows[0].id)}" + (f"-{rows[0].method}" if several else "")
        bundle.save([maps], None, folder / name)
        title = f"{rows[0].id} · {rows[0].method}" if several else rows[0].id
        reports.append((title, f"{name}/report.html", maps.certificate.kind))
    if not reports:
        raise InputError(
            f"{store.address}: no row to draw; {left_out[0] if left_out else 'check the filter'}"
        )
    title = f"{len(reports)} of {int(store.manifest['items'])} images"
    return bundle.save_contents(title, reports, folder), left_out
