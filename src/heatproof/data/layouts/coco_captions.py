"""COCO's captions beside its instances (Chen et al., arXiv 1504.00325)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from heatproof.data import masks
from heatproof.data.layouts.classes import role_of
from heatproof.data.layouts.coco import (
    WRONG,
    Image,
    InstancesFile,
    content_of,
    image_of,
    instances,
    is_crowd,
)
from heatproof.data.layouts.reading import LayoutError, picture


@dataclass(frozen=True)
class CocoPicture:
    """An image of COCO with its captions and its instances by category (crowds left out)."""

    path: Path
    size: tuple[int, int]
    """(height, width)"""
    captions: tuple[str, ...]
    instances: tuple[tuple[str, Any], ...]
    """(category, segmentation)"""
    crowds: frozenset[str] = frozenset()
    """Categories that it shows as a crowd, too: not absent."""


def coco(folder: Path) -> list[CocoPicture]:
    """Read COCO 2017 (or 2014), in order of ids; images without captions are left out.

    FOLDER/annotations has captions_val*.json and instances_val*.json; images are in FOLDER/val*.
    """
    captions = _annotations(folder, "captions")
    file = _annotations(folder, "instances")
    year = captions.stem.removeprefix("captions_")
    pictures = folder / year
    if not pictures.is_dir():
        raise LayoutError(f"got no folder {year!r} in {folder}, expected COCO's pictures there")
    said, things = content_of(captions, ("images", "annotations")), instances(file)
    spoken: dict[int, list[str]] = {}
    try:
        for each in said["annotations"]:
            spoken.setdefault(int(each["image_id"]), []).append(
                " ".join(str(each["caption"]).split())
            )
        images = {int(each["id"]): image_of(each) for each in said["images"]}
        found = [
            _captioned(each, pictures, things, number, tuple(spoken[number]), captions.name)
            for number, each in sorted(images.items())
            if number in spoken
        ]
    except WRONG as error:
        raise LayoutError(
            f"{captions} is not laid out as COCO's ({type(error).__name__}: {error}); expected "
            "images with id, file_name, height and width, and annotations with captions"
        ) from None
    if not found:
        raise LayoutError(f"got no picture with a caption in {captions}")
    return found


def _captioned(
    image: Image,
    folder: Path,
    things: InstancesFile,
    number: int,
    captions: tuple[str, ...],
    said_by: str,
) -> CocoPicture:
    if image.size is None:
        raise KeyError(f"height of image {number}")
    objects: list[tuple[str, Any]] = []
    crowds: set[str] = set()
    for each in things.annotations.get(number, ()):
        name = things.names[int(each["category_id"])]
        if is_crowd(each):
            crowds.add(name)
        elif role_of(name) == "object":
            objects.append((name, each["segmentation"]))
    path = picture(folder / image.name, said_by)
    width, height = image.size
    return CocoPicture(path, (height, width), captions, tuple(objects), frozenset(crowds))


def coco_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Return polygons (lists of x, y) or run lengths as a mask of (height, width)."""
    return masks.decoded(segmentation, size)


def _annotations(folder: Path, kind: str) -> Path:
    found = sorted((folder / "annotations").glob(f"{kind}_val*.json"))
    if not found:
        raise LayoutError(
            f"got no {kind}_val*.json in {folder / 'annotations'}, expected COCO's layout: "
            "annotations/captions_val2017.json, annotations/instances_val2017.json, val2017/*.jpg"
        )
    return found[-1]
