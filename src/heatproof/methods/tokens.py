"""Values and activations by token, on the key tokens of the last attention call."""

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.pass_context import ReadPass
from heatproof.reading import by_token


def on_tokens(
    read: ReadPass, values: Float[Tensor, "item some"], where: slice
) -> Float[Tensor, "item token"]:
    """Put values on some of the last call's key tokens, and zero on the others."""
    tokens = values.new_zeros(values.shape[0], read.last.key.shape[2])
    tokens[:, where] = values
    return tokens


def content_of(
    read: ReadPass, tokens: Float[Tensor, "item token channel"]
) -> Float[Tensor, "item patch channel"]:
    """Return the tokens that stand for the input: patches (a feature map has no others)."""
    rows, cols = read.batch.grid
    is_map = read.batch.side == "image" and tokens.shape[1] == rows * cols
    return tokens if is_map else tokens[:, read.batch.content]


def products(
    state: Float[Tensor, "item ..."], gradient: Float[Tensor, "item ..."]
) -> Float[Tensor, "item token"]:
    """Compute the sum over channels of z dS/dz by token, at least in float32."""
    wide = torch.promote_types(state.dtype, torch.float32)
    return (by_token(state.detach()).to(wide) * by_token(gradient).to(wide)).sum(-1)


def at_readout(
    read: ReadPass, tokens: Float[Tensor, "item token width"]
) -> Float[Tensor, "item width"]:
    """Return the readout's row of each item."""
    assert read.batch.readout is not None
    index = read.batch.readout.to(tokens.device).view(-1, 1, 1)
    return tokens.take_along_dim(index, dim=1).squeeze(1)
