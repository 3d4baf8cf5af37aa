"""ViT: a classifier with a class token."""

from functools import partial
from typing import Any

import transformers
from jaxtyping import Float
from torch import Tensor

from heatproof.models import library
from heatproof.models.hugging_face.sides import Architecture, ImageSide, differs, square
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import Size, pair
from heatproof.models.towers import Readout


def classifier_side(prefix: tuple[str, ...], module: Any) -> ImageSide:
    """Describe a ViT whose class token goes through a norm and a classifier."""
    config = module.config
    native = pair(config.image_size)
    return ImageSide(
        family=f"hf-{config.model_type}",
        encode=partial(_logits, module, native),
        path=module.base_model_prefix,
        prefix=prefix,
        readout=Readout("class token", 0),
        native=native,
        patch=pair(config.patch_size),
        any_size=native[0] == native[1],  # the library interpolates from square grids only
        project=EmbeddingHead(
            getattr(module, module.base_model_prefix).layernorm, module.classifier
        ),
    )


def _logits(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    output = module(
        pixel_values=pixels,
        interpolate_pos_encoding=differs(pixels, native),
        return_dict=True,
    )
    return output.logits


def _usual_processor(side: ImageSide) -> Any:
    return transformers.ViTImageProcessor(size=square(side))


ARCHITECTURE = Architecture(
    model_class="ViTForImageClassification",
    image=partial(classifier_side, ("class",)),
    usual_processor=_usual_processor,
    call=library.labelled,
)
