"""Official folder layouts: ImageNet's validation set, ImageNet-S, COCO. Paths and labels alone.

Nothing is decoded here but masks; what does not fit the layout is named in one line.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from heatproof.data.scenes.files import mask_of

PICTURES = (".jpeg", ".jpg", ".png")
SYNSET = re.compile(r"n\d{8}")
NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "class_names.txt")
IMAGENET_S_SIZES = (50, 300, 919)
IGNORED = 1000
"""ImageNet-S's id of pixels that belong to no class and not to the background either."""


class LayoutError(ValueError):
    """A folder that is not laid out as its data set is; one line."""


@dataclass(frozen=True)
class Labelled:
    """A picture's path and the index of its class in the folder's list of classes."""

    path: Path
    label: int


@dataclass(frozen=True)
class ClassFolder:
    """Class folders in sorted order. `synsets` are the folders' names, `names` what each is called
    (None where no file says it)."""

    synsets: tuple[str, ...]
    names: tuple[str | None, ...]
    items: tuple[Labelled, ...]


def imagenet(folder: Path) -> ClassFolder:
    """ImageNet's validation set: FOLDER[/val]/SYNSET/*.JPEG, as torchvision's ImageFolder has it.

    Class names come from `LOC_synset_mapping.txt` or `synset_words.txt` ("n01440764 tench, ..."),
    or `class_names.txt` (a line for each class, in the order of the folders), looked for in the
    folder and beside it. Folders that are not named by synsets are called what they are named.
    """
    root = folder / "val" if (folder / "val").is_dir() else folder
    classes = _folders(root, "ImageNet", "SYNSET/*.JPEG, one folder a class")
    given = _names((folder, root, root.parent), [c.name for c in classes])
    items = [
        Labelled(path, label) for label, each in enumerate(classes) for path in _pictures(each)
    ]
    if not items:
        raise LayoutError(f"got no picture in the {len(classes)} class folders of {root}")
    names = tuple(given.get(c.name, None if SYNSET.fullmatch(c.name) else c.name) for c in classes)
    return ClassFolder(tuple(c.name for c in classes), names, tuple(items))


def imagenet_s(folder: Path) -> tuple[ClassFolder, tuple[Path, ...]]:
    """ImageNet-S: FOLDER/validation/SYNSET/*.JPEG with masks of the same names, as PNG, in
    FOLDER/validation-segmentation/SYNSET. Returns the pictures, and the mask of each."""
    root, masks = folder / "validation", folder / "validation-segmentation"
    for part in (root, masks):
        if not part.is_dir():
            raise LayoutError(
                f"got no folder {part.name!r} in {folder}, expected ImageNet-S's layout: "
                "validation/SYNSET/*.JPEG and validation-segmentation/SYNSET/*.png"
            )
    found = imagenet(root)
    paths: list[Path] = []
    for item in found.items:
        mask = masks / found.synsets[item.label] / f"{item.path.stem}.png"
        if not mask.is_file():
            raise LayoutError(f"got no mask {mask}, expected one for {item.path.name}")
        paths.append(mask)
    return found, tuple(paths)


def imagenet_s_ids(folder: Path, synsets: Iterable[str]) -> dict[str, int]:
    """The mask id of each class: its line (from 1) in `ImageNetS_categories_im*.txt`, or its place
    among the folders where all of the 50, 300 or 919 are there."""
    listed = sorted(folder.glob("ImageNetS_categories_im*.txt"))
    if listed:
        order = [line.split()[0] for line in listed[-1].read_text().splitlines() if line.strip()]
    else:
        order = list(synsets)
        if len(order) not in IMAGENET_S_SIZES:
            raise LayoutError(
                f"got {len(order)} class folders in {folder}, expected all 50, 300 or 919 of "
                "ImageNet-S; for a part of it add ImageNetS_categories_im919.txt"
            )
    return {synset: number for number, synset in enumerate(order, 1)}


