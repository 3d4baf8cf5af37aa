"""Anybody's folder of images with masks.

| layout | an object is named by |
|---|---|
| `instances.json` beside `images/` | its category in COCO's JSON |
| `images/a.jpg`, `masks/CLASS/a.png` | the mask's folder |
| `images/a.jpg`, `masks/a.png`, `classes.txt` | the line whose number its pixels have |
| `CLASS/a.jpg`, `CLASS/a.png` | the folder |
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages, visible
from heatproof.data.layouts.classes import Classes, numbered_names
from heatproof.data.layouts.coco import (
    Annotation,
    Image,
    content_of,
    instances,
    mask_in,
    pictured,
)
from heatproof.data.layouts.reading import (
    PICTURES,
    LayoutError,
    NoLayout,
    Sample,
    folders_in,
    pictures_in,
    visible_in,
)
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.data.masks import Marked
from heatproof.images import Frame, frame_of

MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif")
LOSSY = (".jpg", ".jpeg", ".webp")
"""Masks of one object may be so; numbers are not kept."""
SEVERAL = re.compile(r"^(.+)[._-]\d+$")
"""a.1.png, a-2.png: masks of further objects of the same name in a.jpg."""
LAYOUTS = (
    "instances.json with images/, images/ with masks/CLASS/, images/ with masks/ and classes.txt, "
    "or CLASS/a.jpg beside CLASS/a.png"
)


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return the layout that the folder has; images without a mask are left out."""
    if (root / "instances.json").is_file():
        return annotated(root, template=template, sample=sample)
    pictures, drawn = root / "images", root / "masks"
    if drawn.is_dir() and not pictures.is_dir():
        raise LayoutError(f"got masks/ and no images/ in {root}, expected the pictures there")
    if drawn.is_dir():
        if folders_in(drawn):
            return _in_class_folders(root, sample, template)
        return _numbered(root, sample, template)
    return _beside(root, sample, template)


# --- COCO's JSON ------------------------------------------------------------------------------


def annotated(
    root: Path, *, template: str = "a {}", sample: Sample | None = None
) -> LabelledImages:
    """Read a folder in COCO's layout: `instances.json` beside `images/`. Masks are polygons, run
    lengths, boxes, or files named by "mask_file"."""
    path = root / "instances.json"
    if not path.is_file():
        raise LayoutError(
            f"{root}: no instances.json in it; expected a folder such as `heatproof scenes "
            "render` writes"
        )
    reading = MaskReader()

    def mask_of(note: Annotation, image: Image, frame: Frame) -> Marked:
        if "mask_file" not in note:
            return Marked(mask_in(note, image, frame, stored=False))
        what = f"the mask of annotation {note.get('id')}"
        return reading.marked(root / str(note["mask_file"]), frame, what)

    places, found = [root / "images", root], instances(path)
    if (root / "masks").is_dir():
        found.left_out.say("masks/ lies beside instances.json and is not read")
    return pictured(found, places, sample or Sample(), template, mask_of, str(root))


# --- masks as images ------------------------------------------------------------------------


@dataclass
class MaskReader:
    """Reads masks of one object and holds them to one meaning of their largest value: 255 is not
    an object in one mask of a set and void in another."""

    void: Path | None = None
    white: Path | None = None

    def marked(self, file: Path, frame: Frame, what: str) -> Marked:
        """Return what a mask file marks, on the upright image."""
        marked = masks.binary(file)
        self.void = self.void or (file if marked.void else None)
        self.white = self.white or (file if marked.white else None)
        if self.void and self.white:
            raise LayoutError(
                f"{self.white} has an object of the largest value (255), and in {self.void} it "
                "stands beside a number, as void does; save all objects as 1 and void as 255"
            )

        def fitted(mask: np.ndarray) -> np.ndarray:
            return masks.fitted(mask, frame, what, stored=False)

        judged = None if marked.judged is None else fitted(marked.judged)
        return marked._replace(mask=fitted(marked.mask), judged=judged)


@dataclass(frozen=True)
class Drawn:
    """An image and the mask files of its objects, each with its class's folder."""

    path: Path
    masks: tuple[tuple[str, Path], ...]


def _in_class_folders(root: Path, sample: Sample, template: str) -> LabelledImages:
    left_out = LeftOut()
    pictures = _by_stem(root / "images", root / "masks", left_out)
    folders = folders_in(root / "masks")
    of: dict[str, list[tuple[str, Path]]] = {}
    for folder in folders:
        for file in _mask_files(folder, left_out, MASKS + LOSSY):
            of.setdefault(_stem_in(pictures, file), []).append((folder.name, file))
    if (root / "classes.txt").is_file():
        left_out.say("classes.txt is not read: the folders in masks/ name the classes")
    loose = [each.name for each in visible_in(root / "masks") if each.is_file()]
    left_out.add("files left out, beside the folders of masks/", loose)
    drawn = [Drawn(path, tuple(of[stem])) for stem, path in pictures.items() if stem in of]
    unmasked = [path.name for stem, path in pictures.items() if stem not in of]
    left_out.add("images left out, without a mask", unmasked)
    return _pictured(root, drawn, [each.name for each in folders], sample, template, left_out)


