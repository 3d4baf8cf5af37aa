"""Rendered scenes with exact masks, captions and computable truth.

>>> drawn = sample(torch.arange(8))               # eight scenes, as tensors
>>> images, masks = render(drawn, pixels=512)   # uint8 (8, 3, 512, 512), bool (8, 4, 512, 512)
>>> scene = drawn.described()[0]                  # objects with shape, colour, size, texture, box
>>> truth(Caption(Phrase(colour="red", shape="circle")), scene)
"""

from heatproof.data.scenes.captions import (
    Caption,
    Phrase,
    absent,
    captions_of,
    combinations,
    phrase_of,
    reversed_relation,
    singles,
    swapped,
    truth,
    truths,
)
from heatproof.data.scenes.dataset import UNSEEN, Example, SceneDataset
from heatproof.data.scenes.files import write
from heatproof.data.scenes.renderer import PIXELS, render
from heatproof.data.scenes.scene import Scene, SceneObject, Scenes, sample
from heatproof.data.scenes.vocabulary import (
    COLOURS,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "PIXELS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "UNSEEN",
    "Caption",
    "Example",
    "Phrase",
    "Scene",
    "SceneDataset",
    "SceneObject",
    "Scenes",
    "absent",
    "captions_of",
    "combinations",
    "phrase_of",
    "render",
    "reversed_relation",
    "sample",
    "singles",
    "swapped",
    "truth",
    "truths",
    "write",
]
