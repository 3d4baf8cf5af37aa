"""COCO 2017 and 2014 (Lin et al., ECCV 2014): instances with masks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.classes import Classes
from heatproof.data.layouts.reading import LayoutError, Sample, json_of, picture_in
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.data.masks import Marked
from heatproof.data.polygons import Points, box_polygon, filled, overhang, polygons_of
from heatproof.errors import InputError
from heatproof.images import Frame, frame_of

Annotation = Mapping[str, Any]
WRONG = (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError)
"""What content raises that is not laid out as it is read."""


@dataclass(frozen=True)
class Image:
    """An image as a file of COCO's speaks of it; size is (width, height) where it is said.

    absent, partial: categories that LVIS says are not in it, and those that it lists in part.
    """

    name: str
    size: tuple[int, int] | None
    absent: frozenset[int] = frozenset()
    partial: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class InstancesFile:
    """What an instances file says: categories by id, images by id, each one's annotations.

    complete: whether a category that has no annotation in an image is absent from it: false of
        federated files (LVIS), which say for each image what was looked for.
    """

    path: Path
    names: dict[int, str]
    pictures: dict[int, Image]
    annotations: dict[int, list[Annotation]]
    complete: bool = True
    left_out: LeftOut = field(default_factory=LeftOut)


GROUPS = (
    "categories that group others and have objects too, absent where the others alone are listed"
)
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def instances(path: Path) -> InstancesFile:
    """Return the file's content, its parts checked against each other."""
    content = content_of(path, ("images", "annotations", "categories"))
    wrong = f"{path} is not laid out as COCO's"
    left_out = LeftOut()
    try:
        categories = list(content["categories"])
        names = {int(each["id"]): _name(each) for each in categories}
        pictures = {int(each["id"]): image_of(each) for each in content["images"]}
        files = [image.name for image in pictures.values()]
        for what, ids, count in (
            ("categories", names, len(categories)),
            ("images", pictures, len(content["images"])),
            ("images by their file_name", set(files), len(files)),
        ):
            if len(ids) < count:
                raise LayoutError(f"{wrong}: {count} {what}, of which only {len(ids)} differ")
        annotations: dict[int, list[Annotation]] = {}
        for each in content["annotations"]:
            number = int(each.get("id", -1))
            is_crowd(each)
            if lacks := _lacks(each, names, pictures):
                raise LayoutError(f"{wrong}: annotation {number} {lacks}")
            notes = annotations.setdefault(int(each["image_id"]), [])
            # Without an id it is called by its place.
            place = f"{len(notes) + 1} of image {each['image_id']}"
            notes.append(each if "id" in each else {**each, "id": place})
        used = {int(each["category_id"]) for notes in annotations.values() for each in notes}
        for category in _headings(categories):
            if category in used:
                left_out.add(GROUPS, [names[category]])
            else:
                reason = "categories that only group others, and no prompts"
                left_out.add(reason, [names.pop(category)])
    except WRONG as error:
        raise LayoutError(
            f"{wrong} ({type(error).__name__}: {error}); expected images, annotations and "
            "categories, each with its id"
        ) from None
    complete = not any(key in each for each in content["images"] for key in FEDERATED)
    return InstancesFile(
        path=path,
        names=names,
        pictures=pictures,
        annotations=annotations,
        complete=complete,
        left_out=left_out,
    )


def _name(category: Annotation) -> str:
    name = category["name"]
    if not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"category {category['id']} has the name {name!r}")
    return str(name)


def _headings(categories: list[Annotation]) -> list[int]:
    """List categories that are another's supercategory (Roboflow writes one without any object)."""
    return [
        int(each["id"])
        for each in categories
        if any(
            other.get("supercategory") == each["name"] for other in categories if other is not each
        )
    ]


def image_of(content: Annotation) -> Image:
    # LVIS names its images by COCO's addresses.
    """Return the image that an entry of `images` describes."""
    name = content.get("file_name", str(content.get("coco_url", "")).rpartition("/")[2] or None)
    if not isinstance(name, str):
        raise TypeError(f"image {content['id']} has the file_name {name!r}")
    sized = "width" in content and "height" in content
    size = (int(content["width"]), int(content["height"])) if sized else None
    absent, partial = (frozenset(map(int, content.get(key, ()))) for key in FEDERATED)
    return Image(name, size, absent, partial)


def is_crowd(annotation: Annotation) -> bool:
    """Return whether it marks many objects at once. Raises `ValueError` where that is not clear."""
    value = annotation.get("iscrowd")
    if value not in (None, 0, 1, "0", "1"):
        raise ValueError(f"annotation {annotation.get('id')} has iscrowd {value!r}")
    return value in (1, "1")


