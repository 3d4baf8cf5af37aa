"""Hugging Face's tokenizers as the way from prompts to what a text tower takes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from heatproof.errors import ModelError, PromptError
from heatproof.models import tokenizers
from heatproof.models.hugging_face.sides import TextSide
from heatproof.models.towers import TextTower, Tokens


def text_tower(side: TextSide, tokenizer: Any) -> TextTower:
    """Describe the text tower, with the model's own tokenizer, CLIP's where it fits, or none."""
    codec = tokenizers.Codec(
        tokenizer=_usable(side, tokenizer),
        context=side.context,
        vocabulary=side.vocabulary,
        readout=side.rows,
        special=side.special,
    )
    # The tokenizer's own padding counts where configuration and tokenizer differ.
    own = getattr(codec.tokenizer, "pad_token_id", None)
    padding = side.padding if side.padding is None or own is None else own
    tokenize = partial(_tokenize, codec, padding)
    if side.masked and "attention_mask" in getattr(codec.tokenizer, "model_input_names", ()):
        tokenize = partial(_tokenize_with_mask, codec)
    from_ids = codec.from_ids if padding is None else partial(_from_ids, codec, padding)
    return TextTower(
        encode=side.encode,
        path=side.path,
        context=side.context,
        tokenize=tokenize,
        from_ids=from_ids,
        readout=side.readout,
        project=side.project,
    )


def _usable(side: TextSide, tokenizer: Any) -> Any:
    if tokenizer is None:
        tokenizer = tokenizers.usual_tokenizer(side.vocabulary, side.context)
    if isinstance(tokenizer, tokenizers.Missing):
        return tokenizer
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    if getattr(inner, "pad_token_id", 0) is None:
        raise ModelError("the tokenizer names no padding token; set tokenizer.pad_token first")
    return inner


def _tokenize(codec: tokenizers.Codec, padding: int | None, prompts: Sequence[str]) -> Tokens:
    padded = codec.tokenize(prompts)
    if padded.ids.numel() and int(padded.ids.max()) >= codec.vocabulary:
        raise PromptError(
            f"the tokenizer gave the id {int(padded.ids.max())}, but the model has "
            f"{codec.vocabulary} tokens; is it another model's?"
        )
    return padded if padding is None else _trimmed(padded, padding)


def _tokenize_with_mask(codec: tokenizers.Codec, prompts: Sequence[str]) -> Tokens:
    """Tokenize as SigLIP's tokenizer has it: some say what is padding, and the model masks it."""
    padded = _tokenize(codec, None, prompts)
    if not prompts:
        return padded
    given = codec.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=codec.context,
        truncation=True,
        return_tensors="pt",
    )
    return replace(padded, mask=given["attention_mask"].bool())


def _from_ids(codec: tokenizers.Codec, padding: int, ids: Int[Tensor, "prompt context"]) -> Tokens:
    missing = codec.context - ids.shape[-1]
    if ids.ndim == 2 and missing > 0:
        ids = pad(ids, (0, missing), value=padding)
    return _trimmed(codec.from_ids(ids), padding)


def _trimmed(padded: Tokens, padding: int) -> Tokens:
    """Cut prompts to the longest of them, and mask the padding that is left."""
    mask = _real(padded.ids, padding)
    longest = int(mask.int().cumsum(1).argmax(1).max()) + 1 if len(mask) else 1
    return replace(padded, ids=padded.ids[:, :longest], mask=mask[:, :longest])


def _real(ids: Int[Tensor, "prompt context"], padding: int) -> Bool[Tensor, "prompt context"]:
    """Return which tokens are the prompt's own; the first always is."""
    mask = ids != padding
    mask[:, :1] = True
    return mask
