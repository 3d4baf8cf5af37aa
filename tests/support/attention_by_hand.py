"""Attention in plain loops: slow, float64 where the input is, one sum at a time."""

import math
from collections.abc import Callable

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
    """softmax(query key' scale + mask) of (batch, head, query or key, channel).

    Fewer key heads than query heads are shared by neighbouring query heads.
    """
    batch, heads, queries, channels = query.shape
    keys, shared = key.shape[2], heads // key.shape[1]
    factor = 1 / math.sqrt(channels) if scale is None else scale
    added = _added(mask, (batch, heads, queries, keys))
    rows, columns = query.tolist(), key.tolist()

    def row(b: int, h: int, q: int) -> list[float]:
        scores = [
            factor * sum(left * right for left, right in zip(rows[b][h][q], column, strict=True))
            + added[b][h][q][k]
            for k, column in enumerate(columns[b][h // shared])
        ]
        return _softmax([s if k <= q or not causal else -math.inf for k, s in enumerate(scores)])

    return _filled(row, batch, heads, queries, dtype=query.dtype)


def attended(weights: Tensor, value: Tensor) -> Tensor:
    """Each query's weighted sum of values: (batch, head, query, channel)."""
    batch, heads, queries, _ = weights.shape
    shared = heads // value.shape[1]
    rows, values = weights.tolist(), value.tolist()

    def row(b: int, h: int, q: int) -> list[float]:
        total = [0.0] * value.shape[-1]
        for weight, each in zip(rows[b][h][q], values[b][h // shared], strict=True):
            total = [so_far + weight * channel for so_far, channel in zip(total, each, strict=True)]
        return total

    return _filled(row, batch, heads, queries, dtype=value.dtype)


def _filled(row: Callable[[int, int, int], list[float]], *sizes: int, dtype: torch.dtype) -> Tensor:
    batch, heads, queries = map(range, sizes)
    return torch.tensor(
        [[[row(b, h, q) for q in queries] for h in heads] for b in batch], dtype=dtype
    )


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