def _lacks(annotation: Annotation, names: Mapping[int, str], pictures: Mapping[int, Image]) -> str:
    if int(annotation["category_id"]) not in names:
        return f"is of category {annotation['category_id']}, which `categories` lacks"
    if int(annotation["image_id"]) not in pictures:
        return f"is of image {annotation['image_id']}, which `images` lacks"
    if not any(annotation.get(key) for key in ("segmentation", "mask_file", "bbox")):
        return "has no segmentation"
    return ""


def mask_in(
    annotation: Annotation, image: Image, frame: Frame, *, stored: bool = True
) -> Bool[np.ndarray, "row col"]:
    """Return the annotation's mask on the upright image.

    Polygons are drawn on the size that the file gives its image, or on the image's own. An
    annotation without a segmentation is its box.

    Raises:
        InputError: the mask cannot be read, or does not fit.
    """
    what, code = f"the mask of annotation {annotation.get('id')}", annotation.get("segmentation")
    size = image.size or frame.upright
    with _told_of(what):
        if isinstance(code, Mapping):
            size = (int(code["size"][1]), int(code["size"][0]))
        masks.expect_size(size, frame, what)  # before a canvas of any size is made
        canvas = (size[1], size[0])
        if isinstance(code, Mapping):
            mask = masks.decoded(code, canvas)
        else:
            polygons, _ = _outlines(annotation)
            overhang(polygons, canvas)
            mask = filled(polygons, canvas)
    return masks.fitted(mask, frame, what, stored=stored)


@contextmanager
def _told_of(what: str) -> Generator[None]:
    """Name in errors what they are about."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise LayoutError(text if text.startswith(what) else f"{what}: {text}") from None
    except WRONG as error:
        raise LayoutError(
            f"{what} is not laid out as COCO's ({type(error).__name__}: {error}); expected "
            "polygons or run lengths with their size"
        ) from None


def _outlines(annotation: Annotation) -> tuple[list[Points], int]:
    code = annotation.get("segmentation")
    return polygons_of(code) if code else ([box_polygon(annotation.get("bbox"))], 0)


RIM = 2.0
"""Pixels that a polygon may reach out of its image without a word."""


def _examine(content: InstancesFile, numbers: Sequence[int], classes: Classes[int]) -> None:
    """Read all polygons of these images, before any is drawn, and count what is unusual."""
    for number in numbers:
        image = content.pictures[number]
        for each in content.annotations[number]:
            code, name = each.get("segmentation"), f"annotation {each['id']}"
            if reason := _not_shown(each, image, classes):
                content.left_out.add(reason, [name])
            if each.get("mask_file") or isinstance(code, Mapping):
                continue
            with _told_of(f"the mask of {name} in {content.path.name}"):
                polygons, strays = _outlines(each)
                beyond = overhang(polygons, (image.size[1], image.size[0])) if image.size else 0
            if not code:
                content.left_out.add(
                    "objects with a box and no mask, read as the whole box", [name]
                )
            if strays:
                content.left_out.add("polygons without an area (one or two points) of", [name])
            if beyond > RIM:
                content.left_out.add(
                    "polygons that reach out of their image, cut at its rim", [name]
                )


def pictured(
    content: InstancesFile,
    places: Sequence[Path],
    sample: Sample,
    template: str,
    mask_of: Callable[[Annotation, Image, Frame], Marked],
    name: str,
) -> LabelledImages:
    """Return the images of a file, with one `Instance` per annotation of an object.

    Crowds are no objects: their pixels are unjudged for their category, and an image with a
    category as a crowd alone is left out: the category is neither to be found there nor absent. So
    are images without an object, about which nothing can be asked.

    Args:
        content: The file.
        places: Folders in which images are looked for, first to last.
        sample: Which images are taken.
        template: Makes a prompt of a category's name.
        mask_of: Reads the mask of an annotation.
        name: Of the set.
    """
    left_out = content.left_out
    classes = Classes.of(dict(sorted(content.names.items())), template, left_out)
    counted = {number: _counted(content, number, classes) for number in sorted(content.annotations)}
    rows = [number for number, notes in counted.items() if _countable(notes, classes)]
    crowded = [
        content.pictures[n].name
        for n in counted
        if counted[n] and not _countable(counted[n], classes)
    ]
    left_out.add("images left out, with a category as a crowd alone", crowded)
    empty = [image.name for n, image in content.pictures.items() if not counted.get(n)]
    left_out.add("images left out, without an object", empty)
    chosen = sample.of(rows)
    if not chosen:
        raise LayoutError(f"got no picture with an instance in {content.path}")
    if not content.complete:
        left_out.say(
            "the set says for each image which categories were looked for (as LVIS does): others "
            "are neither present nor absent"
        )
    _examine(content, chosen, classes)
    paths = [picture_in(places, content.pictures[n].name, content.path.name) for n in chosen]

    def things(row: int) -> tuple[Instance, ...]:
        number, frame = chosen[row], frame_of(paths[row])
        image = content.pictures[number]
        notes = [(note, mask_of(note, image, frame)) for note in counted[number]]
        crowds: dict[int, np.ndarray] = {}
        for note, marked in notes:
            if is_crowd(note):
                label = classes.labels[int(note["category_id"])]
                crowds[label] = crowds.get(label, False) | marked.mask
        void = [m.mask for note in content.annotations[number] for m in _void(note, image, frame)]

        def thing(label: int, marked: Marked) -> Instance:
            unjudged = [crowds[label]] if label in crowds else []
            unjudged += void + ([] if marked.judged is None else [~marked.judged])
            judged = marked.mask | ~np.logical_or.reduce(unjudged) if unjudged else None
            return Instance(label, marked.mask, judged)

        return visible(
            (thing(classes.labels[int(n["category_id"])], m) for n, m in notes if not is_crowd(n)),
            left_out,
            image.name,
        )

    def _void(note: Annotation, image: Image, frame: Frame) -> list[Marked]:
        is_void = classes.roles[int(note["category_id"])] == "void"
        return [mask_of(note, image, frame)] if is_void else []

    absent = [
        frozenset(classes.labels[k] for k in content.pictures[n].absent if k in classes.labels)
        for n in chosen
    ]
    return LabelledImages(
        name=name,
        photos=Files(paths),
        things=Lazy(things, range(len(chosen))),
        prompts=classes.prompts,
        seed=sample.seed,
        complete=content.complete,
        absent=None if content.complete else absent,
        left_out=left_out,
    )


def _counted(content: InstancesFile, number: int, classes: Classes[int]) -> list[Annotation]:
    """Return the image's annotations that are objects or crowds of objects."""
    partial = content.pictures[number].partial
    return [
        each
        for each in content.annotations[number]
        if int(each["category_id"]) in classes.labels and int(each["category_id"]) not in partial
    ]


