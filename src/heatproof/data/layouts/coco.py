"""COCO 2017 and 2014 (Lin et al., ECCV 2014): instances with masks, captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from heatproof.data import masks
from heatproof.data.layouts.reading import LayoutError, Sample, json_of, picture
from heatproof.data.lazy import Files, Lazy
from heatproof.data.pictured import Pictured, Thing, visible
from heatproof.images import Frame, frame_of

Annotation = Mapping[str, Any]
WRONG = (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError)
"""What content raises that is not laid out as it is read."""


@dataclass(frozen=True)
class Image:
    """A picture as a file of COCO's speaks of it; size is (width, height) where it is said."""

    name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Instances:
    """What an instances file says: categories by id, pictures by id, each one's annotations."""

    names: dict[int, str]
    pictures: dict[int, Image]
    of: dict[int, list[Annotation]]

    @property
    def labels(self) -> dict[int, int]:
        """Each category's place among the sorted ids: the label of its prompt."""
        return {category: label for label, category in enumerate(sorted(self.names))}

    def prompts(self, template: str) -> tuple[str, ...]:
        return tuple(template.format(self.names[category]) for category in sorted(self.names))


def instances(path: Path) -> Instances:
    """The file's content, its parts checked against each other."""
    content = _content(path, ("images", "annotations", "categories"))
    wrong = f"{path} is not laid out as COCO's"
    try:
        names = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        pictures = {int(each["id"]): _image(each) for each in content["images"]}
        of: dict[int, list[Annotation]] = {}
        for each in content["annotations"]:
            number = int(each.get("id", -1))
            if lacks := _lacks(each, names, pictures):
                raise LayoutError(f"{wrong}: annotation {number} {lacks}")
            of.setdefault(int(each["image_id"]), []).append(each)
    except WRONG as error:
        raise LayoutError(
            f"{wrong} ({type(error).__name__}: {error}); expected images, annotations and "
            "categories, each with its id"
        ) from None
    return Instances(names, pictures, of)


def _image(content: Annotation) -> Image:
    if not isinstance(content.get("file_name"), str):
        raise TypeError(f"image {content['id']} has the file_name {content.get('file_name')!r}")
    sized = "width" in content and "height" in content
    size = (int(content["width"]), int(content["height"])) if sized else None
    return Image(content["file_name"], size)


def _lacks(annotation: Annotation, names: Mapping[int, str], pictures: Mapping[int, Image]) -> str:
    if int(annotation["category_id"]) not in names:
        return f"is of category {annotation['category_id']}, which `categories` lacks"
    if int(annotation["image_id"]) not in pictures:
        return f"is of image {annotation['image_id']}, which `images` lacks"
    if "segmentation" not in annotation and "mask_file" not in annotation:
        return "has no segmentation"
    return ""


def mask_in(
    annotation: Annotation, image: Image, frame: Frame, *, stored: bool = True
) -> Bool[np.ndarray, "row col"]:
    """The annotation's mask on the upright photograph. Polygons are drawn on the size that the
    file gives its image, or on the photograph's own.

    Raises:
        InputError: the mask cannot be read, or does not fit.
    """
    what, code = f"the mask of annotation {annotation.get('id')}", annotation["segmentation"]
    size = image.size or frame.upright
    try:
        if isinstance(code, Mapping):
            size = (int(code["size"][1]), int(code["size"][0]))
        masks.expect_size(size, frame, what)  # before a canvas of any size is made
        mask = masks.decoded(code, (size[1], size[0]))
    except WRONG as error:
        raise LayoutError(
            f"{what} is not laid out as COCO's ({type(error).__name__}: {error}); expected "
            "polygons or run lengths with their size"
        ) from None
    return masks.fitted(mask, frame, what, stored=stored)


