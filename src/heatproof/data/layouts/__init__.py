"""Official layouts, one data set a file: what is where, which pixels are whose, what is wrong.

Each file's `read(root, sample, template)` makes a `LabelledImages` whose images and masks are
opened when they are indexed; `heatproof.data.open` finds the file by its kind. What does not fit
the layout is named in one line.
"""

from heatproof.data.layouts.coco_captions import CocoPicture, coco, coco_mask
from heatproof.data.layouts.imagenet import ClassFolder, Labelled, class_names, imagenet
from heatproof.data.layouts.imagenet_s import (
    imagenet_s,
    imagenet_s_ids,
    imagenet_s_mask,
    known_ids,
)
from heatproof.data.layouts.reading import LayoutError, Sample

__all__ = [
    "ClassFolder",
    "CocoPicture",
    "Labelled",
    "LayoutError",
    "Sample",
    "class_names",
    "coco",
    "coco_mask",
    "imagenet",
    "imagenet_s",
    "imagenet_s_ids",
    "imagenet_s_mask",
    "known_ids",
]