def _beside(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Read CLASS/a.jpg with CLASS/a.png: a PNG of the same stem as another image is a mask."""
    drawn: list[Drawn] = []
    names: list[str] = []
    left_out = LeftOut()
    for folder in folders_in(root):
        photos = {each.stem: each for each in pictures_in(folder) if each.suffix.lower() != ".png"}
        if not photos:
            left_out.add("folders left out, without an image", [folder.name])
            continue
        names.append(folder.name)
        of: dict[str, list[tuple[str, Path]]] = {}
        for file in _mask_files(folder, left_out, MASKS, also=PICTURES):
            of.setdefault(_stem_in(photos, file), []).append((folder.name, file))
        drawn += [Drawn(path, tuple(of[stem])) for stem, path in photos.items() if stem in of]
        unmasked = [f"{folder.name}/{p.name}" for stem, p in photos.items() if stem not in of]
        left_out.add("images left out, without a mask", unmasked)
    if not drawn:
        raise NoLayout(
            f"got no picture with a mask in {root}, expected {LAYOUTS}{in_cocos_format(root)}"
        )
    return _pictured(root, drawn, names, sample, template, left_out)


def _pictured(
    root: Path,
    drawn: Sequence[Drawn],
    names: Sequence[str],
    sample: Sample,
    template: str,
    left_out: LeftOut,
) -> LabelledImages:
    """Make images of masks: the background is left out, void is unjudged for all objects."""
    if not drawn:
        raise LayoutError(f"got no mask in {root / 'masks'}, expected masks/CLASS/a.png")
    classes = Classes[str].of({name: name for name in names}, template, left_out)
    nothing = [one for one in drawn if all(classes.roles[k] != "object" for k, _ in one.masks)]
    left_out.add("images left out, without an object", [one.path.name for one in nothing])
    chosen = sample.of([one for one in drawn if one not in nothing])
    reader = MaskReader()

    def things(row: int) -> tuple[Instance, ...]:
        one, frame = chosen[row], frame_of(chosen[row].path)
        marked = [
            (kind, reader.marked(file, frame, f"the mask {file}"))
            for kind, file in one.masks
            if classes.roles[kind] != "background"
        ]
        void = [m.mask for kind, m in marked if classes.roles[kind] == "void"]

        def thing(kind: str, mark: Marked) -> Instance:
            unjudged = void + ([] if mark.judged is None else [~mark.judged])
            judged = mark.mask | ~np.logical_or.reduce(unjudged) if unjudged else None
            return Instance(classes.labels[kind], mark.mask, judged)

        objects = (thing(k, m) for k, m in marked if classes.roles[k] == "object")
        return visible(objects, left_out, one.path.name)

    return LabelledImages(
        name=str(root),
        photos=Files([each.path for each in chosen]),
        things=Lazy(things, range(len(chosen))),
        prompts=classes.prompts,
        seed=sample.seed,
        left_out=left_out,
    )


def _numbered(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Read masks/a.png, which numbers classes as classes.txt does. An object is a class's pixels.

    0 is the background; the largest number of 8 or of 16 bits is unjudged where no class has it.
    """
    listed = root / "classes.txt"
    if not listed.is_file():
        raise LayoutError(
            f"got masks in {root / 'masks'} and no name for what they show; expected {listed} (a "
            "name a line, for the numbers from 1 on), or a folder a class in masks/"
        )
    names, left_out = numbered_names(listed), LeftOut()
    classes = Classes.of(names, template, left_out)
    pictures = _by_stem(root / "images", root / "masks", left_out)
    of: dict[str, Path] = {}
    for file in _mask_files(root / "masks", left_out, MASKS + LOSSY):
        stem = _stem_in(pictures, file)
        if stem in of:
            raise LayoutError(
                f"got the masks {of[stem].name} and {file.name} for {pictures[stem].name}, "
                "expected one that numbers all classes"
            )
        of[stem] = file
    if not of:
        raise LayoutError(f"got no mask in {root / 'masks'}, expected a PNG a picture")
    chosen = sample.of([(path, of[stem]) for stem, path in pictures.items() if stem in of])
    unmasked = [path.name for stem, path in pictures.items() if stem not in of]
    left_out.add("images left out, without a mask", unmasked)

    def things(row: int) -> tuple[Instance, ...]:
        path, file = chosen[row]
        pixels = masks.numbers(file, classes.roles)
        pixels = masks.fitted(pixels, frame_of(path), f"the mask {file}", stored=False)
        void = [k for k in masks.WHITE if k not in names]
        void += [k for k, role in classes.roles.items() if role == "void"]
        judged = ~np.isin(pixels, void)
        found = [number for number in np.unique(pixels[judged]).tolist() if number]
        unknown = [number for number in found if number not in names]
        if unknown:
            raise LayoutError(
                f"{file}: a pixel of number {unknown[-1]}, but {listed.name} names the numbers "
                f"{min(names)} to {max(names)}; expected these, 0 (background) or 255 (unjudged)"
            )
        # Two numbers of the same name are one class.
        labels = dict.fromkeys(classes.labels[k] for k in found if k in classes.labels)
        return visible(
            (
                Instance(
                    label,
                    np.isin(pixels, [k for k in found if classes.labels.get(k) == label]),
                    None if judged.all() else judged,
                )
                for label in labels
            ),
            left_out,
            path.name,
        )

    return LabelledImages(
        name=str(root),
        photos=Files([path for path, _ in chosen]),
        things=Lazy(things, range(len(chosen))),
        prompts=classes.prompts,
        seed=sample.seed,
        left_out=left_out,
    )


def _by_stem(folder: Path, drawn: Path, left_out: LeftOut) -> dict[str, Path]:
    """Return the images in the folder by their stems; `drawn` is the folder of their masks."""
    found: dict[str, Path] = {}
    _count_others(folder, PICTURES, left_out)
    for path in pictures_in(folder):
        if path.stem in found:
            raise LayoutError(
                f"got {found[path.stem].name} and {path.name} in {folder}: whose is a mask?"
            )
        found[path.stem] = path
    if not found:
        raise LayoutError(
            f"got no picture in {folder}, expected *.jpg or *.png{_split(folder, drawn)}"
        )
    return found


def _split(folder: Path, drawn: Path) -> str:
    """Return the command that makes a folder of one split of images/ and masks/ (train, val)."""
    splits = [each for each in folders_in(folder) if (drawn / each.name).is_dir()]
    if not splits:
        inside = [each.name for each in folders_in(folder) if pictures_in(each)]
        return f"; they lie in its folders {', '.join(inside[:3])}" if inside else ""
    name = next((each.name for each in splits if each.name.startswith("val")), splits[0].name)
    part, new = shlex.quote(name), shlex.quote(f"only-{name}")
    steps = [f"cd {shlex.quote(str(folder.parent))}", f"mkdir {new}"]
    steps += [f"ln -s ../{place.name}/{part} {new}/{place.name}" for place in (folder, drawn)]
    if (folder.parent / "classes.txt").is_file():
        steps.append(f"cp classes.txt {new}")
    names = ", ".join(each.name for each in splits)
    after = folder.parent / f"only-{name}"
    return f"; it has the parts {names}: try {' && '.join(steps)}, then {after}"


def in_cocos_format(root: Path) -> str:
    """Name a file in COCO's format under another name, and the command that lets it be read as the
    user's own: the end of an error's line."""
    for path in sorted([*root.glob("*.json"), *root.glob("annotations/*.json")]):
        if not path.name.startswith("instances_") and _is_coco(path):
            target = shlex.quote(str(root / "instances.json"))
            return (
                f"; {path} is in COCO's format: try cp {shlex.quote(str(path))} {target}, then "
                f"folder:{root}"
            )
    return ""


def _is_coco(path: Path) -> bool:
    try:
        content_of(path, ("images", "annotations", "categories"))
    except LayoutError:
        return False
    return True


def _mask_files(
    folder: Path, left_out: LeftOut, endings: tuple[str, ...], also: tuple[str, ...] = ()
) -> list[Path]:
    """List files with these endings; others, but those with `also`, are counted."""
    _count_others(folder, endings + also, left_out)
    return [
        each for each in visible_in(folder) if each.is_file() and each.suffix.lower() in endings
    ]


def _count_others(folder: Path, endings: tuple[str, ...], left_out: LeftOut) -> None:
    """Count what else lies in the folder: folders, and files with other endings."""
    others = [
        f"{folder.name}/{each.name}"
        for each in visible_in(folder)
        if each.is_dir() or each.suffix.lower() not in endings
    ]
    left_out.add("files and folders left out, where none is read", others)


def _stem_in(pictures: dict[str, Path], mask: Path) -> str:
    """Return the stem of the image that the mask is of."""
    if mask.stem in pictures:
        return mask.stem
    several = SEVERAL.match(mask.stem)
    if several and several[1] in pictures:
        return several[1]
    raise LayoutError(f"got the mask {mask} and no picture {mask.stem}.jpg for it")
