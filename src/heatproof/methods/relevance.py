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
    """Return the relevance before any layer, where each token is relevant to itself alone."""
    items, keys = layer.key.shape[0], layer.key.shape[2]
    weights = layer.weights
    assert weights is not None
    eye = torch.eye(keys, device=weights.device, dtype=weights.dtype)
    return eye.expand(items, keys, keys)


def is_pooling(layer: Attention) -> bool:
    """Return whether the queries are not the keys' own tokens (an attention pool)."""
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


def carried(layers: Sequence[Attention], steps: Sequence[Tensor]) -> Relevance:
    """Compute R <- R + step R over the layers, from R = 1, for steps (item, query, key).

    A pool, which has no residual, gives R <- step R.
    """
    relevance = identity_of(layers[0])
    for layer, step in zip(layers, steps, strict=True):
        moved = step @ relevance
        relevance = moved if is_pooling(layer) else relevance + moved
    return relevance


def readout_of(read: ReadPass, relevance: Relevance) -> Float[Tensor, "item token"]:
    """Return the relevance of input tokens to the readout (mean over rows where all are read)."""
    return read.rows(relevance.unsqueeze(1), read.last).mean((1, 2))
