"""The library's own way from a photo to a score: its processor, its tokenizer, its model's call.

Nothing here is used to explain. The certificate's input check compares with it what heatproof made,
so no preprocessing, tokenisation or description of heatproof's own takes part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

Inputs = Mapping[str, Tensor]
Given = Sequence[str] | Tensor
TEXT_BATCH = 64


@dataclass(frozen=True)
class Library:
    """How the library itself scores an image with prompts.

    `name` is the processor's. `prepare` gives what its model takes for one photo, as a batch of
    one; `pixels` are the pixels in it. `texts` turns prompts (texts, token ids or embeddings) into
    what `match` takes; `match` gives cosines, or a classifier's logits. `reads_text` is False where
    no tokenizer is known.
    """

    name: str
    prepare: Callable[[Image.Image], Inputs]
    texts: Callable[[Given], Any]
    match: Callable[[Inputs, Any], Float[Tensor, "image prompt"]]
    reads_text: bool = False

    def pixels(self, inputs: Inputs) -> Float[Tensor, "3 height width"]:
        """Return the processor's pixels, put together where it cut them into patches."""
        if "spatial_shapes" in inputs:
            return unpatched(inputs)
        return next(iter(inputs.values()))[0]


@dataclass(frozen=True)
class NoLibrary:
    """Why there is nothing to compare with."""

    reason: str = "no processor of this model's own is known; pass wrap(..., preprocess=...)"
    verdict: Literal["not established", "not applicable"] = "not established"


def another_size(height: int, width: int) -> NoLibrary:
    """Say that the images have another size than the model's own."""
    return NoLibrary(
        f"images of {height} x {width} pixels were asked for, which the model's own processor does "
        "not make",
        "not applicable",
    )


def unpatched(inputs: Inputs) -> Float[Tensor, "3 height width"]:
    """Return the pixels of one image that a NaFlex processor cut into patches and padded."""
    rows, cols = inputs["spatial_shapes"][0].tolist()
    # Padding patches stand behind the photo's own.
    patches = inputs["pixel_values"][0, : rows * cols]
    side = round((patches.shape[1] / 3) ** 0.5)
    tiles = patches.view(rows, cols, side, side, 3).permute(4, 0, 2, 1, 3)
    return tiles.reshape(3, rows * side, cols * side)


class NoCall(Exception):
    """The library has no call for such prompts."""


def name_of(processor: Any) -> str:
    """Return a processor's name for a reader: its class's, or a function's own."""
    if isinstance(processor, partial):
        return name_of(processor.args[0] if processor.args else processor.func)
    return getattr(processor, "__name__", type(processor).__name__)


# open_clip, and OpenAI's clip --------------------------------------------------------------------


def two_towers(module: Any, transform: Any, tokenizer: Any, name: str) -> Library:
    """Return the way of models with `encode_image` and `encode_text`.

    `tokenizer` turns a list of texts into ids."""
    return Library(
        name,
        partial(_transformed, transform),
        partial(_encoded_texts, module, tokenizer),
        partial(_encoded_images, module),
        callable(tokenizer),
    )


def ids_of(tokenizer: Any, context: int) -> Callable[[list[str]], Tensor]:
    """Return a tokenizer of transformers as a function from texts to ids, padded to the context."""

    def ids(texts: list[str]) -> Tensor:
        settings: dict[str, Any] = {"padding": "max_length", "truncation": True}
        return tokenizer(texts, max_length=context, return_tensors="pt", **settings)["input_ids"]

    return ids


def _transformed(transform: Any, photo: Image.Image) -> Inputs:
    return {"image": transform(photo).unsqueeze(0)}


def _encoded_images(module: Any, inputs: Inputs, texts: Tensor) -> Tensor:
    return _cosines(module.encode_image(inputs["image"]), texts)


