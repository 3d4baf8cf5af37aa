"""The methods that read gradients of the input or change the backward pass, by hand.

As in `by_hand`: nothing here uses heatproof. A rule that changes gradients is told by writing the
forward pass with its frozen factor detached; relevance that is no gradient, by its own sums.
"""

import copy
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import scipy.special
import torch
from torch import Tensor, nn

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

    Three nodes of Gauss and Legendre on [0, 1] are written out, more looked up by scipy.
    """
    x, far = point_of(told), math.sqrt(3 / 5)
    nodes = [(0.5 - far / 2, 5 / 18), (0.5, 8 / 18), (0.5 + far / 2, 5 / 18)]
    if steps != 3:
        places, weights = scipy.special.roots_legendre(steps)
        nodes = [((1 + a) / 2, w / 2) for a, w in zip(places, weights, strict=True)]
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
def attcat(told: Told, state: str = "inputs") -> Tensor:
    """Qiang et al. 2022: sum_l (mean_hq A_i) (sum_c z_ic dS/dz_ic), z what a block is given, as in
    the notebooks' `hs[blk_id]`, or what it puts out."""
    total = torch.zeros(len(told.layers[0].keys[0]), dtype=torch.float64)
    for layer in told.layers:
        z = layer.given if state == "inputs" else layer.left
        assert z is not None
        (grad,) = by_hand.gradient(told, [z])
        for i in range(len(total)):
            received = sum(float(a.detach()[:, i].mean()) for a in layer.weights) / len(
                layer.weights
            )
            total[i] += received * float((z[i].detach() * grad[i]).sum())
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


# --- backward rules -----------------------------------------------------------------------------


def _frozen_norm(x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
    if norm is None:
        return x
    mean = x.mean(-1, keepdim=True)
    deviation = torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + norm.eps).detach()
    return (x - mean) / deviation * norm.weight + norm.bias


def _frozen_gelu(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))).detach()


def _frozen_cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / torch.sqrt((a * a).sum()).detach() / torch.sqrt((b * b).sum()).detach()


_softmax = by_hand.softmax_rows


def _frozen_softmax(scores: Tensor) -> Tensor:
    return _softmax(scores).detach().requires_grad_()


@contextmanager
def ruled(*, softmax: Callable[[Tensor], Tensor] = _frozen_softmax) -> Generator[None]:
    """Passes told in here have frozen norms, gates and, unless told, attention weights."""
    rules = {
        "normalised": _frozen_norm,
        "gelu": _frozen_gelu,
        "cosine": _frozen_cosine,
        "softmax_rows": softmax,
    }
    own = {name: getattr(by_hand, name) for name in rules}
    try:
        for name, rule in rules.items():
            setattr(by_hand, name, rule)
        yield
    finally:
        for name, function in own.items():
            setattr(by_hand, name, function)


@replicates("libragrad")
def libragrad(told: Told, of: str) -> Tensor:
    """Mehri et al. 2025: the method's own formula on gradients under the rules."""
    with ruled():
        if of in ("fullgrad", "fullgrad-plus"):
            return full_gradient(told, plus=of == "fullgrad-plus")
        options: dict[str, dict[str, Any]] = {
            "gae": {"layers": len(told.layers)},
            "grad-cam": {"at": "norm1", "mean": "patches", "heads": "model"},
            "smoothgrad": {"samples": 5, "sigma": 1.0},
            "integrated-gradients": {"steps": 50},
        }
        return by_hand.TWINS[of](retell(told, point_of(told)), **options.get(of, {}))


