"""PASCAL VOC 2012's segmentation task (Everingham et al., IJCV 2010)."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from heatproof.data import masks
from heatproof.data.layouts.reading import LayoutError, Sample, lines_of, picture
from heatproof.data.lazy import Files, Lazy
from heatproof.data.pictured import Pictured, Thing
from heatproof.images import Frame, frame_of

VOID = 255
"""The outlines of objects, and what nobody could tell."""
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip
"""Their numbers are 1 to 20; "diningtable", "pottedplant" and "tvmonitor" written as words."""


def read(root: Path, sample: Sample, template: str) -> Pictured:
    """One thing an object of SegmentationObject, its class that of its pixels in
    SegmentationClass. Void pixels are unjudged, for every thing of the picture."""
    listed = root / "ImageSets" / "Segmentation" / "val.txt"
    if not listed.is_file():
        raise LayoutError(f"got no list {listed}, expected the names of the validation pictures")
    names = sample.of(lines_of(listed))
    if not names:
        raise LayoutError(f"{listed} names no picture, expected a name a line")
    paths = [picture(root / "JPEGImages" / f"{name}.jpg", listed.name) for name in names]
    for part in ("SegmentationClass", "SegmentationObject"):
        for name in names:
            if not (root / part / f"{name}.png").is_file():
                raise LayoutError(
                    f"got no mask {root / part / f'{name}.png'}, expected one for {name}.jpg"
                )

    def things(row: int) -> tuple[Thing, ...]:
        frame, file = frame_of(paths[row]), f"{names[row]}.png"
        classes, objects = root / "SegmentationClass" / file, root / "SegmentationObject" / file
        return _things(_pixels(classes, frame), _pixels(objects, frame), objects)

    return Pictured(
        "VOC 2012",
        Files(paths),
        Lazy(things, range(len(paths))),
        tuple(template.format(name) for name in CLASSES),
        sample.seed,
    )


def _pixels(path: Path, frame: Frame) -> Int64[np.ndarray, "row col"]:
    return masks.fitted(masks.numbers(path), frame, f"the mask {path}")


def _things(
    classes: Int64[np.ndarray, "row col"], objects: Int64[np.ndarray, "row col"], path: Path
) -> tuple[Thing, ...]:
    judged = (classes != VOID) & (objects != VOID)
    found: list[Thing] = []
    for number in np.unique(objects[judged]).tolist():
        if not number:
            continue
        mask = (objects == number) & judged
        kinds, counts = np.unique(classes[mask], return_counts=True)
        kind = int(kinds[counts.argmax()])
        if not 1 <= kind <= len(CLASSES):
            raise LayoutError(
                f"{path}: object {number} is of class {kind}, expected 1 to {len(CLASSES)}"
            )
        found.append(Thing(kind - 1, mask, None if judged.all() else judged))
    return tuple(found)
