"""DeiT: a ViT classifier with a distillation token behind its class token."""

from functools import partial
from typing import Any

import transformers

from heatproof.models import library
from heatproof.models.hugging_face.families.vit import classifier_side
from heatproof.models.hugging_face.sides import Architecture, ImageSide, square


def _usual_processor(side: ImageSide) -> Any:
    # DeiT was evaluated on 224 pixels cropped from 256, and so at other sizes.
    larger = {name: length * 8 // 7 for name, length in square(side).items()}
    return transformers.DeiTImageProcessor(size=larger, crop_size=square(side))


ARCHITECTURE = Architecture(
    model_class="DeiTForImageClassification",
    image=partial(classifier_side, ("class", "distillation")),
    usual_processor=_usual_processor,
    call=library.labelled,
)
