"""Anybody's folder of pictures with masks.

| layout | an object is named by |
|---|---|
| `instances.json` beside `images/` | its category in COCO's JSON |
| `images/a.jpg`, `masks/CLASS/a.png` | the mask's folder |
| `images/a.jpg`, `masks/a.png`, `classes.txt` | the line whose number its pixels have |
| `CLASS/a.jpg`, `CLASS/a.png` | the folder |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatproof.data import masks
from heatproof.data.layouts.coco import Annotation, Image, instances, mask_in
from heatproof.data.layouts.reading import (
    LayoutError,
    NoLayout,
    Sample,
    lines_of,
    picture,
    pictures_in,
)
from heatproof.data.lazy import Files, Lazy
from heatproof.data.pictured import Pictured, Thing, visible
from heatproof.images import Frame, frame_of

MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif")
SEVERAL = re.compile(r"^(.+)[._-]\d+$")
"""a.1.png, a-2.png: masks of further objects of the same name in a.jpg."""
LAYOUTS = (
    "instances.json with images/, images/ with masks/CLASS/, images/ with masks/ and classes.txt, "
    "or CLASS/a.jpg beside CLASS/a.png"
)


def read(root: Path, sample: Sample, template: str) -> Pictured:
    """The layout that the folder has; pictures without a mask are left out."""
    if (root / "instances.json").is_file():
        return annotated(root, template=template, sample=sample)
    pictures, drawn = root / "images", root / "masks"
    if drawn.is_dir() and not pictures.is_dir():
        raise LayoutError(f"got masks/ and no images/ in {root}, expected the pictures there")
    if drawn.is_dir():
        if any(each.is_dir() for each in drawn.iterdir()):
            return _in_class_folders(root, sample, template)
        return _numbered(root, sample, template)
    return _beside(root, sample, template)


# --- COCO's JSON ------------------------------------------------------------------------------


def annotated(root: Path, *, template: str = "a {}", sample: Sample | None = None) -> Pictured:
    """A folder in COCO's layout: `instances.json` beside `images/`. Masks are polygons, run
    lengths, or files named by "mask_file"."""
    path = root / "instances.json"
    if not path.is_file():
        raise LayoutError(
            f"{root}: no instances.json in it; expected a folder such as `heatproof scenes "
            "render` writes"
        )
    found = instances(path)
    numbers = (sample or Sample()).of([number for number in found.pictures if number in found.of])
    if not numbers:
        raise LayoutError(f"{root}: no picture has an annotation; expected at least one")
    paths = [picture(root / "images" / found.pictures[n].name, path.name) for n in numbers]

    def things(row: int) -> tuple[Thing, ...]:
        image, frame = found.pictures[numbers[row]], frame_of(paths[row])
        return visible(
            Thing(found.labels[int(each["category_id"])], _mask(root, each, image, frame))
            for each in found.of[numbers[row]]
        )

    return Pictured(
        str(root),
        Files(paths),
        Lazy(things, range(len(paths))),
        found.prompts(template),
        sample.seed if sample else 0,
    )


def _mask(root: Path, annotation: Annotation, image: Image, frame: Frame) -> np.ndarray:
    if "mask_file" not in annotation:
        return mask_in(annotation, image, frame, stored=False)
    what = f"the mask of annotation {annotation.get('id')}"
    return masks.fitted(
        masks.binary(root / str(annotation["mask_file"])), frame, what, stored=False
    )


# --- masks as pictures ------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A picture and the mask files of its objects, each with its label."""

    path: Path
    masks: tuple[tuple[int, Path], ...]

    def things(self) -> tuple[Thing, ...]:
        frame = frame_of(self.path)
        return visible(
            Thing(label, masks.fitted(masks.binary(file), frame, f"the mask {file}", stored=False))
            for label, file in self.masks
        )


def _in_class_folders(root: Path, sample: Sample, template: str) -> Pictured:
    pictures = _by_stem(root / "images")
    folders = sorted(each for each in (root / "masks").iterdir() if each.is_dir())
    of: dict[str, list[tuple[int, Path]]] = {}
    for label, folder in enumerate(folders):
        for file in _mask_files(folder):
            of.setdefault(_stem_in(pictures, file), []).append((label, file))
    drawn = [Drawn(path, tuple(of[stem])) for stem, path in pictures.items() if stem in of]
    return _pictured(root, drawn, [folder.name for folder in folders], sample, template)