def full_gradient(told: Told, plus: bool) -> Tensor:
    """z dS/dz + sum over biases b dS/db, each bias a matrix of its own row for every token."""
    size, module = len(told.layers[0].keys[0]), copy.deepcopy(told.extra["module"])
    side = module.visual if told.pixels is not None else module
    last = side.ln_post if told.pixels is not None else side.ln_final
    biases: list[Tensor] = []
    for block in side.transformer.resblocks:
        parts = (block.ln_1, block.attn.out_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj)
        biases += [_a_row_for_each(part, "bias", size) for part in parts]
        biases.append(_a_row_for_each(block.attn, "in_proj_bias", size))
    biases.append(_a_row_for_each(last, "bias", size))
    if isinstance(by_hand.end_bias(side), Tensor):
        biases.append(_a_row_for_each(side, "proj_bias", 1))
    again = retell(replace(told, extra={**told.extra, "module": module}), point_of(told))
    streams = [layer.given for layer in again.layers]
    streams = [*streams, again.layers[-1].left] if plus else streams[:1]
    wanted = [*streams, *biases]
    grads = by_hand.gradient(again, [each for each in wanted if each is not None])
    total = torch.zeros(size, dtype=torch.float64)
    for x, g in zip(wanted, grads, strict=True):
        values = (x.detach() * g).sum(1)
        if len(values) == size:
            total += values
        else:  # the head's bias is added to the readout alone
            total[told.readout] += values[0]
    return total


def _a_row_for_each(part: Any, name: str, tokens: int) -> nn.Parameter:
    rows = nn.Parameter(getattr(part, name).detach().expand(tokens, -1).clone())
    setattr(part, name, rows)
    return rows


@replicates("attnlrp")
def attnlrp(told: Told, attention: str) -> Tensor:
    """Achtibat et al. 2024: R = x dS/dx; softmax by its own derivative, products shared evenly."""
    if attention == "cp":
        with ruled():
            return input_x_gradient(told)
    with ruled(softmax=_softmax), _shared_products():
        return input_x_gradient(told)


@contextmanager
def _shared_products() -> Generator[None]:
    """Values pass half their gradient, attention weights half, queries and keys half of that."""
    own = by_hand.attention

    def share(x: Tensor, part: float) -> Tensor:
        return part * x + (1 - part) * x.detach()

    def attention(block: Any, x: Tensor, causal: bool, one_head: bool) -> tuple[Tensor, Any]:
        module, width = block.attn, x.shape[1]
        assert not one_head
        size = width // module.num_heads
        joint = x @ module.in_proj_weight.T + module.in_proj_bias
        outputs: list[Tensor] = []
        for h in range(module.num_heads):
            q, k, v = (joint[:, n * width + h * size :][:, :size] for n in range(3))
            scores = share(q, 0.5) @ share(k, 0.5).T / math.sqrt(size)
            if causal:
                hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, -math.inf)
            outputs.append(share(_softmax(scores), 0.5) @ share(v, 0.5))
        merged = torch.cat(outputs, dim=1) @ module.out_proj.weight.T + module.out_proj.bias
        return merged, own(block, x, causal, one_head)[1]

    by_hand.attention = attention
    try:
        yield
    finally:
        by_hand.attention = own


# --- relevance ----------------------------------------------------------------------------------


@replicates("transformer-attribution")
def transformer_attribution(told: Told, layers: int) -> Tensor:
    """Chefer et al. 2021: C = prod_l (I + mean_h (dS/dA * R^A)+), row r; no row normalisation."""
    relevance = attention_relevance(told, layers)
    size = len(told.layers[0].weights[0])
    joint = torch.eye(size, dtype=torch.float64)
    for layer, of_heads in zip(told.layers[-layers:], relevance, strict=True):
        grads = by_hand.gradient(told, layer.weights)
        pairs = zip(grads, of_heads, strict=True)
        step = sum(torch.relu(g * r) for g, r in pairs) / len(grads)
        joint = (torch.eye(size, dtype=torch.float64) + step) @ joint
    return joint[told.readout]


