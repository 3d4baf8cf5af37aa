"""Pictures with objects whose place and name are known: what maps are held against.

`load` reads any folder in COCO's layout (`heatproof scenes render` writes one): `instances.json`
beside `images/`. Masks are COCO's polygons, uncompressed run lengths, or PNG files named by
`"mask_file"`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from heatproof.data.scenes.files import mask_of
from heatproof.errors import InputError


@dataclass(frozen=True)
class Thing:
    """One object: which prompt names it, and its mask in pixels of the photograph."""

    label: int
    mask: Bool[np.ndarray, "row col"]

    @property
    def size(self) -> float:
        """The share of the picture that it covers."""
        return float(self.mask.mean())


@dataclass(frozen=True, eq=False)
class Pictured:
    """Photographs, their objects, and the prompts that name objects.

    `prompts[thing.label]` names a thing; a prompt that names no thing of a photograph is absent
    there, so all objects that a prompt could name must be listed. `seed` is where chance entered.
    """

    name: str
    photos: tuple[Image.Image, ...]
    things: tuple[tuple[Thing, ...], ...]
    prompts: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.photos)

    def first(self, count: int | None) -> Pictured:
        """The first `count` photographs (all of them where there are fewer)."""
        if count is None or count >= len(self):
            return self
        return Pictured(
            self.name, self.photos[:count], self.things[:count], self.prompts, self.seed
        )


def load(folder: str | Path, *, template: str = "a {}", most: int | None = None) -> Pictured:
    """The photographs of a folder that show an object; `template` makes a prompt of a name.

    Raises:
        InputError: the folder is not laid out so, or its files do not fit each other.
    """
    root = Path(folder)
    content = _json(root / "instances.json")
    try:
        names = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        images = {int(each["id"]): each for each in content["images"]}
        of: dict[int, list[Mapping[str, Any]]] = {}
        for each in content["annotations"]:
            of.setdefault(int(each["image_id"]), []).append(each)
        labels = {category: label for label, category in enumerate(sorted(names))}
        chosen = [image for image in images.values() if int(image["id"]) in of][:most]
        photos = tuple(_photo(root / "images" / str(image["file_name"])) for image in chosen)
        things = tuple(
            tuple(
                Thing(labels[int(a["category_id"])], _mask(root, a, photo.size))
                for a in of[int(image["id"])]
            )
            for image, photo in zip(chosen, photos, strict=True)
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{root / 'instances.json'} is not laid out as COCO's ({type(error).__name__}: "
            f"{error}); expected images, annotations and categories"
        ) from None
    if not photos:
        raise InputError(f"{root}: no picture has an annotation; expected at least one")
    prompts = tuple(template.format(names[category]) for category in sorted(names))
    return Pictured(str(root), photos, things, prompts)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError:
        raise InputError(
            f"{path.parent}: no instances.json in it; expected a folder such as `heatproof scenes "
            "render` writes"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected COCO's instances")
    return content


def _photo(path: Path) -> Image.Image:
    from heatproof.images import open_image

    return open_image(path).image


def _mask(
    root: Path, annotation: Mapping[str, Any], size: tuple[int, int]
) -> Bool[np.ndarray, "row col"]:
    """The annotation's mask; `size` is (width, height) of its photograph."""
    if "mask_file" in annotation:
        path = root / str(annotation["mask_file"])
        mask = np.asarray(_photo(path).convert("L")) > 127
    else:
        code = annotation["segmentation"]
        mask = _polygons(code, size) if isinstance(code, Sequence) else _lengths(code)
    if mask.shape != (size[1], size[0]):
        raise InputError(
            f"the mask of annotation {annotation.get('id')} has {mask.shape[1]} x {mask.shape[0]} "
            f"pixels, its picture {size[0]} x {size[1]}"
        )
    return mask


def _lengths(code: Mapping[str, Any]) -> Bool[np.ndarray, "row col"]:
    counts, size = code["counts"], (int(code["size"][0]), int(code["size"][1]))
    if isinstance(counts, str):
        raise InputError("got compressed run lengths; expected polygons or a list of counts")
    if sum(counts) != size[0] * size[1]:
        raise InputError(f"run lengths add up to {sum(counts)}, not to {size[0]} x {size[1]}")
    return mask_of(counts, size)


def _polygons(
    polygons: Sequence[Sequence[float]], size: tuple[int, int]
) -> Bool[np.ndarray, "row col"]:
    canvas = Image.new("1", size)
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([float(x) for x in polygon], fill=1)
    return np.asarray(canvas, dtype=bool)
