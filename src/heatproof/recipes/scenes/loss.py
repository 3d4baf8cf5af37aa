"""The contrastive loss when the truth of every pair of image and caption is known."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

_NEVER = -1e4


def against_false(
    logits: Float[Tensor, "row col"],
    true: Bool[Tensor, "row col"],
    false: Bool[Tensor, "row col"],
) -> Float[Tensor, ""]:
    """Return the mean over rows of -log softmax of each true entry against the row's false ones.

    True entries do not compete with each other, and entries that are neither do not compete at
    all: with one true entry per row, this is CLIP's loss. Rows without a true entry do not count.
    """
    # Entries that are neither true nor false do not compete.
    others = torch.logsumexp(logits.masked_fill(~false, _NEVER), dim=1, keepdim=True)
    losses = softplus(others - logits).masked_fill(~true, 0.0).sum(dim=1)
    # A row counts once, however many captions are true of it.
    count = true.sum(dim=1)
    return (losses / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def loss(
    logits: Float[Tensor, "scene caption"],
    true: Bool[Tensor, "scene caption"],
    false: Bool[Tensor, "scene caption"],
    families: list[tuple[float, list[int]]],
) -> Float[Tensor, ""]:
    """Compute the loss: captions compete for images, by family and together; images for captions.

    families: (weight, columns) of each family of captions.
    """
    total = against_false(logits, true, false) * 0.5 + against_false(logits.T, true.T, false.T)
    for weight, columns in families:
        if len(columns) > 1:
            part = against_false(logits[:, columns], true[:, columns], false[:, columns])
            total = total + weight * part
    return total
