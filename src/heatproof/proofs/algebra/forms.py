"""A method as a formula: which factors of one attention layer it multiplies.

A form is evaluated over any numbers: fractions (`exact`), symbols (`symbolic`). Symbols are those
of `docs/algebra.md`: A the attention weights, g = dS/do, v the values, u the spatial weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from heatproof.methods import AttentionECLIP, AttentionXGradient, GradECLIP, Method, RawAttention
from heatproof.methods.base import Layers, Side
from heatproof.methods.eclip import DEFAULT_LAYERS

Number = Any
Rows = Sequence[Sequence[Number]]
"""By readout row and key."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """E_i = sum over layers, heads and readout rows of (spatial weight) x (channel sum).

    route: the way to the channel sum: `channels` as g . v_i, `weights` as dS/dA_i; `none`: there
        is no channel sum, the map is the mean of the spatial weight.
    spatial: as the option of `Eclip`; `own` is each head's own attention weight.
    layers: the last n calls, or `all`; None is the published number for the side.
    """

    route: Literal["channels", "weights", "none"]
    heads: Literal["one", "model"]
    spatial: Literal["loosened", "attention", "none", "own"]
    projection: Literal["output", "none"] = "output"
    layers: Layers = None
    rectify: Literal["none", "layer", "head"] = "none"

    def depth(self, side: Side, calls: int) -> int | None:
        """Count the last layers that it reads; None where there are fewer than it asks for."""
        if self.layers is None:
            return min(DEFAULT_LAYERS[side], calls)
        if self.layers == "all":
            return calls
        return self.layers if self.layers <= calls else None


@dataclass(frozen=True)
class Facts:
    """The quantities of one layer, by head, readout row and key.

    loosened: the loosened weight, by projection, row and key.
    """

    sums: Sequence[Rows]
    weights: Sequence[Rows]
    loosened: dict[str, Rows]


def form_of(method: Method) -> Form | None:
    """Return the form of a method; None where the algebra has no formula for it."""
    # Exact types: a subclass may compute something else.
    if type(method) in (GradECLIP, AttentionECLIP):
        route = "channels" if type(method) is GradECLIP else "weights"
        return Form(route=route, **method.settings())
    if type(method) is AttentionXGradient:
        return Form(route="weights", heads="model", spatial="own", layers=1)
    if type(method) is RawAttention:
        return Form(route="none", heads="model", spatial="attention", layers=1)
    return None


def evaluate(
    form: Form, layers: Sequence[Facts], clamp: Callable[[Number], Number]
) -> list[Number]:
    """Return the map, one value per key, from the facts of the layers that the form reads."""
    maps = [_layer(form, facts, clamp) for facts in layers]
    return [sum(values) for values in zip(*maps, strict=True)]


def _layer(form: Form, facts: Facts, clamp: Callable[[Number], Number]) -> list[Number]:
    keys = range(len(facts.weights[0][0]))
    if form.route == "none":
        rows = [row for head in facts.weights for row in head]
        return [sum(row[key] for row in rows) / len(rows) for key in keys]
    by_head = [
        [_product(_spatial(form, facts, head), facts.sums[head], key) for key in keys]
        for head in range(len(facts.weights))
    ]
    # The order of rectification and sum over heads decides whether the identity holds.
    if form.rectify == "head":
        by_head = [[clamp(value) for value in head] for head in by_head]
    total = [sum(head[key] for head in by_head) for key in keys]
    return [clamp(value) for value in total] if form.rectify == "layer" else total


def _product(weight: Rows, sums: Rows, key: int) -> Number:
    return sum(u[key] * s[key] for u, s in zip(weight, sums, strict=True))


def _spatial(form: Form, facts: Facts, head: int) -> Rows:
    match form.spatial:
        case "own":
            return facts.weights[head]
        # Computed from full-width queries and keys, so it has no head.
        case "loosened":
            return facts.loosened[form.projection]
        case "none":
            return [[1 for _ in row] for row in facts.weights[head]]
        # One weight for all heads: the mean of their attention.
        case "attention":
            count = len(facts.weights)
            return [
                [sum(values) / count for values in zip(*rows, strict=True)]
                for rows in zip(*facts.weights, strict=True)
            ]
