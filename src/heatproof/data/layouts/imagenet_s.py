"""ImageNet-S (Gao et al., arXiv 2106.03149): ImageNet's images with a mask of their class."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from heatproof.data import masks as masking
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.layouts.imagenet import ClassFolder, class_names, imagenet
from heatproof.data.layouts.reading import LayoutError, Sample, lines_of
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.images import frame_of, open_stored

SIZES = (50, 300, 919)
IGNORED = 1000
"""The id of pixels that belong to no class and not to the background either."""
MERGED = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
"""Classes of ImageNet whose pixels have another class's id (the data set's README)."""


def imagenet_s(folder: Path) -> tuple[ClassFolder, tuple[Path, ...]]:
    """Read ImageNet-S: FOLDER/validation/SYNSET/*.JPEG with masks of the same names, as PNG, in
    FOLDER/validation-segmentation/SYNSET. Returns the images, and the mask of each."""
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
    """Return the mask id of each class: its place (from 1) among the sorted synsets of
    `ImageNetS_categories_im*.txt`, or of the folders where all of the 50, 300 or 919 are there."""
    listed = sorted(folder.glob("ImageNetS_categories_im*.txt"))
    # The same number means another class in each of the three lists.
    if len(listed) > 1:
        names = ", ".join(each.name for each in listed)
        raise LayoutError(
            f"got {names} in {folder}, expected one: ids of the 50, 300 and 919 differ"
        )
    order = [line.split()[0] for line in lines_of(listed[0])] if listed else list(synsets)
    if not listed and len(order) not in SIZES:
        raise LayoutError(
            f"got {len(order)} class folders in {folder}, expected all 50, 300 or 919 of "
            "ImageNet-S; for a part of it add ImageNetS_categories_im919.txt"
        )
    # Numbered by sorted synsets, as the authors do.
    ids = {synset: number for number, synset in enumerate(sorted(order), 1)}
    return ids | {old: ids[new] for old, new in MERGED.items() if new in ids and old not in ids}


def known_ids(folder: Path, classes: ClassFolder) -> dict[str, int]:
    """Return `imagenet_s_ids` of classes that all have one."""
    ids = imagenet_s_ids(folder, classes.synsets)
    unknown = [synset for synset in classes.synsets if synset not in ids]
    if unknown:
        raise LayoutError(f"got the class folder {unknown[0]}, which the list of categories lacks")
    return ids


def imagenet_s_pixels(path: Path) -> Int64[np.ndarray, "row col"]:
    """Return each pixel's id: its red plus 256 times its green."""
    image = open_stored(path)
    # A palette or grey image would be read as colours and give wrong classes without a word.
    if image.mode not in ("RGB", "RGBA"):
        raise LayoutError(
            f"{path}: a mask of mode {image.mode}, expected colours (the class is red "
            "plus 256 times green)"
        )
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    return pixels[..., 0] + 256 * pixels[..., 1]


def imagenet_s_mask(path: Path, wanted: int) -> Bool[np.ndarray, "row col"]:
    """Return the pixels of the class whose id is `wanted`."""
    return imagenet_s_pixels(path) == wanted


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Read images; objects are the pixels of an image's own class, then of others in its mask.

    Pixels of id 1000 are unjudged. Images were annotated with their own class in mind: what else
    of the 919 classes they show may be background, so the set is not complete.
    """
    classes, paths = imagenet_s(root)
    ids = known_ids(root, classes)
    names = class_names(classes)
    label_of = {ids[synset]: label for label, synset in enumerate(classes.synsets)}
    last = max(ids.values())
    left_out = LeftOut()
    chosen = sample.of(list(zip(classes.items, paths, strict=True)))

    def things(row: int) -> tuple[Instance, ...]:
        item, path = chosen[row]
        pixels = masking.fitted(imagenet_s_pixels(path), frame_of(item.path), f"the mask {path}")
        found = [number for number in np.unique(pixels).tolist() if number not in (0, IGNORED)]
        if found and found[-1] > last:
            raise LayoutError(
                f"{path}: a pixel of class {found[-1]}, expected 0 (background), 1 to {last}, or "
                f"{IGNORED} (ignored)"
            )
        # Undecided pixels count neither for nor against a map.
        judged = pixels != IGNORED
        own = ids[classes.synsets[item.label]]
        # Two synsets may share an id: the image's own class keeps its own name.
        labels = label_of | {own: item.label}
        if own not in found:
            left_out.add("images whose mask has no pixel of their own class", [item.path.name])
        unknown = [f"{path.name}, class {number}" for number in found if number not in labels]
        left_out.add("objects left out, of classes without a folder", unknown)
        return tuple(
            Instance(labels[number], pixels == number, None if judged.all() else judged)
            for number in sorted(found, key=lambda number: (number != own, number))
            if number in labels
        )

    return LabelledImages(
        name="ImageNet-S",
        photos=Files([item.path for item, _ in chosen]),
        things=Lazy(things, range(len(chosen))),
        prompts=tuple(template.format(name) for name in names),
        seed=sample.seed,
        complete=False,
        left_out=left_out,
    )
