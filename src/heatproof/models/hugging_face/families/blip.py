"""BLIP for retrieval: class tokens on both sides, masked text, projections beside the towers."""

from functools import partial
from typing import Any

import transformers
from jaxtyping import Float
from torch import Tensor

from heatproof.models import library, tokenizers
from heatproof.models.hugging_face.sides import (
    Architecture,
    ImageSide,
    TextSide,
    differs,
    square,
)
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import Size, pair
from heatproof.models.towers import Readout, Tokens


def _image(module: Any) -> ImageSide:
    config = module.config.vision_config
    native = pair(config.image_size)
    return ImageSide(
        family="hf-blip",
        encode=partial(_projected_image, module, native),
        prefix=("class",),
        readout=Readout("class token", 0),
        native=native,
        patch=pair(config.patch_size),
        project=EmbeddingHead(module.vision_model.post_layernorm, module.vision_proj),
    )


def _text(module: Any) -> TextSide:
    config = module.config.text_config
    return TextSide(
        encode=partial(_projected_text, module),
        path="text_encoder",
        readout=Readout("class token", None),
        rows=partial(tokenizers.same_row, 0),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        padding=config.pad_token_id,
        # The configuration names no class token; in BERT's vocabularies it stands before the
        # separator.
        special=frozenset((config.bos_token_id, config.sep_token_id - 1, config.sep_token_id)),
        # No `project`: BERT normalises inside its blocks (post-LN), so that no final norm stands
        # between the last block and `text_proj`.
    )


# BLIP has no method that gives an embedding: these join its own modules as its retrieval does.


def _projected_image(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    output = module.vision_model(
        pixel_values=pixels,
        interpolate_pos_encoding=differs(pixels, native),
        return_dict=True,
    )
    return module.vision_proj(output.last_hidden_state[:, 0])


def _projected_text(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    assert prompts.mask is not None
    output = module.text_encoder(
        input_ids=prompts.ids.to(module.device),
        attention_mask=prompts.mask.to(module.device).long(),
        return_dict=True,
    )
    return module.text_proj(output.last_hidden_state[:, 0])


def _usual_processor(side: ImageSide) -> Any:
    return transformers.BlipImageProcessor(size=square(side))


ARCHITECTURE = Architecture(
    model_class="BlipForImageTextRetrieval",
    image=_image,
    text=_text,
    usual_processor=_usual_processor,
    call=library.retrieval,
)
