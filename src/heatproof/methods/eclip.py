"""What Grad-ECLIP and Attention-ECLIP share: everything but how one factor is computed.

The paper's symbols: readout r, u_i the spatial weight of key i, Phi min-max normalisation,
g = dS/do_r the channel weights, v_i the values, W_O the attention's output projection.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    ExplainedTower,
    Factors,
    Layers,
    Method,
    Plan,
    ReadPass,
    Side,
    last_paths,
)
from heatproof.models.projection import Affine, output_projection, output_projection_of
from heatproof.reading import Attention, AttentionCall, AttentionLayer, Intervention
from heatproof.reading.attention_call import at_least_float32, merge_heads
from heatproof.reading.interventions import chain, one_head

DEFAULT_LAYERS: dict[Side, int] = {"image": 1, "text": 8}


@dataclass(frozen=True)
class Eclip(Method):
    """Abstract: E_i = sum over layers of u_i * sum over heads of (channel sum), rectified as asked.

    heads: `one` re-runs the explained layers with one head over the full width, as published;
        `model` leaves the model as it is.
    spatial: `loosened` is u_i = Phi(cos(q_r, k_i)), as published; `attention` the softmax weight
        (mean over heads); `none` is 1.
    projection: of `loosened`: `output` puts queries and keys through W_O (generate_emap.py),
        `none` takes them raw (the notebooks).
    layers: the last n calls, or `all` (default: 1 on the image side, 8 on the text side, as
        published).
    rectify: `none` keeps the map signed (the published ReLU of the sum is left to display),
        `layer` cuts off each layer's negative part, `head` each head's.
    """

    heads: Literal["one", "model"] = "one"
    spatial: Literal["loosened", "attention", "none"] = "loosened"
    projection: Literal["output", "none"] = "output"
    layers: Layers = None
    rectify: Literal["none", "layer", "head"] = "none"

    def is_linear(self) -> bool:
        """Return whether the map is linear in the score's gradient: where nothing is rectified."""
        return self.rectify == "none"

    @abstractmethod
    def channel_sums(
        self, read: ReadPass, layers: Sequence[Attention]
    ) -> Iterator[list[Float[Tensor, "item head row key"]]]:
        """Yield for each target, by layer, the sum over a head's channels of g_c v_ic."""

    @property
    def needs_weights(self) -> bool:
        """Return whether the channel sums or the spatial weight need attention weights."""
        return self.spatial == "attention"

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        paths = last_paths(layers, self.layers, DEFAULT_LAYERS[side])
        # As published: the explained layers run with one head, so it is another forward pass.
        changes = {path: one_head() for path in paths} if self.heads == "one" else {}
        return Plan(paths=paths, weights=self.needs_weights, start=paths[0], interventions=changes)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = read.trace.layers
        # The spatial weight depends on no target: it is computed once.
        weights = [self.spatial_weight(read, layer) for layer in layers]
        maps: list[Tensor] = []
        for sums in self.channel_sums(read, layers):
            parts = [self._layer(u, s) for u, s in zip(weights, sums, strict=True)]
            maps.append(torch.stack(parts).sum(0))
        return torch.stack(maps, dim=1)

    def _layer(
        self,
        weight: Float[Tensor, "item row key"],
        sums: Float[Tensor, "item head row key"],
    ) -> Float[Tensor, "item key"]:
        by_head = (weight.unsqueeze(1) * sums).sum(2)
        # Before the sum over heads: this breaks the identity of the two methods.
        if self.rectify == "head":
            by_head = by_head.clamp(min=0)
        total = by_head.sum(1)
        return total.clamp(min=0) if self.rectify == "layer" else total

    def spatial_weight(self, read: ReadPass, layer: Attention) -> Float[Tensor, "item row key"]:
        """Compute u: how much each key counts for each readout row."""
        if self.spatial == "attention":
            assert layer.weights is not None
            # One weight for all heads, as in the published algorithm with one head.
            return read.rows(layer.weights.detach(), layer).mean(1)
        query = read.rows(layer.query, layer).detach()
        if self.spatial == "none":
            shape = (query.shape[0], query.shape[2], layer.key.shape[2])
            return torch.ones(shape, dtype=at_least_float32(query).dtype, device=query.device)
        project = output_projection_of(read.root, layer) if self.projection == "output" else None
        return loosened(project, query, layer.key.detach(), read.batch.content)

    def implied(self, tower: ExplainedTower) -> dict[str, dict[str, Intervention]]:
        """Return one head, the loosened attention, and both, put into the explained layers."""
        paths = self.plan(tower.layers, tower.side).paths
        models: dict[str, dict[str, Intervention]] = {}
        if self.heads == "one":
            models["one head"] = {path: one_head() for path in paths}
        if self.spatial == "loosened":
            models["loosened attention"] = {path: self._as_weights(tower, path) for path in paths}
        if len(models) == 2:
            models["one head and loosened attention"] = {
                path: chain(one_head(), self._as_weights(tower, path)) for path in paths
            }
        return models

    def _as_weights(self, tower: ExplainedTower, path: str) -> Intervention:
        """Return an intervention that puts u in the place of the readout's attention weights.

        What the softmax gives to the content tokens is divided among them in proportion to u; the
        other tokens keep what it gives them.
        """

        def intervene(call: AttentionCall) -> AttentionCall:
            weights = call.softmax()
            content, project = tower.content, None
            if self.projection == "output":
                width = call.query.shape[1] * call.query.shape[-1]
                project = output_projection(tower.root, path, width)
            u = loosened(project, call.query, call.key, content)
            own = weights[..., content]
            u = u[..., content].clamp(min=0).unsqueeze(1) * (own > 0)  # a masked key gets nothing
            # Where all u are zero, the share stays zero in place of 0 / 0.
            total = u.sum(-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
            changed = weights.clone()
            changed[..., content] = (own.sum(-1, keepdim=True) * u / total).to(weights.dtype)
            # Only the readout's row is explained: other rows keep their attention.
            if tower.readout is not None:
                others = torch.arange(weights.shape[2], device=weights.device) != tower.readout
                changed[:, :, others] = weights[:, :, others]
            return call.change(weights=changed)

        return intervene

    def factors(self, side: Side) -> Factors:
        layers = DEFAULT_LAYERS[side] if self.layers is None else self.layers
        which = "all attention calls" if layers == "all" else f"the last {layers} attention call(s)"
        native = [f"gradients of the score at {which}"]
        substituted: list[str] = []
        if self.heads == "one":
            substituted.append(
                "one attention head over the full width in place of the model's heads"
            )
        if self.spatial == "loosened":
            substituted.append(
                "a min-max normalised query-key cosine in place of attention weights"
            )
        elif self.spatial == "attention":
            native.append("attention weights (mean over heads)")
        replaced = "forward pass" if self.heads == "one" else "factor"
        return Factors(tuple(native), tuple(substituted), replaced)


def loosened(
    project: Affine | None, query: Tensor, key: Tensor, content: slice
) -> Float[Tensor, "item row key"]:
    """Compute Phi(cos(q_r, k_i)) of queries and keys by head, through W_O where it is given."""
    rows, keys = (merge_heads(t).squeeze(1) for t in (query, key))
    if project is not None:
        native = project[0].dtype  # the trace is float32 where the model is less
        with torch.no_grad():
            rows, keys = (F.linear(t.to(native), *project) for t in (rows, keys))
    rows, keys = at_least_float32(rows), at_least_float32(keys)
    cosine = F.normalize(rows, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)
    return min_max(cosine, content)


def min_max(cosine: Float[Tensor, "item row key"], content: slice) -> Float[Tensor, "item row key"]:
    """Compute Phi, min-max normalisation over the content tokens.

    Constant cosines, where the authors divide by zero, weigh 1.
    """
    low = cosine[..., content].amin(-1, keepdim=True)
    span = cosine[..., content].amax(-1, keepdim=True) - low
    flat = span == 0
    return torch.where(flat, torch.ones_like(cosine), (cosine - low) / span.masked_fill(flat, 1))
