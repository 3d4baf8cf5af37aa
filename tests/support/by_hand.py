"""The methods once more, slower and beside their papers, on a forward pass written out here.

Nothing below uses heatproof: a two-tower CLIP as open_clip builds it, by its parameters alone,
with every head's attention as a matrix of its own; timm's ViT is told as such an image tower whose
embedding are its logits (`as_clip`). `replicates` names what a function re-tells.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

TWINS: dict[str, Callable[..., Tensor]] = {}


def replicates(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Name the catalogue entry that the function computes by hand."""

    def keep(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        TWINS[name] = function
        return function

    return keep


@dataclass
class Layer:
    """Everything that one attention layer forms, for one input: lists run over heads.

    `given` goes into its `block`, `normed` into its attention, `left` comes out of the block.
    """

    queries: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    weights: list[Tensor]
    outputs: list[Tensor]
    projection: nn.Linear
    given: Tensor | None = None
    normed: Tensor | None = None
    left: Tensor | None = None
    block: Any = None


@dataclass
class Told:
    """One input's pass: its layers, readout row, score, and which tokens are its content."""

    layers: list[Layer]
    readout: int
    score: Tensor
    content: list[int]
    grid: tuple[int, int] = (1, 1)
    pixels: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def softmax_rows(scores: Tensor) -> Tensor:
    powers = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
    return powers / powers.sum(dim=1, keepdim=True)


def normalised(x: Tensor, norm: nn.LayerNorm | None) -> Tensor:
    if norm is None:
        return x
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(block: Any, x: Tensor, causal: bool, one_head: bool) -> tuple[Tensor, Layer]:
    module = block.attn
    width = x.shape[1]
    heads = 1 if one_head else module.num_heads
    size = width // heads
    joint = x @ module.in_proj_weight.T + module.in_proj_bias
    q, k, v = joint[:, :width], joint[:, width : 2 * width], joint[:, 2 * width :]
    layer = Layer([], [], [], [], [], module.out_proj)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        if causal:
            for row in range(len(x)):
                scores[row, row + 1 :] = -math.inf
        weights = softmax_rows(scores)
        output = weights @ v[:, part]
        layer.queries.append(q[:, part])
        layer.keys.append(k[:, part])
        layer.values.append(v[:, part])
        layer.weights.append(weights)
        layer.outputs.append(output)
    merged = torch.cat(layer.outputs, dim=1)
    return merged @ module.out_proj.weight.T + module.out_proj.bias, layer


def tower(blocks: Any, x: Tensor, causal: bool, one_headed: int) -> tuple[Tensor, list[Layer]]:
    """The last `one_headed` blocks run with one head over the full width."""
    layers: list[Layer] = []
    for number, block in enumerate(blocks):
        normed = normalised(x, block.ln_1)
        change, layer = attention(block, normed, causal, number >= len(blocks) - one_headed)
        layer.given, layer.normed = x, normed
        layers.append(layer)
        layer.block = block
        x = x + change
        hidden = gelu(normalised(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
        x = layer.left = x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    return x, layers


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / torch.sqrt((a * a).sum()) / torch.sqrt((b * b).sum())


def compared(embedding: Tensor, target: Tensor | int) -> Tensor:
    """The cosine with another embedding, or a classifier's logit of a class."""
    return embedding.flatten()[target] if isinstance(target, int) else cosine(embedding, target)


def as_clip(vit: Any) -> Any:
    """timm's ViT with open_clip's names; the bias of its patches lies in their positions."""
    patches, blocks = vit.patch_embed.proj, []
    for block in vit.blocks:
        attn, mlp = block.attn, block.mlp
        blocks.append(
            SimpleNamespace(
                ln_1=block.norm1,
                ln_2=block.norm2,
                mlp=SimpleNamespace(c_fc=mlp.fc1, c_proj=mlp.fc2),
                attn=SimpleNamespace(
                    num_heads=attn.num_heads,
                    in_proj_weight=attn.qkv.weight,
                    in_proj_bias=attn.qkv.bias,
                    out_proj=attn.proj,
                ),
            )
        )
    positions = vit.pos_embed[0].detach().clone()
    positions[1:] += patches.bias.detach()
    visual = SimpleNamespace(
        conv1=patches,
        class_embedding=vit.cls_token[0, 0].detach(),
        positional_embedding=positions,
        ln_pre=None,
        transformer=SimpleNamespace(resblocks=blocks),
        ln_post=vit.norm,
        proj=vit.head.weight.detach().T,
        proj_bias=vit.head.bias,
    )
    return SimpleNamespace(visual=visual)


def end_bias(side: Any) -> Any:
    """What is added after the last linear map: CLIP adds nothing."""
    return getattr(side, "proj_bias", 0.0)


def see(module: Any, picture: Tensor, text: Tensor | int, one_headed: int = 0) -> Told:
    """One picture (3, height, width) through the image tower, against a text embedding or as one
    of a classifier's classes."""
    visual = module.visual
    size = visual.conv1.kernel_size[0]
    rows, cols = picture.shape[1] // size, picture.shape[2] // size
    tokens = [visual.class_embedding]
    for row in range(rows):
        for col in range(cols):
            patch = picture[:, row * size : (row + 1) * size, col * size : (col + 1) * size]
            tokens.append((visual.conv1.weight * patch).sum((1, 2, 3)))
    x = normalised(torch.stack(tokens) + visual.positional_embedding, visual.ln_pre)
    x, layers = tower(visual.transformer.resblocks, x, False, one_headed)
    embedding = normalised(x, visual.ln_post)[0] @ visual.proj + end_bias(visual)
    content = list(range(1, 1 + rows * cols))
    extra = _end(module, visual.ln_post, visual.proj, embedding, text)
    extra["bias"] = end_bias(visual)
    return Told(layers, 0, compared(embedding, text), content, (rows, cols), picture, extra)


def read(module: Any, ids: Tensor, image: Tensor, one_headed: int = 0) -> Told:
    """One prompt's ids (context,) through the text tower, against an image embedding."""
    x = module.token_embedding.weight[ids] + module.positional_embedding
    x, layers = tower(module.transformer.resblocks, x, True, one_headed)
    row = int(ids.argmax())
    embedding = normalised(x, module.ln_final)[row] @ module.text_projection
    extra = _end(module, module.ln_final, module.text_projection, embedding, image)
    extra["ids"] = ids
    return Told(layers, row, cosine(embedding, image), list(range(len(ids))), extra=extra)


def _end(
    module: Any, norm: Any, matrix: Tensor, embedding: Tensor, target: Tensor | int
) -> dict[str, Any]:
    """How the tower ends, and what the embedding is compared with."""
    ends = {"module": module, "norm": norm, "matrix": matrix, "bias": 0.0}
    return {**ends, "embedding": embedding, "target": target}


# --- the methods ------------------------------------------------------------------------------


def gradient(told: Told, wanted: list[Tensor]) -> list[Tensor]:
    return [g.detach() for g in torch.autograd.grad(told.score, wanted, retain_graph=True)]


def spatial_weight(told: Told, layer: Layer, spatial: str, projection: str) -> list[float]:
    r, keys = told.readout, range(len(layer.keys[0]))
    if spatial == "none":
        return [1.0 for _ in keys]
    if spatial == "attention":
        return [
            sum(float(w.detach()[r, i]) for w in layer.weights) / len(layer.weights) for i in keys
        ]
    query, key = torch.cat(layer.queries, dim=1), torch.cat(layer.keys, dim=1)
    query, key = query.detach(), key.detach()
    if projection == "output":
        weight, bias = layer.projection.weight.detach(), layer.projection.bias.detach()
        query, key = query @ weight.T + bias, key @ weight.T + bias
    u = [float(cosine(query[r], key[i])) for i in keys]
    low, high = min(u[i] for i in told.content), max(u[i] for i in told.content)
    return [(value - low) / (high - low) for value in u]


def eclip(
    told: Told, factor: Callable[[Layer, int, int], float], settings: dict[str, Any]
) -> Tensor:
    """Eq. 8 of Grad-ECLIP with the options: sum over layers, heads, channels, key by key."""
    count = settings["layers"]
    total = [0.0 for _ in told.layers[-1].keys[0]]
    for layer in told.layers[-count:]:
        u = spatial_weight(told, layer, settings["spatial"], settings["projection"])
        for i in range(len(total)):
            heads = [u[i] * factor(layer, h, i) for h in range(len(layer.weights))]
            if settings["rectify"] == "head":
                heads = [max(value, 0.0) for value in heads]
            value = sum(heads)
            total[i] += max(value, 0.0) if settings["rectify"] == "layer" else value
    return torch.tensor(total, dtype=torch.float64)


@replicates("grad-eclip")
def grad_eclip(told: Told, **settings: Any) -> Tensor:
    """Zhao et al. 2024: g_c = dS/do_rc; the channel sum g_c v_ic."""
    r = told.readout
    grads = {id(layer): gradient(told, layer.outputs) for layer in told.layers}

    def factor(layer: Layer, h: int, i: int) -> float:
        g, v = grads[id(layer)][h][r], layer.values[h][i].detach()
        return sum(float(g[c]) * float(v[c]) for c in range(len(g)))

    return eclip(told, factor, settings)


@replicates("attention-eclip")
def attention_eclip(told: Told, **settings: Any) -> Tensor:
    """arXiv 2605.12952: dS/dA_ri, no values."""
    grads = {id(layer): gradient(told, layer.weights) for layer in told.layers}
    return eclip(told, lambda layer, h, i: float(grads[id(layer)][h][told.readout, i]), settings)


@replicates("attention-x-gradient")
def attention_x_gradient(told: Told) -> Tensor:
    """sum_h A_ri dS/dA_ri in the last layer."""
    layer, r = told.layers[-1], told.readout
    grads = gradient(told, layer.weights)
    return torch.stack([a[r] * g[r] for a, g in zip(layer.weights, grads, strict=True)]).sum(0)


@replicates("raw-attention")
def raw_attention(told: Told) -> Tensor:
    """mean_h A_ri in the last layer."""
    return torch.stack([a[told.readout] for a in told.layers[-1].weights]).mean(0)


@replicates("rollout")
def rollout(told: Told, layers: int) -> Tensor:
    """Abnar & Zuidema: rows of (mean_h A + I), normalised, multiplied from the first layer on."""
    size = len(told.layers[0].weights[0])
    joint = torch.eye(size, dtype=torch.float64)
    for layer in told.layers[-layers:]:
        step = sum(layer.weights) / len(layer.weights) + torch.eye(size, dtype=torch.float64)
        for row in range(size):
            step[row] = step[row] / step[row].sum()
        joint = step @ joint
    return joint[told.readout]


@replicates("gae")
def gae(told: Told, layers: int) -> Tensor:
    """Chefer et al. 2021, eqs. 5 and 6: R <- R + mean_h (dS/dA * A)+ R."""
    relevance = torch.eye(len(told.layers[0].weights[0]), dtype=torch.float64)
    for layer in told.layers[-layers:]:
        grads = gradient(told, layer.weights)
        pairs = zip(layer.weights, grads, strict=True)
        step = sum(torch.relu(a * g) for a, g in pairs) / len(grads)
        relevance = relevance + step @ relevance
    return relevance[told.readout]


@replicates("random")
def random(told: Told) -> Tensor:
    """Standard normal values from seed 0, the first item's first target."""
    size = len(told.layers[-1].keys[0])
    return torch.randn(1, 1, size, generator=torch.Generator().manual_seed(0))[0, 0]


@replicates("blurred-random")
def blurred_random(told: Told) -> Tensor:
    """The random map's values, patch by patch, each averaged with the others by
    exp(-d^2 / (2 s^2)) along rows and columns, s an eighth of the side."""
    rows, cols = told.grid
    noise = random(told)[told.content].view(rows, cols)

    def share(size: int, one: int, other: int) -> float:
        weights = [math.exp(-((8 * (one - n) / size) ** 2) / 2) for n in range(size)]
        return weights[other] / sum(weights)

    cells = [(r, c) for r in range(rows) for c in range(cols)]
    values = [
        sum(share(rows, r, y) * share(cols, c, x) * float(noise[y, x]) for y, x in cells)
        for r, c in cells
    ]
    return _around(told, values)


@replicates("center")
def center(told: Told) -> Tensor:
    """exp(-(y^2 + x^2) / (2 / 4)) with y and x from -1 to 1."""
    rows, cols = told.grid
    values = [
        math.exp(-((2 * r / (rows - 1) - 1) ** 2 + (2 * c / (cols - 1) - 1) ** 2) / 0.5)
        for r in range(rows)
        for c in range(cols)
    ]
    return _around(told, values)


@replicates("edges")
def edges(told: Told) -> Tensor:
    """Central differences of the brightness (one-sided at the border), their length averaged."""
    assert told.pixels is not None
    grey = told.pixels.mean(0)
    (rows, cols), (height, width) = told.grid, grey.shape
    size = height // rows

    def slope(y: int, x: int, dy: int, dx: int) -> float:
        ahead = (min(y + dy, height - 1), min(x + dx, width - 1))
        behind = (max(y - dy, 0), max(x - dx, 0))
        steps = (ahead[0] - behind[0]) + (ahead[1] - behind[1])
        return (float(grey[ahead]) - float(grey[behind])) / steps

    values: list[float] = []
    for r in range(rows):
        for c in range(cols):
            cells = [(r * size + y, c * size + x) for y in range(size) for x in range(size)]
            lengths = [math.hypot(slope(y, x, 1, 0), slope(y, x, 0, 1)) for y, x in cells]
            values.append(sum(lengths) / len(lengths))
    return _around(told, values)


def _around(told: Told, values: list[float]) -> Tensor:
    """Patch values with zeros for the other tokens."""
    tokens = torch.zeros(len(told.layers[-1].keys[0]), dtype=torch.float64)
    tokens[told.content] = torch.tensor(values, dtype=torch.float64)
    return tokens