def _not_shown(note: Annotation, image: Image, classes: Classes[int]) -> str:
    """Return why an annotation is no object here, or nothing."""
    kind = int(note["category_id"])
    if kind not in classes.labels:
        return "annotations of no object (background, void)"
    if kind in image.partial:
        return "objects left out, of categories that their image lists in part"
    return "crowds (iscrowd), which are no objects: not judged" if is_crowd(note) else ""


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return the official layout; see `pictured`."""
    path = _instances_file(root)
    content = instances(path)
    others = sorted((root / "annotations").glob("instances_val*.json"))
    if len(others) > 1:
        content.left_out.say(f"of {', '.join(each.name for each in others)} the last is read")
    name = path.stem.removeprefix("instances_")
    pictures = root / name
    if not pictures.is_dir():
        raise LayoutError(
            f"got no folder {name!r} in {root}, expected COCO's pictures there"
            + _lying_elsewhere(root, name, content)
        )

    def mask_of(note: Annotation, image: Image, frame: Frame) -> Marked:
        return Marked(mask_in(note, image, frame))

    return pictured(content, [pictures], sample, template, mask_of, "COCO")


def _lying_elsewhere(root: Path, name: str, content: InstancesFile) -> str:
    """Return the folder near `root` that has the images, and the command that puts it in
    place."""
    split = re.sub(r"\d+$", "", name)
    some = [image.name for image in content.pictures.values()][:1]
    for near in (f"images/{name}", f"images/{split}", split, "images", f"../{name}", "."):
        if some and (root / near / some[0]).is_file():
            here = f"{root / near}" if near != "." else str(root)
            link, target = (shlex.quote(str(p)) for p in (root / name, (root / near).resolve()))
            return f"; they lie in {here}: try ln -s {target} {link}"
    return ""


def _countable(annotations: list[Annotation], classes: Classes[int]) -> bool:
    """Return whether there is an object, and no class as a crowd alone."""
    crowds, singles = (
        {
            classes.labels[int(each["category_id"])]
            for each in annotations
            if is_crowd(each) == crowd
        }
        for crowd in (True, False)
    )
    return bool(singles) and crowds <= singles


def _instances_file(root: Path) -> Path:
    """Return the validation set's where it is there, else the only one."""
    files = sorted((root / "annotations").glob("instances_*.json"))
    validation = [each for each in files if each.stem.startswith("instances_val")]
    if validation:
        return validation[-1]
    if len(files) != 1:
        names = ", ".join(each.name for each in files) or "no instances_*.json"
        raise LayoutError(
            f"got {names} in {root / 'annotations'}, expected instances_val2017.json or one other"
        )
    return files[0]


def content_of(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of an instances file, which must have these parts."""
    content = json_of(path)
    missing = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if missing:
        raise LayoutError(f"{path} has no {missing[0]!r}, expected COCO's annotations")
    return content
