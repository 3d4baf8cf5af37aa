"""Dense methods, LeGrad and the token decomposition by hand (see `by_hand`)."""

import math
from typing import Any

import torch
from torch import Tensor

from by_hand import Layer, Told, compared, gelu, normalised, read, replicates, softmax_rows
from families import ids_of

ZERO = torch.zeros((), dtype=torch.float64)


def score_of(told: Told, token: Tensor) -> Tensor:
    """cos(W_p LN(z), t) of one token, as if it were the readout (a classifier's logit)."""
    embedding = normalised(token, told.extra["norm"]) @ told.extra["matrix"] + told.extra["bias"]
    return compared(embedding, told.extra["target"])


def scores(told: Told, tokens: Tensor) -> Tensor:
    return torch.stack([score_of(told, token) for token in tokens])


def mixed(layer: Layer, weights: list[Tensor]) -> Tensor:
    """W_O times all heads' weighted values, plus b_O."""
    heads = [a @ v for a, v in zip(weights, layer.values, strict=True)]
    return torch.cat(heads, dim=1) @ layer.projection.weight.T + layer.projection.bias


def mlp(block: Any, x: Tensor) -> Tensor:
    hidden = gelu(normalised(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias)
    return hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def rest_of_block(layer: Layer, change: Tensor) -> Tensor:
    x = layer.given + change
    return x + mlp(layer.block, x)


def alike(rows: Tensor) -> Tensor:
    """softmax(x x' / sqrt(d))."""
    return softmax_rows(rows @ rows.T / math.sqrt(rows.shape[1]))


@replicates("maskclip")
def maskclip(told: Told) -> Tensor:
    """Zhou et al. 2022, authors' code: x_i + W_O v_i + b_O, through the block's MLP."""
    layer = told.layers[-1]
    itself = torch.eye(len(layer.given), dtype=torch.float64)
    return scores(told, rest_of_block(layer, mixed(layer, [itself] * len(layer.values))))


@replicates("sclip")
def sclip(told: Told) -> Tensor:
    """Wang et al. 2024: A = softmax(q q') + softmax(k k'), residual and MLP kept."""
    layer = told.layers[-1]
    pairs = zip(layer.queries, layer.keys, strict=True)
    return scores(told, rest_of_block(layer, mixed(layer, [alike(q) + alike(k) for q, k in pairs])))


@replicates("clearclip")
def clearclip(told: Told, residual: str) -> Tensor:
    """Lan et al. 2024: A = softmax(q q'), neither residual nor MLP."""
    layer = told.layers[-1]
    change = mixed(layer, [alike(q) for q in layer.queries])
    return scores(told, change if residual == "dropped" else rest_of_block(layer, change))


@replicates("clip-surgery")
def clip_surgery(told: Told, architecture: str, features: str, layers: int) -> Tensor:
    """Li et al. 2023: a path of softmax(v v') v beside the model's; <f_i, t - t_empty>."""
    found = scores(told, surgery_tokens(told, architecture, layers))
    if features == "none":
        return found
    module = told.extra["module"]
    empty = read(module, ids_of([""])[0], told.extra["target"]).extra["embedding"]
    other = Told(**{**vars(told), "extra": {**told.extra, "target": empty}})
    return found - scores(other, surgery_tokens(told, architecture, layers))


def surgery_tokens(told: Told, architecture: str, layers: int) -> Tensor:
    if architecture == "model":
        return told.layers[-1].left
    used = told.layers[-layers:]
    x = used[0].given
    for layer in used:
        x = x + mixed(layer, [alike(v) for v in layer.values])
    return torch.stack(
        [told.layers[-1].left[i] if i == told.readout else x[i] for i in range(len(x))]
    )


def feature_surgery(told: Told, texts: Tensor, architecture: str, layers: int) -> Tensor:
    """Their F_it = w_t f_i * t, channel by channel, less its mean over the texts; then summed."""
    tokens = surgery_tokens(told, architecture, layers)
    embeddings = normalised(tokens, told.extra["norm"]) @ told.extra["matrix"]
    features = [embedding / embedding.norm() for embedding in embeddings]
    words = [text / text.norm() for text in texts]
    powers = torch.stack([torch.exp(2 * features[told.readout] @ word) for word in words])
    w = powers / powers.mean()
    found = torch.zeros(len(words), len(features), dtype=torch.float64)
    for i, feature in enumerate(features):
        products = [w[t] * feature * word for t, word in enumerate(words)]
        redundant = torch.stack(products).mean(0)
        for t, product in enumerate(products):
            found[t, i] = (product - redundant).sum()
    return found.detach()


@replicates("legrad")
def legrad(told: Told, readout: str, layers: int) -> Tensor:
    """Bousselham et al. 2025: sum_l mean_hq (ds_l/dA^l)+, s_l of the mean token of layer l."""
    total = torch.zeros(len(told.layers[0].given), dtype=torch.float64)
    for layer in told.layers[-layers:]:
        surrogate = score_of(told, layer.left.mean(0))
        explained = told.score if readout == "model" else surrogate
        for grad in torch.autograd.grad(explained, layer.weights, retain_graph=True):
            for row in grad.detach():
                total += torch.relu(row) / (len(layer.weights) * len(grad))
    return total


@replicates("token-decomposition")
def token_decomposition(told: Told, contrast: str, layers: int) -> Tensor:
    """Gandelsman et al. 2024, eqs. 3-5 and prs_hook.py: every piece of the stream through the final
    norm, whose mean and bias are dealt out evenly, then <., t> / |f|."""
    assert contrast == "none"
    used, r = told.layers[-layers:], told.readout
    norm, matrix, target = told.extra["norm"], told.extra["matrix"], told.extra["target"]
    last = used[-1].left[r]
    deviation = torch.sqrt(((last - last.mean()) ** 2).mean() + norm.eps)
    parts = 2 * len(used) + 1

    def share(piece: Tensor, pieces: int) -> Tensor:
        centred = piece - last.mean() / pieces
        made = (centred * norm.weight / deviation + norm.bias / pieces) @ matrix
        made = made + told.extra["bias"] / pieces
        if isinstance(target, int):
            return made[target]
        return made @ target / target.norm() / told.extra["embedding"].norm()

    tokens = [ZERO for _ in used[0].given]
    tokens[r] = share(used[0].given[r], parts)
    for layer in used:
        count = len(layer.weights) * len(tokens)
        size = layer.values[0].shape[1]
        for h, (a, v) in enumerate(zip(layer.weights, layer.values, strict=True)):
            out = layer.projection.weight[:, h * size : (h + 1) * size]
            for i in range(len(tokens)):
                piece = a[r, i] * v[i] @ out.T + layer.projection.bias / count
                tokens[i] = tokens[i] + share(piece, parts * count)
        attended = layer.given + mixed(layer, layer.weights)
        tokens[r] = tokens[r] + share(mlp(layer.block, attended)[r], parts)
    return torch.stack(tokens)
