"""Interventions: pure functions on an attention call, placed where the model calls attention.

They express the published methods that change the model, exactly as published, and they are what
an audit measures with. None re-writes a forward pass: each changes the operands of one call. A
`ValueError` that one raises becomes a `ReadingError` that names the call.
"""

from collections.abc import Callable, Collection
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from heatproof.reading.attention_call import AttentionCall, at_least_float32, merge_heads

Intervention = Callable[[AttentionCall], AttentionCall]


def one_head(scale: Literal["full", "head"] = "full") -> Intervention:
    """Take all heads as one over the full width, as Grad-ECLIP's `attention_layer(q, k, v, 1)`.

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
    """Return the mask that all heads share, with one head (or without a head axis)."""
    mask = call.mask
    if mask is None or mask.dim() < 3 or mask.shape[-3] == 1:
        return mask
    first = mask[..., :1, :, :]
    if not torch.equal(mask, first.expand_as(mask)):
        raise ValueError(f"one head cannot take {mask.shape[-3]} different masks, one per head")
    return first


def self_attention(*operands: Literal["query", "key", "value"]) -> Intervention:
    """Replace the weights by the sum over `operands` x of softmax(x x' scale).

    Queries attend to queries (ClearCLIP), keys to keys, values to values (CLIP Surgery). With two
    operands (SCLIP: query and key) the rows add up to 2.
    """

    def intervene(call: AttentionCall) -> AttentionCall:
        _check_square(call)
        tensors = [getattr(call, operand) for operand in operands]
        weights = [call.change(query=x, key=x, weights=None).softmax() for x in tensors]
        return call.change(weights=torch.stack(weights).sum(0))

    return intervene


def identity() -> Intervention:
    """Let each token attend to itself alone: attention hands its values through (MaskCLIP)."""

    def intervene(call: AttentionCall) -> AttentionCall:
        _check_square(call)
        keys, dtype = call.key.shape[2], at_least_float32(call.value).dtype
        eye = torch.eye(keys, device=call.value.device, dtype=dtype)
        return call.change(weights=eye.expand(*call.query.shape[:2], keys, keys))

    return intervene


def _check_square(call: AttentionCall) -> None:
    queries, keys = call.query.shape[2], call.key.shape[2]
    if queries != keys:
        raise ValueError(f"needs as many queries as keys, got {queries} and {keys}")


def knock_out(heads: Collection[int]) -> Intervention:
    """Set the output of the named heads (numbered from 0) to zero."""

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
    """Let nothing attend to the keys where `keep` is False. In every layer: true token removal."""

    def intervene(call: AttentionCall) -> AttentionCall:
        if keep.shape[-1] != call.key.shape[2]:
            raise ValueError(f"got a mask of {keep.shape[-1]} keys for {call.key.shape[2]} keys")
        return _restricted(call, keep.to(call.key.device)[:, None, None, :])

    return intervene


def hidden_keys(
    hidden: Bool[Tensor, " key"], rows: Int[Tensor, " row"] | None = None
) -> Intervention:
    """Let some query rows (all without `rows`) attend to no key where `hidden` is True.

    A row from which all keys are hidden gives zeros.
    """

    def intervene(call: AttentionCall) -> AttentionCall:
        queries, keys = call.query.shape[2], call.key.shape[2]
        last = -1 if rows is None else int(rows.max())
        if hidden.shape[-1] != keys or last >= queries:
            raise ValueError(
                f"got {queries} queries and {keys} keys, expected {hidden.shape[-1]} keys and a "
                f"query row {last}"
            )
        allowed = torch.ones(queries, keys, dtype=torch.bool)
        allowed[slice(None) if rows is None else rows] = ~hidden
        return _restricted(call, allowed.to(call.key.device)[None, None])

    return intervene


def _restricted(call: AttentionCall, allowed: Tensor) -> AttentionCall:
    """Return the call with no weight where `allowed` is False."""
    if call.weights is not None:
        # Another intervention has set the weights: no softmax follows that could rescale
        # them, so what the removed keys had goes to the others in proportion.
        left = call.weights.masked_fill(~allowed, 0)
        total = left.sum(-1, keepdim=True)
        share = call.weights.sum(-1, keepdim=True) / total.masked_fill(total == 0, 1)
        return call.change(weights=left * share)
    if call.mask is None:
        return call.change(mask=allowed)
    if call.mask.dtype == torch.bool:
        return call.change(mask=call.mask & allowed)
    return call.change(mask=call.mask.masked_fill(~allowed, -torch.inf))


def chain(*interventions: Intervention) -> Intervention:
    """Apply interventions one after the other, the first one first."""

    def intervene(call: AttentionCall) -> AttentionCall:
        for intervention in interventions:
            call = intervention(call)
        return call

    return intervene
