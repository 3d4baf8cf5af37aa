"""Hugging Face's families, described: where the towers are, what they take, where they read out.

Nothing here computes an embedding: `encode` calls the model's own public methods. The facts are
those of the sources of transformers; tests hold them against the attention that models compute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.errors import ModelError
from heatproof.models.model import Layout, Projection, Readout, Tokens

Size = tuple[int, int]
EncodeImage = Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image dim"]]
EncodeText = Callable[[Tokens], Float[Tensor, "prompt dim"]]


@dataclass(frozen=True)
class Vision:
    """What has to be known of an image tower. `native` is its own input size in pixels.

    `any_size` says that the library interpolates the position embeddings for other sizes.
    """

    family: str
    encode: EncodeImage
    path: str
    prefix: tuple[str, ...]
    readout: Readout
    native: Size
    patch: Size
    any_size: bool = True
    project: Projection | None = None

    def layout(self, height: int, width: int) -> Layout:
        return Layout(height // self.patch[0], width // self.patch[1], self.prefix)


@dataclass(frozen=True)
class Text:
    """What has to be known of a text tower.

    `padding` is the padding token of towers that mask it and take prompts of any length up to
    `context`; None where the tower reads `context` tokens, padding included, unless it is `masked`
    and the tokenizer says what is padding. `special` are the ids of the start, the end and the
    padding, as far as the configuration names them.
    """

    encode: EncodeText
    path: str
    readout: Readout
    rows: Callable[[Int[Tensor, "prompt context"]], Int[Tensor, " prompt"]]
    context: int
    vocabulary: int
    padding: int | None = None
    project: Projection | None = None
    special: frozenset[int] = frozenset()
    masked: bool = False


@dataclass(frozen=True)
class Family:
    """How the models of one class of transformers are described."""

    vision: Callable[[Any], Vision]
    text: Callable[[Any], Text] | None = None


def family_of(module: nn.Module) -> Family | None:
    """The family of a model, found by the names of its classes: none of them is imported."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    return None


# The image side --------------------------------------------------------------------------------


def _clip_vision(module: Any) -> Vision:
    config = module.config.vision_config
    return Vision(
        family="hf-clip",
        encode=partial(_pooled_image, module, _pair(config.image_size)),
        path="vision_model",
        prefix=("class",),
        readout=Readout("class token", 0),
        native=_pair(config.image_size),
        patch=_pair(config.patch_size),
        project=Projection(module.vision_model.post_layernorm, module.visual_projection),
    )


def _siglip_vision(module: Any) -> Vision:
    _check_pooled(module)
    config = module.config.vision_config
    return Vision(
        family="hf-siglip",
        encode=partial(_pooled_image, module, _pair(config.image_size)),
        path="vision_model",
        prefix=(),
        readout=Readout("pool probe", 0),
        native=_pair(config.image_size),
        patch=_pair(config.patch_size),
    )


def _siglip2_vision(module: Any) -> Vision:
    """NaFlex: each photo on a grid of its own; native is the square of the learnt positions."""
    _check_pooled(module)
    config = module.config.vision_config
    side = int(config.num_patches**0.5) * config.patch_size
    return Vision(
        family="hf-siglip2",
        encode=partial(_patched_image, module, config.patch_size),
        path="vision_model",
        prefix=(),
        readout=Readout("pool probe", 0),
        native=(side, side),
        patch=_pair(config.patch_size),
    )


def _blip_vision(module: Any) -> Vision:
    config = module.config.vision_config
    return Vision(
        family="hf-blip",
        encode=partial(_projected_image, module, _pair(config.image_size)),
        path="vision_model",
        prefix=("class",),
        readout=Readout("class token", 0),
        native=_pair(config.image_size),
        patch=_pair(config.patch_size),
        project=Projection(module.vision_model.post_layernorm, module.vision_proj),
    )


def _vit(prefix: tuple[str, ...], module: Any) -> Vision:
    config = module.config
    native = _pair(config.image_size)
    return Vision(
        family=f"hf-{config.model_type}",
        encode=partial(_logits, module, native),
        path=module.base_model_prefix,
        prefix=prefix,
        readout=Readout("class token", 0),
        native=native,
        patch=_pair(config.patch_size),
        any_size=native[0] == native[1],  # the library interpolates from square grids only
        project=Projection(getattr(module, module.base_model_prefix).layernorm, module.classifier),
    )


def _check_pooled(module: Any) -> None:
    if not module.config.vision_config.vision_use_head:
        raise ModelError(
            "the SigLIP image tower has no pooling head (vision_use_head is false), and so no "
            "embedding to explain; expected a model for image-text similarity"
        )


