"""The methods that read gradients of the input or change the backward pass, by hand.

As in `by_hand`: nothing here uses heatproof. A rule that changes gradients is told by writing the
forward pass with its frozen factor detached; relevance that is no gradient, by its own sums.
"""

import math
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


@replicates("attcat")
def attcat(told: Told) -> Tensor:
    """Qiang et al. 2022: sum_l (mean_hq A_i) (sum_c z_ic dS/dz_ic), z a block's output."""
    total = torch.zeros(len(told.layers[0].keys[0]), dtype=torch.float64)
    for layer in told.layers:
        assert layer.left is not None
        (grad,) = by_hand.gradient(told, [layer.left])
        for i in range(len(total)):
            received = sum(float(a.detach()[:, i].mean()) for a in layer.weights) / len(
                layer.weights
            )
            total[i] += received * float((layer.left[i].detach() * grad[i]).sum())
    return total


@replicates("attention-grad-cam")
def attention_grad_cam(told: Told) -> Tensor:
    """mean_h A_ri mean_j dS/dA_rj, j over the content, before the ReLU."""
    layer, r = told.layers[-1], told.readout
    grads = by_hand.gradient(told, layer.weights)
    parts = [a[r] * g[r, told.content].mean() for a, g in zip(layer.weights, grads, strict=True)]
    return torch.stack(parts).mean(0)


@replicates("grad-cam")
def grad_cam(told: Told, at: str, mean: str, heads: str) -> Tensor:
    """a_c = mean_i dS/dx_ic; sum_c a_c x_ic on the patches, before the ReLU."""
    del heads  # the forward pass was told with one head already
    layer = told.layers[-1]
    x = layer.normed if at == "norm1" else layer.given
    assert x is not None
    (grad,) = by_hand.gradient(told, [x])
    over = told.content if mean == "patches" else range(len(x))
    weight = sum(grad[i] for i in over) / len(over)
    cam = torch.zeros(len(x), dtype=torch.float64)
    for i in told.content:
        cam[i] = sum(float(weight[c]) * float(x.detach()[i, c]) for c in range(x.shape[1]))
    return cam