def _beside(root: Path, sample: Sample, template: str) -> Pictured:
    """CLASS/a.jpg with CLASS/a.png; a PNG of the same stem as another picture is a mask."""
    drawn: list[Drawn] = []
    folders = sorted(each for each in root.iterdir() if each.is_dir())
    for label, folder in enumerate(folders):
        files = pictures_in(folder)
        photos = {each.stem: each for each in files if each.suffix.lower() != ".png"}
        of: dict[str, list[tuple[int, Path]]] = {}
        for file in _mask_files(folder):
            if photos:
                of.setdefault(_stem_in(photos, file), []).append((label, file))
        drawn += [Drawn(path, tuple(of[stem])) for stem, path in photos.items() if stem in of]
    if not drawn:
        raise NoLayout(f"got no picture with a mask in {root}, expected {LAYOUTS}")
    return _pictured(root, drawn, [folder.name for folder in folders], sample, template)


def _pictured(
    root: Path, drawn: Sequence[Drawn], names: Sequence[str], sample: Sample, template: str
) -> Pictured:
    if not drawn:
        raise LayoutError(f"got no mask in {root / 'masks'}, expected masks/CLASS/a.png")
    chosen = sample.of(drawn)
    return Pictured(
        str(root),
        Files([each.path for each in chosen]),
        Lazy(lambda row: chosen[row].things(), range(len(chosen))),
        tuple(template.format(name.replace("_", " ")) for name in names),
        sample.seed,
    )


def _numbered(root: Path, sample: Sample, template: str) -> Pictured:
    """masks/a.png numbers classes by the lines of classes.txt, from 1; 0 is the background, and
    the largest number of 8 or of 16 bits is unjudged. A thing is all pixels of a class."""
    listed = root / "classes.txt"
    if not listed.is_file():
        raise LayoutError(
            f"got masks in {root / 'masks'} and no name for what they show; expected {listed} (a "
            "name a line, for the numbers from 1 on), or a folder a class in masks/"
        )
    names, pictures = lines_of(listed), _by_stem(root / "images")
    of = {_stem_in(pictures, file): file for file in _mask_files(root / "masks")}
    if not of:
        raise LayoutError(f"got no mask in {root / 'masks'}, expected a PNG a picture")
    chosen = sample.of([(path, of[stem]) for stem, path in pictures.items() if stem in of])

    def things(row: int) -> tuple[Thing, ...]:
        path, file = chosen[row]
        pixels = masks.fitted(masks.numbers(file), frame_of(path), f"the mask {file}", stored=False)
        judged = (pixels != 0xFF) & (pixels != 0xFFFF)
        found = [number for number in np.unique(pixels[judged]).tolist() if number]
        if found and not 1 <= found[-1] <= len(names):
            raise LayoutError(
                f"{file}: a pixel of number {found[-1]}, but {listed.name} names {len(names)} "
                "classes; expected 0, a line's number, or 255 (unjudged)"
            )
        return visible(
            Thing(number - 1, pixels == number, None if judged.all() else judged)
            for number in found
        )

    return Pictured(
        str(root),
        Files([path for path, _ in chosen]),
        Lazy(things, range(len(chosen))),
        tuple(template.format(name) for name in names),
        sample.seed,
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures_in(folder):
        if path.stem in found:
            raise LayoutError(
                f"got {found[path.stem].name} and {path.name} in {folder}: whose is a mask?"
            )
        found[path.stem] = path
    if not found:
        raise LayoutError(f"got no picture in {folder}, expected *.jpg or *.png")
    return found


def _mask_files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in MASKS)


def _stem_in(pictures: dict[str, Path], mask: Path) -> str:
    """The stem of the picture that the mask is of."""
    if mask.stem in pictures:
        return mask.stem
    several = SEVERAL.match(mask.stem)
    if several and several[1] in pictures:
        return several[1]
    raise LayoutError(f"got the mask {mask} and no picture {mask.stem}.jpg for it")