def _encoded_texts(module: Any, tokenizer: Any, given: Given) -> Tensor:
    if isinstance(given, Tensor) and given.is_floating_point():
        return given
    ids = given if isinstance(given, Tensor) else tokenizer(list(given))
    # In parts: thousands of class prompts at once would take much memory.
    device = next(module.parameters()).device
    return torch.cat([module.encode_text(part) for part in ids.to(device).split(TEXT_BATCH)])


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Return cosines in the texts' dtype: given embeddings may be finer than the model's."""
    return normalize(images.to(texts.dtype), dim=-1) @ normalize(texts, dim=-1).T


# Hugging Face ------------------------------------------------------------------------------------


def hugging_face(module: Any, processor: Any, tokenizer: Any) -> Library:
    """Return the way of CLIP and SigLIP: `get_image_features(**processor(...))`."""
    return Library(
        name_of(processor),
        partial(_processed, processor),
        partial(_text_features, module, tokenizer),
        partial(_image_features, module),
        _is_tokenizer(tokenizer),
    )


def retrieval(module: Any, processor: Any, tokenizer: Any) -> Library:
    """Return the way of BLIP, which matches images and texts in one call."""
    return Library(
        name_of(processor),
        partial(_processed, processor),
        partial(_masked, module, tokenizer),
        partial(_matched, module),
        _is_tokenizer(tokenizer),
    )


def labelled(module: Any, processor: Any, _tokenizer: None = None) -> Library:
    """Return the way of a classifier of transformers: `model(**processor(...)).logits`."""
    return Library(
        name_of(processor), partial(_processed, processor), _given, partial(_logits, module)
    )


def _is_tokenizer(tokenizer: Any) -> bool:
    return callable(getattr(tokenizer, "tokenizer", tokenizer))


def _processed(processor: Any, photo: Image.Image) -> Inputs:
    """Return pixels first, where `Library.pixels` looks; a transform gives nothing else."""
    if not hasattr(processor, "model_input_names"):
        return {"pixel_values": processor(photo).unsqueeze(0)}
    found = processor(images=photo, return_tensors="pt")
    taken = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    return {name: found[name] for name in taken if name in found}


def _image_features(module: Any, inputs: Inputs, texts: Tensor) -> Tensor:
    return _cosines(_features(module.get_image_features(**inputs, return_dict=True)), texts)


def _text_features(module: Any, tokenizer: Any, given: Given) -> Tensor:
    if isinstance(given, Tensor) and given.is_floating_point():
        return given
    found = _tokenised(module, tokenizer, given)
    parts = [
        _features(
            module.get_text_features(
                **{name: ids[start : start + TEXT_BATCH] for name, ids in found.items()},
                return_dict=True,
            )
        )
        for start in range(0, len(found["input_ids"]), TEXT_BATCH)
    ]
    return torch.cat(parts)


def _features(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _tokenised(module: Any, tokenizer: Any, given: Given) -> dict[str, Tensor]:
    """Tokenize as the library's examples do: padded to the context, as SigLIP was trained."""
    if isinstance(given, Tensor) and given.is_floating_point():
        raise NoCall("embeddings were handed in, which the model's own call does not take")
    if isinstance(given, Tensor):
        return {"input_ids": given.to(module.device)}
    text = getattr(tokenizer, "tokenizer", tokenizer)
    context = module.config.text_config.max_position_embeddings
    found = text(
        list(given), padding="max_length", truncation=True, max_length=context, return_tensors="pt"
    )
    taken = ("input_ids", "attention_mask")
    return {name: found[name].to(module.device) for name in taken if name in found}


def _masked(module: Any, tokenizer: Any, given: Given) -> dict[str, Tensor]:
    """Mask padding, of token ids too: BLIP's text encoder takes any length."""
    found = _tokenised(module, tokenizer, given)
    mask = found["input_ids"] != module.config.text_config.pad_token_id
    mask[:, 0] = True
    return {"attention_mask": mask.long(), **found}


def _matched(module: Any, inputs: Inputs, texts: Mapping[str, Tensor]) -> Tensor:
    return module(**inputs, **texts, use_itm_head=False, return_dict=True).itm_score


def _logits(module: Any, inputs: Inputs, classes: Tensor) -> Tensor:
    return module(**inputs, return_dict=True).logits.to(classes.dtype) @ classes.T


# timm and torchvision ----------------------------------------------------------------------------


def classifier(module: nn.Module, transform: Any, name: str, *, features: bool = False) -> Library:
    """Return the way of `model(image)`: logits, or a tower's embedding (`features`)."""
    match = partial(_called_features if features else _called, module)
    return Library(name, partial(_transformed, transform), _given, match)


def _called(module: Any, inputs: Inputs, classes: Tensor) -> Tensor:
    return module(inputs["image"]).to(classes.dtype) @ classes.T


def _called_features(module: Any, inputs: Inputs, texts: Tensor) -> Tensor:
    return _cosines(module(inputs["image"]), texts)


def _given(given: Given) -> Tensor:
    """Return classes (one row of ones and zeros per prompt) or embeddings as they came."""
    assert isinstance(given, Tensor)
    return given
