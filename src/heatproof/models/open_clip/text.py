"""open_clip's text towers: what they take, and which row of theirs is the embedding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip import CLIP
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder
from open_clip.transformer import TextTransformer
from torch import Tensor

from heatproof.errors import ModelError
from heatproof.models import tokenizers
from heatproof.models.projection import EmbeddingHead
from heatproof.models.towers import Readout, TextTower, Tokens


def text_of(module: Any) -> Any:
    """Return the module of the text tower; open_clip's CLIP holds its parts itself."""
    return getattr(module, "text", module)


def text_tower(module: Any, tokenizer: Any) -> TextTower:
    """Describe a model's text tower; without `tokenizer`, with CLIP's where it fits."""
    name, row = _readout(module)
    text = text_of(module)
    if tokenizer is None:
        tokenizer = tokenizers.usual_tokenizer(text.vocab_size, text.context_length)
    codec = tokenizers.Codec(
        tokenizer=tokenizer,
        context=text.context_length,
        vocabulary=text.vocab_size,
        readout=row,
        special=_special_ids(module, text),
    )
    return TextTower(
        encode=partial(_encode_text, module),
        path="transformer" if isinstance(module, CLIP) else "text",
        context=text.context_length,
        tokenize=codec.tokenize,
        from_ids=codec.from_ids,
        readout=Readout(name, None),
        project=_projection(text),
    )


def _special_ids(module: Any, text: Any) -> frozenset[int]:
    """Return the ids of start, end and padding, as far as the model itself says them."""
    if isinstance(text, HFTextEncoder):
        return _named_ids(text.config)
    pool: Any = text.text_pool_type if text is module else text.pool_type
    if pool == "argmax":  # the end of text has the highest id, in CLIP the start has the one before
        return frozenset((text.vocab_size - 2, text.vocab_size - 1))
    if pool == "eos":
        return frozenset((module.text_eos_id if text is module else text.eos_id,))
    return frozenset()


def _named_ids(config: Any) -> frozenset[int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    ids = (getattr(config, name, None) for name in names)
    return frozenset(token for token in ids if isinstance(token, int))


def _projection(text: Any) -> EmbeddingHead | None:
    if isinstance(text, HFTextEncoder):
        return None
    return EmbeddingHead(text.ln_final, text.text_projection)


def _encode_text(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    device = next(module.parameters()).device
    return module.encode_text(prompts.ids.to(device), normalize=False)


def _readout(
    module: Any,
) -> tuple[Any, Callable[[Int[Tensor, "prompt context"]], Int[Tensor, " prompt"]]]:
    """Return the readout's name and the function that gives each prompt's readout row.

    The row -1 is the mean over a prompt's tokens.
    """
    text = text_of(module)
    if isinstance(text, HFTextEncoder):
        if isinstance(text.pooler, ClsPooler | ClsLastHiddenStatePooler):
            return "class token", partial(tokenizers.same_row, 0)
        return "mean of tokens", partial(tokenizers.same_row, -1)
    if isinstance(text, TextTransformer) and text.cls_emb is not None:
        # CoCa appends its class token behind the context.
        return "class token", partial(tokenizers.same_row, text.context_length)
    pool: Any = text.text_pool_type if text is module else text.pool_type
    if pool == "eos":
        return "end of text", partial(
            tokenizers.first_row, module.text_eos_id if text is module else text.eos_id
        )
    rows = {
        "argmax": ("end of text", partial(torch.argmax, dim=-1)),
        "last": ("last token", partial(tokenizers.same_row, text.context_length - 1)),
        "first": ("class token", partial(tokenizers.same_row, 0)),
    }
    if pool not in rows:
        raise ModelError(
            f"the text tower pools by {pool!r}, which gives no single embedding; "
            "expected 'argmax', 'eos', 'last' or 'first'"
        )
    return rows[pool]