def imagenet_s_mask(path: Path, wanted: int) -> Bool[np.ndarray, "row col"]:
    """Pixels of class `wanted`. A pixel's id is its red plus 256 times its green."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.int64)
    return pixels[..., 0] + 256 * pixels[..., 1] == wanted


# --- COCO -------------------------------------------------------------------------------------


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
    instances = _annotations(folder, "instances")
    year = captions.stem.removeprefix("captions_")
    pictures = folder / year
    if not pictures.is_dir():
        raise LayoutError(f"got no folder {year!r} in {folder}, expected COCO's pictures there")
    said, things = _json(captions), _json(instances)
    spoken: dict[int, list[str]] = {}
    for each in said["annotations"]:
        spoken.setdefault(each["image_id"], []).append(" ".join(str(each["caption"]).split()))
    categories = {each["id"]: each["name"] for each in things["categories"]}
    seen: dict[int, list[tuple[str, Any]]] = {}
    for each in things["annotations"]:
        if not each.get("iscrowd"):
            seen.setdefault(each["image_id"], []).append(
                (categories[each["category_id"]], each["segmentation"])
            )
    found: list[CocoPicture] = []
    for each in sorted(said["images"], key=lambda image: image["id"]):
        if each["id"] in spoken:
            path = pictures / each["file_name"]
            if not path.is_file():
                raise LayoutError(f"got no picture {path}, which {captions.name} speaks of")
            size = (each["height"], each["width"])
            instances_of = tuple(seen.get(each["id"], ()))
            found.append(CocoPicture(path, size, tuple(spoken[each["id"]]), instances_of))
    if not found:
        raise LayoutError(f"got no picture with a caption in {captions}")
    return found


def coco_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Polygons (lists of x, y) or uncompressed run lengths as a mask of (height, width)."""
    if isinstance(segmentation, dict):
        counts: Any = segmentation["counts"]
        if not isinstance(counts, list):
            raise LayoutError("got compressed run lengths, expected polygons or plain counts")
        return mask_of(counts, size)
    canvas = Image.new("1", (size[1], size[0]))
    for polygon in segmentation:
        if len(polygon) >= 6:
            ImageDraw.Draw(canvas).polygon([float(x) for x in polygon], fill=1)
    return np.asarray(canvas)


def _annotations(folder: Path, kind: str) -> Path:
    found = sorted((folder / "annotations").glob(f"{kind}_val*.json"))
    if not found:
        raise LayoutError(
            f"got no {kind}_val*.json in {folder / 'annotations'}, expected COCO's layout: "
            "annotations/captions_val2017.json, annotations/instances_val2017.json, val2017/*.jpg"
        )
    return found[-1]


def _json(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{path} is not readable as JSON ({error})") from None
    wanted = ("images", "annotations")
    missing = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if missing:
        raise LayoutError(f"{path} has no {missing[0]!r}, expected COCO's annotations")
    return content


# --- class folders ----------------------------------------------------------------------------


def _folders(root: Path, what: str, layout: str) -> list[Path]:
    if not root.is_dir():
        raise LayoutError(f"got {root}, which is no folder; expected {what}: {layout}")
    found = sorted(each for each in root.iterdir() if each.is_dir())
    if not found:
        raise LayoutError(f"got no class folder in {root}, expected {what}: {layout}")
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in PICTURES)


def _names(places: Iterable[Path], synsets: list[str]) -> dict[str, str]:
    for place in places:
        for file in NAME_FILES:
            if (place / file).is_file():
                return _listed(place / file, synsets)
    return {}


def _listed(file: Path, synsets: list[str]) -> dict[str, str]:
    lines = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    if all(SYNSET.match(line) for line in lines):
        pairs = (line.partition(" ") for line in lines)
        names = {synset: rest.split(",")[0].strip() for synset, _, rest in pairs}
        missing = [synset for synset in synsets if not names.get(synset)]
        if missing:
            raise LayoutError(f"{file} has no name for {missing[0]}, whose folder is there")
        return names
    if len(lines) != len(synsets):
        raise LayoutError(f"{file} has {len(lines)} names for {len(synsets)} class folders")
    return dict(zip(synsets, lines, strict=True))
