"""How the peers' scripts explain, told by hand: one picture, one prompt at a time.

Written from the published formulas in plain torch, for open_clip's ViT towers, to be timed against.
The whole tower is run with a graph, as the scripts run it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _heads(block: Any, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of (image, token, width), by head."""
    attention = block.attn
    packed = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    return tuple(  # type: ignore[return-value]
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1)
    )


def _after(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _embedding(visual: Any, x: Tensor) -> Tensor:
    return F.normalize(visual.ln_post(x)[:, 0] @ visual.proj, dim=-1)


def grad_eclip(visual: Any, picture: Tensor, prompts: Tensor) -> Tensor:
    """Grad-ECLIP as its script runs: last block with one head over the full width, one gradient of
    the cosine a prompt. `picture` (1, 3, height, width), `prompts` unit (prompt, dim)."""
    x = visual._embeds(picture)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    query, key, value = _heads(last, x, 1)
    weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
    output = weights @ value
    cosines = (_embedding(visual, _after(last, x, output)) @ prompts.T)[0]
    project = last.attn.out_proj
    with torch.no_grad():
        rows = F.normalize(project(query[0, 0, :1]), dim=-1)
        keys = F.normalize(project(key[0, 0, 1:]), dim=-1)
        near = (rows @ keys.T)[0]
        near = (near - near.min()) / (near.max() - near.min())
    maps: list[Tensor] = []
    for cosine in cosines:
        (grad,) = torch.autograd.grad(cosine, [output], retain_graph=True)
        channels = (grad[0, 0, :1] * value[0, 0, 1:].detach()).sum(-1)
        maps.append((near * channels).clamp(min=0))
    return torch.stack(maps)


def gae(visual: Any, picture: Tensor, prompt: Tensor, *, a_layer: bool = False) -> Tensor:
    """GAE over all layers for one picture and one prompt (dim,), from a pass of its own.

    `a_layer` takes one gradient for each layer, as the authors' notebook does, instead of one call
    for all of them.
    """
    x = visual._embeds(picture)
    every: list[Tensor] = []
    for block in visual.transformer.resblocks:
        query, key, value = _heads(block, x, block.attn.num_heads)
        weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        every.append(weights)
        x = _after(block, x, weights @ value)
    cosine = (_embedding(visual, x) @ prompt).sum()
    groups = [[weights] for weights in every] if a_layer else [every]
    grads = [g for some in groups for g in torch.autograd.grad(cosine, some, retain_graph=True)]
    relevance = torch.eye(every[0].shape[-1])
    for weights, grad in zip(every, grads, strict=True):
        step = (weights.detach() * grad).clamp(min=0)[0].mean(0)
        relevance = relevance + step @ relevance
    return relevance[0, 1:]