def _pooled_image(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    return _pooled(
        module.get_image_features(
            pixel_values=pixels, interpolate_pos_encoding=_differs(pixels, native)
        )
    )


def _patched_image(
    module: Any, patch: int, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    rows, cols = pixels.shape[2] // patch, pixels.shape[3] // patch
    shape = torch.tensor([[rows, cols]] * len(pixels), device=pixels.device)
    return _pooled(
        module.get_image_features(
            pixel_values=patched(pixels, patch),
            pixel_attention_mask=torch.ones(len(pixels), rows * cols, device=pixels.device).int(),
            spatial_shapes=shape.reshape(-1, 2),
        )
    )


def patched(
    pixels: Float[Tensor, "image channel height width"], patch: int
) -> Float[Tensor, "image patch value"]:
    """Pixels patch by patch, row by row, channels last: the form that SigLIP 2 takes."""
    tiles = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _projected_image(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    """BLIP has no method for this; these are its own modules, as its retrieval joins them."""
    output = module.vision_model(
        pixel_values=pixels,
        interpolate_pos_encoding=_differs(pixels, native),
        return_dict=True,
    )
    return module.vision_proj(output.last_hidden_state[:, 0])


def _logits(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    output = module(
        pixel_values=pixels,
        interpolate_pos_encoding=_differs(pixels, native),
        return_dict=True,
    )
    return output.logits


def _differs(pixels: Tensor, native: Size) -> bool:
    """Whether positions have to be interpolated; at the native size the usual way is taken."""
    return tuple(pixels.shape[-2:]) != native


def _pooled(output: Any) -> Tensor:
    """The embedding: of a tensor, of an output by name, or of a plain tuple of the same."""
    if isinstance(output, Tensor):
        return output
    return output[1] if isinstance(output, tuple) else output.pooler_output


# The text side ---------------------------------------------------------------------------------


def _clip_text(module: Any) -> Text:
    config = module.config.text_config
    # Before transformers' PR 24773 configurations named the end of text wrongly, as 2; the library
    # still takes the largest id there.
    legacy = config.eos_token_id == 2
    return Text(
        encode=partial(_text_features, module),
        path="text_model",
        readout=Readout("end of text", None),
        rows=partial(torch.argmax, dim=-1) if legacy else partial(_first, config.eos_token_id),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        project=Projection(module.text_model.final_layer_norm, module.text_projection),
        special=frozenset((config.vocab_size - 2, config.vocab_size - 1))
        if legacy
        else frozenset((config.bos_token_id, config.eos_token_id)),
    )


def _siglip_text(module: Any) -> Text:
    config = module.config.text_config
    return Text(
        encode=partial(_text_features, module),
        path="text_model",
        readout=Readout("last token", None),
        rows=partial(_row, config.max_position_embeddings - 1),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        project=Projection(module.text_model.final_layer_norm, module.text_model.head),
        special=frozenset((config.pad_token_id,)),  # it also ends a prompt
        masked=True,
    )


def _blip_text(module: Any) -> Text:
    config = module.config.text_config
    return Text(
        encode=partial(_projected_text, module),
        path="text_encoder",
        readout=Readout("class token", None),
        rows=partial(_row, 0),
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
        padding=config.pad_token_id,
        # The configuration names no class token; in BERT's vocabularies it stands before the
        # separator.
        special=frozenset((config.bos_token_id, config.sep_token_id - 1, config.sep_token_id)),
    )


def _text_features(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    mask = None if prompts.mask is None else prompts.mask.to(module.device).long()
    ids = prompts.ids.to(module.device)
    return _pooled(module.get_text_features(input_ids=ids, attention_mask=mask))


def _projected_text(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    assert prompts.mask is not None
    output = module.text_encoder(
        input_ids=prompts.ids.to(module.device),
        attention_mask=prompts.mask.to(module.device).long(),
        return_dict=True,
    )
    return module.text_proj(output.last_hidden_state[:, 0])


def _first(token: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    return (ids == token).int().argmax(dim=-1)


def _row(row: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    return torch.full((len(ids),), row)


def real(ids: Int[Tensor, "prompt context"], padding: int) -> Bool[Tensor, "prompt context"]:
    """Which tokens are the prompt's own; the first always is."""
    mask = ids != padding
    mask[:, :1] = True
    return mask


def _pair(size: Any) -> Size:
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)


FAMILIES = {
    "CLIPModel": Family(_clip_vision, _clip_text),
    "SiglipModel": Family(_siglip_vision, _siglip_text),
    "Siglip2Model": Family(_siglip2_vision, _siglip_text),
    "BlipForImageTextRetrieval": Family(_blip_vision, _blip_text),
    "ViTForImageClassification": Family(partial(_vit, ("class",))),
    "DeiTForImageClassification": Family(partial(_vit, ("class", "distillation"))),
}