def read(root: Path, sample: Sample, template: str) -> Pictured:
    """One thing an instance. Crowds are no things: their pixels are unjudged for their category.

    Pictures without instances are left out, and so are those that show a category as a crowd
    alone: it is neither to be found there nor absent.
    """
    path = _instances_file(root)
    found = instances(path)
    pictures = root / path.stem.removeprefix("instances_")
    if not pictures.is_dir():
        raise LayoutError(
            f"got no folder {pictures.name!r} in {root}, expected COCO's pictures there"
        )
    chosen = sample.of([number for number in sorted(found.of) if _countable(found.of[number])])
    if not chosen:
        raise LayoutError(f"got no picture with an instance in {path}")
    paths = [picture(pictures / found.pictures[n].name, path.name) for n in chosen]

    def things(row: int) -> tuple[Thing, ...]:
        number = chosen[row]
        frame = frame_of(paths[row])
        each = [
            (annotation, mask_in(annotation, found.pictures[number], frame))
            for annotation in found.of[number]
        ]
        crowds: dict[int, np.ndarray] = {}
        for annotation, mask in each:
            if annotation.get("iscrowd"):
                kind = int(annotation["category_id"])
                crowds[kind] = crowds.get(kind, False) | mask
        return visible(
            Thing(found.labels[kind], mask, mask | ~crowds[kind] if kind in crowds else None)
            for annotation, mask in each
            if not annotation.get("iscrowd")
            for kind in [int(annotation["category_id"])]
        )

    return Pictured(
        "COCO",
        Files(paths),
        Lazy(things, range(len(chosen))),
        found.prompts(template),
        sample.seed,
    )


def _countable(annotations: list[Annotation]) -> bool:
    crowds = {int(each["category_id"]) for each in annotations if each.get("iscrowd")}
    singles = {int(each["category_id"]) for each in annotations if not each.get("iscrowd")}
    return bool(singles) and crowds <= singles


def _instances_file(root: Path) -> Path:
    """The validation set's where it is there, else the only one."""
    found = sorted((root / "annotations").glob("instances_*.json"))
    validation = [each for each in found if each.stem.startswith("instances_val")]
    if validation:
        return validation[-1]
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "no instances_*.json"
        raise LayoutError(
            f"got {names} in {root / 'annotations'}, expected instances_val2017.json or one other"
        )
    return found[0]


# --- with captions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoPicture:
    """A picture of COCO with its captions and its instances by category (crowds left out)."""

    path: Path
    size: tuple[int, int]
    """(height, width)"""
    captions: tuple[str, ...]
    instances: tuple[tuple[str, Any], ...]
    """(category, segmentation)"""


def coco(folder: Path) -> list[CocoPicture]:
    """COCO 2017 (or 2014): FOLDER/annotations/captions_val*.json, instances_val*.json beside it,
    pictures in FOLDER/val*. Pictures in order of their ids; those without captions are left out."""
    captions = _annotations(folder, "captions")
    file = _annotations(folder, "instances")
    year = captions.stem.removeprefix("captions_")
    pictures = folder / year
    if not pictures.is_dir():
        raise LayoutError(f"got no folder {year!r} in {folder}, expected COCO's pictures there")
    said, things = _content(captions, ("images", "annotations")), instances(file)
    spoken: dict[int, list[str]] = {}
    try:
        for each in said["annotations"]:
            spoken.setdefault(int(each["image_id"]), []).append(
                " ".join(str(each["caption"]).split())
            )
        images = {int(each["id"]): _image(each) for each in said["images"]}
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
    things: Instances,
    number: int,
    captions: tuple[str, ...],
    said_by: str,
) -> CocoPicture:
    if image.size is None:
        raise KeyError(f"height of image {number}")
    instances_of = tuple(
        (things.names[int(each["category_id"])], each["segmentation"])
        for each in things.of.get(number, ())
        if not each.get("iscrowd")
    )
    path = picture(folder / image.name, said_by)
    width, height = image.size
    return CocoPicture(path, (height, width), captions, instances_of)


def coco_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Polygons (lists of x, y) or run lengths as a mask of (height, width)."""
    return masks.decoded(segmentation, size)


def _annotations(folder: Path, kind: str) -> Path:
    found = sorted((folder / "annotations").glob(f"{kind}_val*.json"))
    if not found:
        raise LayoutError(
            f"got no {kind}_val*.json in {folder / 'annotations'}, expected COCO's layout: "
            "annotations/captions_val2017.json, annotations/instances_val2017.json, val2017/*.jpg"
        )
    return found[-1]


def _content(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    content = json_of(path)
    missing = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if missing:
        raise LayoutError(f"{path} has no {missing[0]!r}, expected COCO's annotations")
    return content
