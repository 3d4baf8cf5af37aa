"""The methods that read gradients of the input or change the backward pass, by hand.

As in `by_hand`: nothing here uses heatproof. A rule that changes gradients is told by writing the
forward pass with its frozen factor detached; relevance that is no gradient, by its own sums.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import by_hand
from by_hand import Told, replicates


class _Table:
    """Stands in for an embedding table: whatever is looked up, these rows come out."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __getitem__(self, _ids: Tensor) -> Tensor:
        return self.rows


def retell(told: Told, point: Tensor) -> Told:
    """The same pass at another input: pixels (3, height, width) or embeddings (token, channel)."""
    module, target = told.extra["module"], told.extra["target"]
    if told.pixels is not None:
        return by_hand.see(module, point, target)
    names = ("positional_embedding", "transformer", "ln_final", "text_projection")
    parts = {name: getattr(module, name) for name in names}
    twin = SimpleNamespace(token_embedding=SimpleNamespace(weight=_Table(point)), **parts)
    return by_hand.read(twin, told.extra["ids"], target)


def point_of(told: Told) -> Tensor:
    if told.pixels is not None:
        return told.pixels
    return told.extra["module"].token_embedding.weight[told.extra["ids"]].detach()


def slope(told: Told, point: Tensor) -> Tensor:
    """dS/dx at a point."""
    leaf = point.clone().requires_grad_()
    (grad,) = torch.autograd.grad(retell(told, leaf).score, [leaf])
    return grad


def per_token(told: Told, values: Tensor) -> Tensor:
    """Pixels added up patch by patch, or channels token by token."""
    if told.pixels is None:
        return values.sum(1)
    (rows, cols), (height, width) = told.grid, values.shape[1:]
    high, wide = height // rows, width // cols
    sums = [
        values[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide].sum()
        for r in range(rows)
        for c in range(cols)
    ]
    tokens = torch.zeros(len(told.layers[-1].keys[0]), dtype=torch.float64)
    tokens[told.content] = torch.stack(sums)
    return tokens


@replicates("input-x-gradient")
def input_x_gradient(told: Told) -> Tensor:
    """x dS/dx."""
    x = point_of(told)
    return per_token(told, x * slope(told, x))


@replicates("integrated-gradients")
def integrated_gradients(told: Told, steps: int) -> Tensor:
    """Sundararajan et al. 2017, eq. 1: x times the integral of dS/dx at a x, a from 0 to 1.

    The three nodes of Gauss and Legendre on [0, 1], written out.
    """
    assert steps == 3
    x, far = point_of(told), math.sqrt(3 / 5)
    nodes = ((0.5 - far / 2, 5 / 18), (0.5, 8 / 18), (0.5 + far / 2, 5 / 18))
    mean = sum(weight * slope(told, a * x) for a, weight in nodes)
    return per_token(told, x * mean)


@replicates("smoothgrad")
def smoothgrad(told: Told, samples: int, sigma: float) -> Tensor:
    """Smilkov et al. 2017: the mean of dS/dx at x + n, n normal with deviation sigma, seed 0."""
    x, generator = point_of(told), torch.Generator().manual_seed(0)
    total = torch.zeros_like(x)
    for _ in range(samples):
        noise = torch.randn(x.shape, generator=generator).double()
        total = total + slope(told, x + sigma * noise)
    return per_token(told, total / samples)


Function = Callable[..., Tensor]
