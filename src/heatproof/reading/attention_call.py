"""One attention call: what goes in, what is done to it, what comes out."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Mask = Bool[Tensor, "..."] | Float[Tensor, "..."]


@dataclass(frozen=True)
class AttentionCall:
    """What a module hands to attention, by head, before anything is computed.

    `mask` is torch's: True where a key may be attended to, or a float that is added; it broadcasts
    to (batch, head, query, key). `weights`, where an intervention has set them, take the place of
    softmax(query key' scale + mask).
    `heads_out` is how many heads the module expects back.
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
        """The same call with some fields changed."""
        return replace(self, **fields)  # pyright: ignore[reportArgumentType]

    def softmax(self) -> Float[Tensor, "batch head query key"]:
        """The weights that the model's own kernel forms inside, at least in float32."""
        query, key = at_least_float32(self.query), at_least_float32(self.key)
        scores = query @ key.transpose(-2, -1) * self.scale
        mask = self.whole_mask()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask
        # Zeros, as the fused kernels give, in a row all of whose keys are masked.
        return torch._safe_softmax(scores, -1)  # pyright: ignore[reportPrivateUsage]

    def whole_mask(self) -> Mask | None:
        """`mask` and the causal mask in one."""
        if not self.is_causal:
            return self.mask
        size = (self.query.shape[-2], self.key.shape[-2])
        allowed = torch.ones(size, dtype=torch.bool, device=self.query.device).tril()
        if self.mask is None:
            return allowed
        if self.mask.dtype == torch.bool:
            return self.mask & allowed
        return self.mask.masked_fill(~allowed, -math.inf)


@dataclass(frozen=True)
class Attention:
    """One attention call as it was read: a layer of the trace.

    Tensors stand in the graph of the pass where gradients were asked for, and are at least
    float32. `weights` (after softmax) is None where they were not asked for. `module` is the
    innermost module that called. `projection` is the output projection's matrix and bias (or None)
    where `module` multiplies by them itself, as they were in that moment: LoRA's wrappers of
    `nn.MultiheadAttention` put weights in for the call and take them out after it.
    """

    path: str
    module: nn.Module
    query: Float[Tensor, "batch head query channel"]
    key: Float[Tensor, "batch head key channel"]
    value: Float[Tensor, "batch head key value_channel"]
    weights: Float[Tensor, "batch head query key"] | None
    output: Float[Tensor, "batch head query value_channel"]
    projection: tuple[Tensor, Tensor | None] | None = None

    @property
    def heads(self) -> int:
        return self.output.shape[1]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Attribution is done in float32 where the model computes in less, in float64 where in that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def exact(like: Tensor) -> torch.autocast:
    """The context in which nothing is rounded by the caller's `torch.autocast`."""
    return torch.autocast(like.device.type, enabled=False)


def merge_heads(tensor: Float[Tensor, "batch head token channel"]) -> Tensor:
    """All heads side by side as one: (batch, 1, token, head * channel)."""
    return tensor.transpose(1, 2).flatten(2).unsqueeze(1)


def split_heads(tensor: Float[Tensor, "batch head token channel"], heads: int) -> Tensor:
    """The channels of all heads dealt out to `heads` heads, in the order of `merge_heads`."""
    if tensor.shape[1] == heads:
        return tensor
    return merge_heads(tensor).squeeze(1).unflatten(-1, (heads, -1)).transpose(1, 2)
