"""SigLIP: no class token, a pooling probe, a sigmoid; two-way text, read out at its last token."""

from functools import partial
from typing import Any

import transformers

from heatproof.errors import ModelError
from heatproof.models import library, tokenizers
from heatproof.models.hugging_face.sides import (
    Architecture,
    ImageSide,
    TextSide,
    pooled_image,
    square,
    text_features,
)
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import pair
from heatproof.models.towers import Readout


def _image(module: Any) -> ImageSide:
    check_pooled(module)
    config = module.config.vision_config
    return ImageSide(
        family="hf-siglip",
        encode=pooled_image(module),
        readout=Readout("pool probe", 0),
        native=pair(config.image_size),
        patch=pair(config.patch_size),
    )


def text_side(module: Any) -> TextSide:
    """Describe the text tower, which SigLIP 2 shares."""
    config = module.config.text_config
    return TextSide(
        encode=partial(text_features, module),
        readout=Readout("last token", None),
        # SigLIP pads to the context and reads the last position, padding or not.
        rows=partial(tokenizers.same_row, config.max_position_embeddings - 1),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        project=EmbeddingHead(module.text_model.final_layer_norm, module.text_model.head),
        special=frozenset((config.pad_token_id,)),  # it also ends a prompt
        masked=True,
    )


def check_pooled(module: Any) -> None:
    """Raise a `ModelError` where the image tower has no pooling head."""
    # Configurations of older transformers lack the field and always have the head.
    if not getattr(module.config.vision_config, "vision_use_head", True):
        raise ModelError(
            "the SigLIP image tower has no pooling head (vision_use_head is false), and so no "
            "embedding to explain; expected a model for image-text similarity"
        )


def _usual_processor(side: ImageSide) -> Any:
    return transformers.SiglipImageProcessor(size=square(side))


ARCHITECTURE = Architecture(
    model_class="SiglipModel",
    image=_image,
    text=text_side,
    usual_processor=_usual_processor,
    call=library.hugging_face,
)
