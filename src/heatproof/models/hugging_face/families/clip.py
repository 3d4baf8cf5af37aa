"""CLIP: a class token; causal text, read out at the end of text."""

from functools import partial
from typing import Any

import torch
import transformers

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
    config = module.config.vision_config
    return ImageSide(
        family="hf-clip",
        encode=pooled_image(module),
        prefix=("class",),
        readout=Readout("class token", 0),
        native=pair(config.image_size),
        patch=pair(config.patch_size),
        project=EmbeddingHead(module.vision_model.post_layernorm, module.visual_projection),
    )


def _text(module: Any) -> TextSide:
    config = module.config.text_config
    # Before transformers' PR 24773 configurations named the end of text wrongly, as 2; the library
    # still takes the largest id there.
    legacy = config.eos_token_id == 2
    return TextSide(
        encode=partial(text_features, module),
        readout=Readout("end of text", None),
        rows=partial(torch.argmax, dim=-1)
        if legacy
        else partial(tokenizers.first_row, config.eos_token_id),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        project=EmbeddingHead(module.text_model.final_layer_norm, module.text_projection),
        special=frozenset((config.vocab_size - 2, config.vocab_size - 1))
        if legacy
        else frozenset((config.bos_token_id, config.eos_token_id)),
    )


def _usual_processor(side: ImageSide) -> Any:
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": min(side.native)}, crop_size=square(side)
    )


ARCHITECTURE = Architecture(
    model_class="CLIPModel",
    image=_image,
    text=_text,
    usual_processor=_usual_processor,
    call=library.hugging_face,
)
