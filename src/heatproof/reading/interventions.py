"""Interventions: pure functions on an attention call, placed where the model calls attention.

They express the published methods that change the model, exactly as published, and they are what
an audit measures with. None re-writes a forward pass: each changes one call's operands.
"""

from collections.abc import Callable, Collection
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.reading.attention_call import AttentionCall, at_least_float32, merge_heads

Intervention = Callable[[AttentionCall], AttentionCall]


def one_head(scale: Literal["full", "head"] = "full") -> Intervention:
    """All heads taken as one over the full width, as Grad-ECLIP's `attention_layer(q, k, v, 1)`.

    `full` divides by the square root of the full width (generate_emap.py), `head` keeps the
    model's own per-head scale (the authors' ViT and BLIP notebooks).
    """

    def intervene(call: AttentionCall) -> AttentionCall:
        query, key, value = (merge_heads(t) for t in (call.query, call.key, call.value))
        factor = query.shape[-1] ** -0.5 if scale == "full" else call.scale
        return call.change(
            query=query, key=key, value=value, mask=_one_mask(call), scale=factor, weights=None
        )

    return intervene


def _one_mask(call: AttentionCall) -> Tensor | None:
    mask = call.mask
    if mask is None or mask.dim() < 3 or mask.shape[-3] == 1:
        return mask
    first = mask[..., :1, :, :]
    if not torch.equal(mask, first.expand_as(mask)):
        raise ValueError(f"one head cannot take {mask.shape[-3]} different masks, one a head")
    return first


def replaced_weights(weights: Float[Tensor, "#batch #head query key"]) -> Intervention:
    """`weights` in place of the softmax of queries and keys; rows need not sum to one."""

    def intervene(call: AttentionCall) -> AttentionCall:
        batch, heads, queries, _ = call.query.shape
        shape = (batch, heads, queries, call.key.shape[2])
        if any(
            have not in (1, want)
            for have, want in zip(weights.shape[-4:], shape[-weights.dim() :], strict=True)
        ):
            raise ValueError(f"got weights of shape {tuple(weights.shape)}, expected {shape}")
        return call.change(weights=weights.to(call.value.device).expand(shape))

    return intervene


def value_attention() -> Intervention:
    """Values attend to values: softmax(v v' scale) v (CLIP Surgery, arXiv 2304.05653)."""
    return lambda call: call.change(query=call.value, key=call.value, weights=None)


def self_attention(*of: Literal["query", "key"]) -> Intervention:
    """Queries attend to queries (ClearCLIP), keys to keys, or both added up (SCLIP): the sum over
    `of` of softmax(x x' scale), whose rows add up to their number."""

    def intervene(call: AttentionCall) -> AttentionCall:
        queries, keys = call.query.shape[2], call.key.shape[2]
        if queries != keys:
            raise ValueError(f"needs as many queries as keys, got {queries} and {keys}")
        parts = [getattr(call, each) for each in of]
        weights = [call.change(query=x, key=x, weights=None).softmax() for x in parts]
        return call.change(weights=torch.stack(weights).sum(0))

    return intervene


def identity() -> Intervention:
    """Each token attends to itself alone, so that attention hands its values through (MaskCLIP)."""

    def intervene(call: AttentionCall) -> AttentionCall:
        queries, keys = call.query.shape[2], call.key.shape[2]
        if queries != keys:
            raise ValueError(f"identity needs as many queries as keys, got {queries} and {keys}")
        eye = torch.eye(keys, device=call.value.device, dtype=at_least_float32(call.value).dtype)
        return call.change(weights=eye.expand(*call.query.shape[:2], keys, keys))

    return intervene


def knock_out(heads: Collection[int]) -> Intervention:
    """The named heads (0-based) attend to nothing: their output is zero."""

    def intervene(call: AttentionCall) -> AttentionCall:
        count = call.value.shape[1]
        wrong = [head for head in heads if not 0 <= head < count]
        if wrong:
            raise ValueError(f"no head {wrong[0]}: this call has heads 0 to {count - 1}")
        keep = torch.ones(count, device=call.value.device, dtype=call.value.dtype)
        keep[list(heads)] = 0
        return call.change(value=call.value * keep[:, None, None])

    return intervene


def masked_keys(keep: Bool[Tensor, "#batch key"]) -> Intervention:
    """Nothing attends to the keys where `keep` is False: in every layer, true token removal.

    Weights that another intervention has set are dealt out among the keys that are left.
    """

    def intervene(call: AttentionCall) -> AttentionCall:
        if keep.shape[-1] != call.key.shape[2]:
            raise ValueError(f"got a mask of {keep.shape[-1]} keys for {call.key.shape[2]} keys")
        allowed = keep.to(call.key.device)[:, None, None, :]
        if call.weights is not None:
            kept = call.weights.masked_fill(~allowed, 0)
            left = kept.sum(-1, keepdim=True)
            share = call.weights.sum(-1, keepdim=True) / left.masked_fill(left == 0, 1)
            return call.change(weights=kept * share)
        if call.mask is None:
            return call.change(mask=allowed)
        if call.mask.dtype == torch.bool:
            return call.change(mask=call.mask & allowed)
        return call.change(mask=call.mask.masked_fill(~allowed, -torch.inf))

    return intervene


def chain(*interventions: Intervention) -> Intervention:
    """One after the other, the first one first."""

    def intervene(call: AttentionCall) -> AttentionCall:
        for each in interventions:
            call = each(call)
        return call

    return intervene
