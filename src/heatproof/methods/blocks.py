"""Residual blocks of a tower, and what their modules put out in one more pass of the encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import Plan, ReadPass
from heatproof.reading import AttentionLayer


def plan_of_all(sites: Sequence[AttentionLayer]) -> Plan:
    """Every call of the tower, without weights: their paths lead to the blocks."""
    return Plan(tuple(site.path for site in sites), weights=False, start=None)


def blocks(read: ReadPass, least: int, method: str) -> list[str]:
    """Paths of the residual blocks whose attention was read, first to last.

    Raises:
        ReadingError: there are fewer than `least` of them (an attention-pooled ResNet has none).
    """
    found: dict[str, None] = {}
    for layer in read.trace.layers:
        if layer.block is not None:  # a pool after the blocks has none
            found[layer.block] = None
    if len(found) < least:
        raise ReadingError(
            f"{method} needs at least {least} residual block(s) with attention, and this tower "
            f"has {len(found)}"
        )
    return list(found)


def outputs(read: ReadPass, path: str, pixels: Tensor | None = None) -> Tensor:
    """What the module at `path` puts out, on the pass's own inputs or on other pictures."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output.detach())
        return output

    with torch.no_grad():
        read.rerun(pixels, edits={path: keep})
    return kept[-1]


def by_token(state: Tensor) -> Float[Tensor, "item token channel"]:
    """A block's output, one row a token; feature maps (item, channel, row, col) are unrolled."""
    return state.flatten(2).transpose(1, 2) if state.dim() == 4 else state


def check_tokens(read: ReadPass, state: Float[Tensor, "item token channel"], method: str) -> None:
    """Raise a `ReadingError` where a block's tokens are not the keys that a map is made of."""
    tokens, keys = state.shape[1], read.last.key.shape[2]
    if tokens != keys:
        raise ReadingError(
            f"{method} reads blocks of {tokens} tokens, and the last attention call has {keys} "
            "keys: values cannot be carried from one to the other"
        )
