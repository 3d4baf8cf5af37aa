"""Module states as one row of channels a token, however a model lays them out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import ReadPass
from heatproof.reading import AttentionLayer

Tokens = Float[Tensor, "item token channel"]


def blocks_of(sites: Sequence[AttentionLayer]) -> tuple[str, ...]:
    """The residual blocks that hold the tower's attention calls, first to last.

    Raises:
        ReadingError: there are none (an attention-pooled ResNet).
    """
    blocks = tuple(dict.fromkeys(site.block for site in sites if site.block is not None))
    if not blocks:
        raise ReadingError(
            f"the tower's attention ({sites[-1].path!r}) is in no residual block, and this method "
            "reads what goes through blocks; try attention-x-gradient or grad-cam"
        )
    return blocks


def as_tokens(state: Float[Tensor, "item ..."]) -> Tokens:
    """(item, token, channel) of that, or of a feature map (item, channel, row, col)."""
    if state.dim() == 4:
        return state.flatten(2).transpose(1, 2)
    if state.dim() != 3:
        raise ReadingError(
            f"got a state of shape {tuple(state.shape)}, expected (item, token, channel) or "
            "(item, channel, row, col)"
        )
    return state


def products(
    state: Float[Tensor, "item ..."], gradient: Float[Tensor, "item ..."]
) -> Float[Tensor, "item token"]:
    """sum over channels of z dS/dz, token by token, at least in float32."""
    wide = torch.promote_types(state.dtype, torch.float32)
    return (as_tokens(state.detach()).to(wide) * as_tokens(gradient).to(wide)).sum(-1)


def content_of(read: ReadPass, tokens: Tokens) -> Float[Tensor, "item patch channel"]:
    """The tokens that stand for the input: patches (a feature map has no others)."""
    batch = read.batch
    count = batch.grid[0] * batch.grid[1]
    if batch.side == "image" and tokens.shape[1] == count:
        return tokens
    return tokens[:, batch.content]