def attention_relevance(told: Told, layers: int) -> list[list[Tensor]]:
    """R^A of the last layers, first to last, each a matrix a head: from the score downwards."""
    module, target, r = told.extra["module"], told.extra["target"], told.readout
    picture = told.pixels is not None
    side = module.visual if picture else module
    norm = side.ln_post if picture else side.ln_final
    projection = side.proj if picture else side.text_projection
    with torch.no_grad():
        x = told.layers[-1].left
        assert x is not None
        row = by_hand.normalised(x, norm)[r]
        back = start_of_relevance(row @ projection, target)
        # The last layer norm hands all on, as the norm of the embedding does.
        relevance = torch.zeros_like(x)
        relevance[r] = linear_back(row[None], projection.T, back)[0]
        found: list[list[Tensor]] = []
        for layer, block in list(zip(told.layers, side.transformer.resblocks, strict=True))[::-1][
            :layers
        ]:
            of_heads, relevance = block_back(layer, block, relevance)
            found.insert(0, of_heads)
    return found


def start_of_relevance(embedding: Tensor, target: Tensor | int) -> Tensor:
    """Authors' ViT_LRP: the one-hot row of the class, at the logits. A cosine: 1, dealt out."""
    if isinstance(target, int):
        one_hot = torch.zeros_like(embedding)
        one_hot[target] = 1
        return one_hot[None]
    unit = target / torch.sqrt((target * target).sum())
    length = torch.sqrt((embedding * embedding).sum())
    one = torch.ones(1, 1, dtype=torch.float64)
    return linear_back((embedding / length)[None], unit[None], one)


def linear_back(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """z+: R_i = sum_j (x_i w_ji)+ R_j / sum_i (x_i w_ji)+, row by row of x."""
    result = torch.zeros_like(x)
    for n, row in enumerate(x):
        raised = torch.relu(weight * row)  # (out, in)
        for j, parts in enumerate(raised):
            if parts.sum() > 0:
                result[n] += parts / parts.sum() * relevance[n, j]
    return result


def sum_back(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """By part, then scaled: the parts' absolute totals decide who gets how much."""
    shares = [a / (a + b) * relevance, b / (a + b) * relevance]
    totals = [float(share.sum()) for share in shares]
    whole = sum(abs(total) for total in totals)
    first, second = (
        share * (abs(total) / whole * float(relevance.sum()) / total)
        for share, total in zip(shares, totals, strict=True)
    )
    return first, second


def product_back(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Of a b = z: each summand a_ik b_kj takes its share of z_ij's relevance, half to either."""
    to_a, to_b, z = torch.zeros_like(a), torch.zeros_like(b), a @ b
    for i in range(len(a)):
        for j in range(b.shape[1]):
            if z[i, j] == 0:
                continue
            share = a[i] * b[:, j] * relevance[i, j] / z[i, j] / 2
            to_a[i] += share
            to_b[:, j] += share
    return to_a, to_b


def block_back(layer: Any, block: Any, relevance: Tensor) -> tuple[list[Tensor], Tensor]:
    """From a block's output to its attention weights and to its input."""
    x, normed = layer.given, layer.normed
    merged = torch.cat(layer.outputs, dim=1)
    change = merged @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    middle = x + change
    second = by_hand.normalised(middle, block.ln_2)
    hidden = by_hand.gelu(second @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
    mlp = hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    straight, through = sum_back(middle, mlp, relevance)
    through = linear_back(hidden, block.mlp.c_proj.weight, through)
    through = linear_back(second, block.mlp.c_fc.weight, through)
    straight, through = sum_back(x, change, straight + through)
    through = linear_back(merged, block.attn.out_proj.weight, through)
    of_heads, back = [], [torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)]
    for h, (q, k, v, a) in enumerate(
        zip(layer.queries, layer.keys, layer.values, layer.weights, strict=True)
    ):
        part = slice(h * v.shape[1], (h + 1) * v.shape[1])
        to_a, to_v = product_back(a, v, through[:, part])
        of_heads.append(to_a)
        hidden_keys = a == 0  # the causal mask: the softmax hands on, the mask lets nothing by
        to_q, to_k = product_back(q, k.T, to_a.masked_fill(hidden_keys, 0))
        for whole, piece in zip(back, (to_q, to_k.T, to_v), strict=True):
            whole[:, part] = piece
    given = linear_back(normed, block.attn.in_proj_weight, torch.cat(back, dim=1))
    return of_heads, straight + given
