"""One attention call: its operands before anything is computed, and what was read of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Mask = Bool[Tensor, "..."] | Float[Tensor, "..."]
"""As torch takes it: True where a key may be attended to, or a float that is added to the scores.
It broadcasts to (batch, head, query, key)."""


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """What a module hands to attention, by head, before anything is computed.

    `weights`, where an intervention has set them, take the place of
    softmax(query key' scale + mask). `heads_out` is how many heads the module expects back.
    """

    query: Float[Tensor, "batch head query channel"]
    key: Float[Tensor, "batch head key channel"]
    value: Float[Tensor, "batch head key value_channel"]
    mask: Mask | None
    is_causal: bool
    scale: float
    heads_out: int
    weights: Float[Tensor, "batch head query key"] | None = None

    def change(self, **fields: object) -> "AttentionCall":
        """Return the same call with some fields changed."""
        return replace(self, **fields)  # pyright: ignore[reportArgumentType]

    def at_least_float32(self) -> "AttentionCall":
        """Return the same call with queries, keys and values in float64 or float32."""
        return self.change(
            query=at_least_float32(self.query),
            key=at_least_float32(self.key),
            value=at_least_float32(self.value),
        )

    def softmax(self) -> Float[Tensor, "batch head query key"]:
        """Compute the weights that the model's own kernel forms inside, at least in float32."""
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        scores = query @ key.transpose(-2, -1) * self.scale
        mask = self.whole_mask()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask
        # A row all of whose keys are masked gives zeros, as in the fused kernels, not NaN.
        return torch._safe_softmax(scores, -1)  # pyright: ignore[reportPrivateUsage]

    def row_alone(self, rows: Int[Tensor, " batch"]) -> "AttentionCall":
        """Return the call of one query row per item, which still attends to all keys."""
        index = rows.to(self.query.device).view(-1, 1, 1, 1)
        mask = self.whole_mask()
        if mask is not None:
            shape = (len(rows), *(1, self.query.shape[2], self.key.shape[2])[-3:])
            shape = torch.broadcast_shapes(mask.shape, shape)
            mask = mask.expand(shape).take_along_dim(index, 2)
        return self.change(
            query=self.query.take_along_dim(index, 2),
            mask=mask,
            is_causal=False,
            weights=None if self.weights is None else self.weights.take_along_dim(index, 2),
        )

    def whole_mask(self) -> Mask | None:
        """Return `mask` and the causal mask in one; None where neither masks anything."""
        if not self.is_causal:
            return self.mask
        size = (self.query.shape[-2], self.key.shape[-2])
        allowed = torch.ones(size, dtype=torch.bool, device=self.query.device).tril()
        if self.mask is None:
            return allowed
        if self.mask.dtype == torch.bool:
            return self.mask & allowed
        return self.mask.masked_fill(~allowed, -math.inf)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention call as it was read: a layer of the trace.

    Tensors stand in the graph of the pass where gradients were asked for, and are at least
    float32. `weights` (after softmax) is None where they were not asked for. `module` is the
    innermost module that called, `block` the path of the residual block around it, if any.
    `projection` is the output projection's matrix and bias (or None) where `module` multiplies by
    them itself.
    """

    path: str
    module: nn.Module
    query: Float[Tensor, "batch head query channel"]
    key: Float[Tensor, "batch head key channel"]
    value: Float[Tensor, "batch head key value_channel"]
    weights: Float[Tensor, "batch head row key"] | None
    output: Float[Tensor, "batch head query value_channel"]
    projection: tuple[Tensor, Tensor | None] | None = None
    block: str | None = None

    @property
    def heads(self) -> int:
        """Return the number of heads."""
        return self.output.shape[1]


class Trace(Mapping[str, Attention]):
    """The attention calls of one forward pass by module path, in the order in which they ran.

    A module that calls attention again within the pass appears again as `path#1`, `path#2`, ...
    """

    def __init__(self) -> None:
        self._layers: dict[str, Attention] = {}

    def __getitem__(self, path: str) -> Attention:
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def layers(self) -> tuple[Attention, ...]:
        """Return the calls in the order in which they ran."""
        return tuple(self._layers.values())

    def add(self, layer: Attention) -> None:
        """Add a call under its path."""
        self._layers[layer.path] = layer


def as_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    grouped: bool,
) -> AttentionCall:
    """Return the operands of torch's function as a call, by head."""
    if query.dim() == 3:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        mask = mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask
    if grouped:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return AttentionCall(
        query=query,
        key=key,
        value=value,
        mask=mask,
        is_causal=is_causal,
        scale=factor,
        heads_out=query.shape[1],
    )


def with_row_weights(
    call: AttentionCall,
    rows: Int[Tensor, " batch"],
    output: Float[Tensor, "batch head query value_channel"],
) -> tuple[Float[Tensor, "batch head 1 key"], Float[Tensor, "batch head query value_channel"]]:
    """Return the weights of one query row per item, and an output that depends on them.

    The weights A_r are a leaf, and the row's output becomes o_r + (A_r - A_r as a constant) v: the
    same number, whose derivative dS/dA_ri = dS/do_r . v_i is that of the weights of a call that is
    written out. All other weights are never formed, so that the fused kernel can stay on.
    """
    with torch.autocast(call.query.device.type, enabled=False), torch.no_grad():
        alone = call.row_alone(rows)
        weights = alone.softmax() if alone.weights is None else alone.weights
        weights = weights.to(call.value.dtype)
    if not torch.is_grad_enabled():
        return weights, output
    weights.requires_grad_()
    with torch.autocast(call.query.device.type, enabled=False):
        nothing = (weights - weights.detach()) @ call.value
    index = rows.to(output.device).view(-1, 1, 1, 1).expand_as(nothing)
    return weights, output.scatter_add(2, index, nothing.to(output.dtype))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 where it is in that, else in float32.

    Attributions are computed in float32 even where the model runs in less.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def exact(like: Tensor) -> torch.autocast:
    """Return a context in which the caller's `torch.autocast` rounds nothing on `like`'s device."""
    return torch.autocast(like.device.type, enabled=False)


def merge_heads(tensor: Float[Tensor, "batch head token channel"]) -> Tensor:
    """Put all heads side by side as one: (batch, 1, token, head * channel)."""
    return tensor.transpose(1, 2).flatten(2).unsqueeze(1)


def split_heads(tensor: Float[Tensor, "batch head token channel"], heads: int) -> Tensor:
    """Divide the channels of all heads among `heads` heads, in the order of `merge_heads`."""
    if tensor.shape[1] == heads:
        return tensor
    return merge_heads(tensor).squeeze(1).unflatten(-1, (heads, -1)).transpose(1, 2)
