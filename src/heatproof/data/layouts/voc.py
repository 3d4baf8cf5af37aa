"""PASCAL VOC 2012's segmentation task (Everingham et al., IJCV 2010)."""

import re
import shlex
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.layouts.classes import role_of
from heatproof.data.layouts.reading import LayoutError, Sample, lines_of, picture
from heatproof.data.lazy import Files, Lazy
from heatproof.data.left_out import LeftOut
from heatproof.images import Frame, frame_of

VOID = 255
"""The outlines of objects, and what nobody could tell."""
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv monitor",
)  # fmt: skip
"""Their numbers are 1 to 20; "diningtable", "pottedplant" and "tvmonitor" written as words."""


def read(root: Path, sample: Sample, template: str) -> LabelledImages:
    """Return one thing an object of SegmentationObject, its class that of its pixels in
    SegmentationClass. Void pixels are unjudged, for every thing of the image."""
    listed = root / "ImageSets" / "Segmentation" / "val.txt"
    if not listed.is_file():
        raise LayoutError(
            f"got no list {listed}, expected the names of the validation pictures{_lists(listed)}"
        )
    _expect_vocs_classes(root)
    every, left_out = lines_of(listed), LeftOut()
    twice = [name for name in dict.fromkeys(every) if every.count(name) > 1]
    left_out.add(f"images listed more than once in {listed.name}, read once", twice)
    names = sample.of(list(dict.fromkeys(every)))
    if not names:
        raise LayoutError(f"{listed} names no picture, expected a name a line")
    paths = [picture(root / "JPEGImages" / f"{name}.jpg", listed.name) for name in names]
    for part in ("SegmentationClass", "SegmentationObject"):
        for name in names:
            if not (root / part / f"{name}.png").is_file():
                raise LayoutError(
                    f"got no mask {root / part / f'{name}.png'}, expected one for {name}.jpg"
                )

    def things(row: int) -> tuple[Instance, ...]:
        frame, file = frame_of(paths[row]), f"{names[row]}.png"
        classes, objects = root / "SegmentationClass" / file, root / "SegmentationObject" / file
        found = _things(_pixels(classes, frame), _pixels(objects, frame), objects)
        if not found:
            left_out.add("images without an object in their mask", [names[row]])
        return found

    return LabelledImages(
        name="VOC 2012",
        photos=Files(paths),
        things=Lazy(things, range(len(paths))),
        prompts=tuple(template.format(name) for name in CLASSES),
        seed=sample.seed,
        left_out=left_out,
    )


def _lists(listed: Path) -> str:
    """Return the lists that lie in place of val.txt, and the command that takes one of them."""
    order = {"test.txt": 0, "trainval.txt": 1, "train.txt": 2}
    found = sorted(listed.parent.glob("*.txt"), key=lambda path: order.get(path.name, 3))
    if not found:
        return ""
    names = ", ".join(path.name for path in found)
    command = f"cp {shlex.quote(str(found[0]))} {shlex.quote(str(listed))}"
    return f"; it has {names}: to read {found[0].name} instead, try {command}"


def _expect_vocs_classes(root: Path) -> None:
    """Check the classes: labelme and CVAT write VOC's layout for others, whose numbers are not
    VOC's."""
    wanted = {re.sub(r"\W", "", name) for name in CLASSES}
    for file in ("class_names.txt", "labels.txt", "labelmap.txt"):
        if not (root / file).is_file():
            continue
        names = [line.split(":")[0] for line in lines_of(root / file) if not line.startswith("#")]
        others = [
            name
            for name in names
            if role_of(name) == "object" and re.sub(r"\W", "", name.lower()) not in wanted
        ]
        if others:
            raise LayoutError(
                f"{root / file} names the class {others[0]!r}, which is none of VOC's 20; for "
                "your own classes put images/, masks/ and classes.txt into a folder and open that"
            )


def _pixels(path: Path, frame: Frame) -> Int64[np.ndarray, "row col"]:
    return masks.fitted(masks.numbers(path), frame, f"the mask {path}")


def _things(
    classes: Int64[np.ndarray, "row col"], objects: Int64[np.ndarray, "row col"], path: Path
) -> tuple[Instance, ...]:
    judged = (classes != VOID) & (objects != VOID)
    found: list[Instance] = []
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
        found.append(Instance(kind - 1, mask, None if judged.all() else judged))
    return tuple(found)
