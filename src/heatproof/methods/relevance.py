"""Relevance carried through all layers as a matrix from input tokens to the tokens of a layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import ReadPass
from heatproof.reading import Attention

Relevance = Float[Tensor, "item query token"]


def identity_of(layer: Attention) -> Relevance:
    """Before any layer, each token is relevant to itself."""
    items, keys = layer.key.shape[0], layer.key.shape[2]
    weights = layer.weights
    assert weights is not None
    eye = torch.eye(keys, device=weights.device, dtype=weights.dtype)
    return eye.expand(items, keys, keys)


def is_pooling(layer: Attention) -> bool:
    """Whether the queries are not the keys' own tokens (an attention pool)."""
    return layer.query.shape[2] != layer.key.shape[2]


def check_same_tokens(layers: Sequence[Attention]) -> None:
    """Raise a `ReadingError` where layers work on different tokens."""
    first = layers[0]
    for layer in layers:
        if layer.key.shape[2] != first.key.shape[2]:
            raise ReadingError(
                f"{layer.path!r} attends over {layer.key.shape[2]} tokens and {first.path!r} over "
                f"{first.key.shape[2]}: relevance cannot be carried between them; try layers=1"
            )


def readout_of(read: ReadPass, relevance: Relevance) -> Float[Tensor, "item token"]:
    """The relevance of input tokens to the readout (mean over rows where all are read out)."""
    return read.rows(relevance.unsqueeze(1), read.last).mean((1, 2))
