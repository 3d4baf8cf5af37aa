"""The methods that perturb inputs once more, by loops, on a forward pass that can be changed.

All of a prompt's ids are words here: the tiny model's are not those of its tokenizer.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from by_hand import Told, compared, cosine, end_bias, gelu, normalised, replicates, softmax_rows

# A black pixel after CLIP's normalisation, in the float32 that pictures are prepared in.
MEAN, SPREAD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BLACK = (0 - torch.tensor(MEAN)) / torch.tensor(SPREAD)
Change = Callable[[int, Tensor], Tensor]


@dataclass
class Again:
    """One more pass: its score, the state after each block, the last block's first norm."""

    score: Tensor
    states: list[Tensor]
    norm: Tensor


def again(
    told: Told,
    picture: Tensor | None = None,
    hidden: Sequence[int] = (),
    change: Change = lambda _, x: x,
) -> Again:
    """`told`'s pass, on another picture, with no token attending to the `hidden` ones, or with
    `change(block, state)` in the place of a block's output."""
    module, text = told.extra["module"], "ids" in told.extra
    x = _words(told) if text else _patches(told, told.pixels if picture is None else picture)
    states: list[Tensor] = []
    norm = x
    for number, block in enumerate((module if text else module.visual).transformer.resblocks):
        norm = normalised(x, block.ln_1)
        x = x + _attention(block.attn, norm, text, hidden)
        inner = gelu(normalised(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
        x = x + inner @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
        x = change(number, x)
        states.append(x)
    if text:
        embedding = normalised(x, module.ln_final)[told.readout] @ module.text_projection
    else:
        embedding = normalised(x, module.visual.ln_post)[0] @ module.visual.proj
        embedding = embedding + end_bias(module.visual)
    return Again(compared(embedding, told.extra["target"]), states, norm)


def _words(told: Told) -> Tensor:
    module, ids = told.extra["module"], told.extra["ids"]
    return module.token_embedding.weight[ids] + module.positional_embedding


def _patches(told: Told, picture: Tensor | None) -> Tensor:
    assert picture is not None
    visual = told.extra["module"].visual
    size, (rows, cols) = visual.conv1.kernel_size[0], told.grid
    tokens = [visual.class_embedding]
    for row, col in itertools.product(range(rows), range(cols)):
        patch = picture[:, row * size : (row + 1) * size, col * size : (col + 1) * size]
        tokens.append((visual.conv1.weight * patch).sum((1, 2, 3)))
    return normalised(torch.stack(tokens) + visual.positional_embedding, visual.ln_pre)


def _attention(module: Any, x: Tensor, causal: bool, hidden: Sequence[int]) -> Tensor:
    width, heads = x.shape[1], module.num_heads
    q, k, v = (x @ module.in_proj_weight.T + module.in_proj_bias).split(width, dim=1)
    outputs: list[Tensor] = []
    for part in torch.arange(width).split(width // heads):
        scores = q[:, part] @ k[:, part].T / math.sqrt(width // heads)
        seen = torch.ones_like(scores)
        for row in range(len(x)):
            seen[row, list(hidden)] = 0
            if causal:
                seen[row, row + 1 :] = 0
        # A row that sees nothing takes nothing.
        weights = torch.zeros_like(scores)
        some = seen.sum(1) > 0
        weights[some] = softmax_rows(scores.masked_fill(seen == 0, -math.inf)[some])
        outputs.append(weights @ v[:, part])
    return torch.cat(outputs, dim=1) @ module.out_proj.weight.T + module.out_proj.bias


def score(told: Told, **changed: Any) -> float:
    with torch.no_grad():
        return float(again(told, **changed).score)


def own_score(told: Told) -> float:
    return float(told.score.detach())


# --- taking away -------------------------------------------------------------------------------


def without(told: Told, gone: Sequence[int], remove: str, fill: str) -> float:
    """The score with these players gone (numbers into `players`)."""
    if "ids" in told.extra or remove == "tokens":
        return score(told, hidden=[told.content[n] for n in gone])
    assert told.pixels is not None
    picture, painted = told.pixels.clone(), filling(told, fill)
    size = picture.shape[1] // told.grid[0]
    for n in gone:
        row, col = divmod(n, told.grid[1])
        patch = (
            slice(None),
            slice(row * size, row * size + size),
            slice(col * size, col * size + size),
        )
        picture[patch] = painted[patch]
    return score(told, picture=picture)


def filling(told: Told, fill: str) -> Tensor:
    picture = told.pixels
    assert picture is not None
    if fill == "zero":
        return picture * 0
    if fill == "black":
        black = told.extra.get("black", BLACK)
        return black.double()[:, None, None].expand_as(picture)
    if fill == "mean":
        return torch.stack([torch.full_like(p, float(p.sum()) / p.numel()) for p in picture])
    size = picture.shape[1] // told.grid[0]
    down, across = (_smoothing(length, size) for length in picture.shape[1:])
    return torch.stack([down @ channel @ across.T for channel in picture])


def _smoothing(length: int, sigma: int) -> Tensor:
    """A Gaussian cut off at two sigma; beyond the edge the edge goes on."""
    matrix = torch.zeros(length, length, dtype=torch.float64)
    reach = min(2 * sigma, length - 1)
    for at, step in itertools.product(range(length), range(-reach, reach + 1)):
        matrix[at, min(max(at + step, 0), length - 1)] += math.exp(-(step**2) / (2 * sigma**2))
    return matrix / matrix.sum(1, keepdim=True)


def on_tokens(told: Told, values: Sequence[float]) -> Tensor:
    tokens = torch.zeros(len(told.layers[-1].keys[0]), dtype=torch.float64)
    tokens[told.content] = torch.tensor(list(values), dtype=torch.float64)
    return tokens


@replicates("occlusion")
def occlusion(told: Told, remove: str, fill: str, window: int, stride: int) -> Tensor:
    """Mean over the windows that cover a player of what the score loses under them."""
    rows, cols = (1, len(told.content)) if "ids" in told.extra else told.grid
    high, wide = min(window, rows), min(window, cols)
    losses: dict[int, list[float]] = {}
    for down in range(math.ceil((rows - high) / stride) + 1):
        for over in range(math.ceil((cols - wide) / stride) + 1):
            under = [
                row * cols + col
                for row in range(down * stride, min(down * stride + high, rows))
                for col in range(over * stride, min(over * stride + wide, cols))
            ]
            lost = own_score(told) - without(told, under, remove, fill)
            for player in under:
                losses.setdefault(player, []).append(lost)
    return on_tokens(told, [sum(losses[n]) / len(losses[n]) for n in range(rows * cols)])


@replicates("kernel-shap")
def kernel_shap(told: Told, remove: str, fill: str, samples: int) -> Tensor:
    """Lundberg & Lee, theorem 2: sizes drawn by 1 / (k (M - k)); Lagrange's equations solved."""
    count = len(told.content)
    generator = torch.Generator().manual_seed(0)
    mass = torch.tensor([1 / (k * (count - k)) for k in range(1, count)], dtype=torch.float64)
    sizes = torch.multinomial(mass, samples - 2, True, generator=generator) + 1
    noise = torch.rand(samples - 2, count, generator=generator, dtype=torch.float64)
    empty = without(told, range(count), remove, fill)
    design, gains = torch.zeros(samples - 2, count, dtype=torch.float64), []
    for n in range(samples - 2):
        stay = sorted(range(count), key=lambda i: float(noise[n, i]))[: int(sizes[n])]
        design[n, stay] = 1
        gains.append(without(told, sorted(set(range(count)) - set(stay)), remove, fill) - empty)
    y, total = torch.tensor(gains, dtype=torch.float64), own_score(told) - empty
    ones = torch.ones(count, 1, dtype=torch.float64)
    left = torch.cat([torch.cat([design.T @ design, ones], 1), torch.cat([ones, ones[:1] * 0]).T])
    right = torch.cat([design.T @ y, torch.tensor([total], dtype=torch.float64)])
    return on_tokens(told, (torch.linalg.pinv(left, rtol=1e-12) @ right)[:count].tolist())


def shapley(told: Told, remove: str, fill: str) -> Tensor:
    """The mean, over all orders, of what a player adds to those before it."""
    count = len(told.content)
    worth = {
        stay: without(told, sorted(set(range(count)) - set(stay)), remove, fill)
        for size in range(count + 1)
        for stay in itertools.combinations(range(count), size)
    }
    values = [0.0] * count
    for order in itertools.permutations(range(count)):
        for n, player in enumerate(order):
            before, after = sorted(order[:n]), sorted(order[: n + 1])
            values[player] += worth[tuple(after)] - worth[tuple(before)]
    return on_tokens(told, [value / math.factorial(count) for value in values])


@replicates("rise")
def rise(told: Told, remove: str, fill: str, masks: int, cells: int, probability: float) -> Tensor:
    """Petsiuk et al., eq. 6, with section 3.2's masks."""
    count = len(told.content)
    generator = torch.Generator().manual_seed(0)
    total = [0.0] * count
    if "ids" in told.extra or remove == "tokens":
        stay = torch.rand(masks, count, generator=generator) < probability
        for n in range(masks):
            found = without(told, [i for i in range(count) if not stay[n, i]], remove, fill)
            total = [t + found * bool(stay[n, i]) for i, t in enumerate(total)]
        return on_tokens(told, [t / (masks * probability) for t in total])
    assert told.pixels is not None
    height, width = told.pixels.shape[1:]
    grids = torch.rand(masks, 1, cells, cells, generator=generator)
    shifts = torch.rand(masks, 2, generator=generator)
    painted, size = filling(told, fill), height // told.grid[0]
    for grid, shift in zip(grids[:, 0] < probability, shifts, strict=True):
        parts: list[Tensor] = []
        for length, moved in zip((height, width), shift, strict=True):
            cell = math.ceil(length / cells)
            start = int(moved * cell)
            parts.append(_mirrored(cells, (cells + 1) * cell)[start : start + length])
        mask = parts[0] @ grid.double() @ parts[1].T
        found = score(told, picture=told.pixels * mask + painted * (1 - mask))
        for n in range(count):
            row, col = divmod(n, told.grid[1])
            patch = mask[row * size : row * size + size, col * size : col * size + size]
            total[n] += found * float(patch.mean())
    return on_tokens(told, [t / (masks * probability) for t in total])


def _enlarge(size: int, length: int) -> Tensor:
    """Linear interpolation between the middles of `size` cells at the middles of pixels."""
    matrix = torch.zeros(length, size, dtype=torch.float64)
    for pixel in range(length):
        at = min(max((pixel + 0.5) * size / length - 0.5, 0), size - 1)
        below = min(int(at), size - 2)
        matrix[pixel, below] += 1 - (at - below)
        matrix[pixel, below + 1] += at - below
    return matrix


def _mirrored(size: int, length: int) -> Tensor:
    """The authors' skimage.transform.resize(order=1, mode="reflect"): linear between the middles of
    cells; a place beyond the first or last one is read at its mirror image."""
    matrix = torch.zeros(length, size, dtype=torch.float64)
    for pixel in range(length):
        at = (pixel + 0.5) * size / length - 0.5
        if at < 0:
            at = -at
        if at > size - 1:
            at = 2 * (size - 1) - at
        below = int(at)
        matrix[pixel, below] += 1 - (at - below)
        if at > below:
            matrix[pixel, below + 1] += at - below
    return matrix


# --- inside the model --------------------------------------------------------------------------


@replicates("m2ib")
def m2ib(
    told: Told,
    layer: int | None,
    beta: float,
    steps: int,
    batch: int,
    rate: float,
    alpha: float,
) -> Tensor:
    """Wang et al., eqs. 5 to 8; Adam written out. Of two blocks, the bottleneck is in the first."""
    block = 0 if layer is None else layer
    with torch.no_grad():
        x = again(told).states[block]
    a = torch.full_like(x, alpha)
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    generator = torch.Generator().manual_seed(0)
    information = torch.zeros_like(x)
    for step in range(1, steps + 1):
        noise = torch.randn(batch, *x.shape, generator=generator).double()
        a = a.detach().requires_grad_()
        kept = 1 / (1 + torch.exp(-a))
        scores: list[Tensor] = []
        for eps in noise:
            mixed = kept * x + (1 - kept) * eps
            scores.append(again(told, change=lambda n, s, m=mixed: m if n == block else s).score)
        information = -0.5 * (1 + torch.log((1 - kept) ** 2) - (kept * x) ** 2 - (1 - kept) ** 2)
        loss = beta * information.mean() - sum(scores) / batch
        (grad,) = torch.autograd.grad(loss, [a])
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        moved = (mean / (1 - 0.9**step)) / (torch.sqrt(square / (1 - 0.999**step)) + 1e-8)
        a = a.detach() - rate * moved
    return information.detach().sum(1)


@replicates("vit-cx")
def vit_cx(told: Told, distance: float, noise: float) -> Tensor:
    """Xie et al., section 4, as the authors' code has it: whole pictures of masks, scipy's tree."""
    assert told.pixels is not None
    with torch.no_grad():
        features = again(told).norm[told.content].T.unflatten(1, told.grid)
    height, width = told.pixels.shape[1:]
    down, across = _enlarge(told.grid[0], height), _enlarge(told.grid[1], width)
    masks = [_unit(down @ each @ across.T) for each in features]
    apart = [
        1 - float(cosine(a.flatten(), b.flatten())) for a, b in itertools.combinations(masks, 2)
    ]
    labels = fcluster(linkage(apart, "complete"), distance, "distance").tolist()
    joint = [
        _unit(sum(m for m, own in zip(masks, labels, strict=True) if own == label))
        for label in dict.fromkeys(labels)
    ]
    generator = torch.Generator().manual_seed(0)
    draws = noise * torch.randn(len(joint), 3, height, width, generator=generator).double()
    heat = torch.zeros(height, width, dtype=torch.float64)
    for mask, drawn in zip(joint, draws, strict=True):
        n = drawn * (1 - mask)
        gained = score(told, picture=told.pixels * mask + n) - score(told, picture=told.pixels + n)
        heat += (gained + own_score(told)) * mask / sum(joint) / len(joint)
    size = height // told.grid[0]
    cells: list[float] = []
    for row, col in itertools.product(range(told.grid[0]), range(told.grid[1])):
        patch = heat[row * size : row * size + size, col * size : col * size + size]
        cells.append(float(patch.mean()))
    return on_tokens(told, cells)


def _unit(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min())


@replicates("second-order")
def second_order(told: Told, steps: int) -> Tensor:
    """Möller et al., eq. 7, summed over words whose reference is the origin."""
    assert told.pixels is not None
    with torch.no_grad():
        x = again(told).states[-2]
        r = again(told, picture=told.pixels * 0).states[-2]
    block, values = len(told.layers) - 2, torch.zeros(len(x), dtype=torch.float64)
    for k in range(1, steps + 1):
        point = (r + k / steps * (x - r)).requires_grad_()
        found = again(told, change=lambda n, s, p=point: p if n == block else s).score
        (grad,) = torch.autograd.grad(found, [point])
        values += ((x - r) * grad).sum(1) / steps
    return values
