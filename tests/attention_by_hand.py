"""Attention in plain loops: slow, float64 where the input is, one sum at a time."""

import math

import torch
from torch import Tensor


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """softmax(query key' scale + mask) of (batch, head, query, channel) and (batch, head, key, ...).

    Fewer key heads than query heads are shared by neighbouring query heads.
    """
    query, key = query.detach(), key.detach()
    batch, heads, queries, channels = query.shape
    keys, shared = key.shape[2], heads // key.shape[1]
    factor = 1 / math.sqrt(channels) if scale is None else scale
    added = _added(mask, (batch, heads, queries, keys))
    weights = torch.zeros(batch, heads, queries, keys, dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                scores = [
                    factor * sum(float(query[b, h, q, c] * key[b, h // shared, k, c])
                                 for c in range(channels)) + added[b][h][q][k]
                    for k in range(keys)
                ]  # fmt: skip
                if causal:
                    scores = [s if k <= q else -math.inf for k, s in enumerate(scores)]
                weights[b, h, q] = torch.tensor(_softmax(scores), dtype=query.dtype)
    return weights


def attended(weights: Tensor, value: Tensor) -> Tensor:
    """Each query's weighted sum of values: (batch, head, query, channel)."""
    batch, heads, queries, keys = weights.shape
    shared = heads // value.shape[1]
    output = torch.zeros(batch, heads, queries, value.shape[-1], dtype=value.dtype)
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                for k in range(keys):
                    output[b, h, q] += weights[b, h, q, k] * value[b, h // shared, k]
    return output


def _softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    if top == -math.inf:  # every key is masked: torch's kernels give zeros
        return [0.0] * len(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def _added(mask: Tensor | None, shape: tuple[int, ...]) -> list[list[list[list[float]]]]:
    if mask is None:
        return torch.zeros(shape).tolist()
    if mask.dtype == torch.bool:
        return [[[[0.0 if kept else -math.inf for kept in row] for row in head] for head in each]
                for each in mask.expand(shape).tolist()]  # fmt: skip
    return mask.expand(shape).tolist()
