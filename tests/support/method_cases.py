"""Settings, refusals and helpers that every test over the whole catalogue of methods shares."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import heatproof
import tiny
from families import FAMILIES, POOLED, ROTARY, TEXT_FAMILIES
from heatproof import methods
from heatproof.methods import Factors, Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.reading import AttentionLayer

NAMES = list(methods.catalogue())

CLASSIFIERS = {*FAMILIES} - {*TEXT_FAMILIES}

# Families that a method refuses, because its mathematics does not apply ("words": its text side).
REFUSES: dict[str, set[str]] = {
    "attcat": {"open_clip resnet"},
    # Whose readout is a mean of rows, masked or not.
    "banzhaf": {
        "open_clip mean pool",
        "open_clip mobileclip-s",
        "open_clip resnet",
        "open_clip vitamin",
    },
    "clearclip": POOLED,
    "clip-surgery": {*POOLED, *ROTARY, *CLASSIFIERS},
    "legrad": POOLED,
    "libragrad": {"open_clip resnet"},
    "m2ib": {"open_clip resnet"},
    "maskclip": POOLED,
    "sclip": POOLED,
    "second-order": {"open_clip resnet"},
    "token-decomposition": {*POOLED, *ROTARY, "hf blip words"},
    "vit-cx": {"open_clip resnet"},
}


# Settings that make a method quick enough for the tests that run it by its bare name.
QUICK: dict[str, dict[str, Any]] = {
    "banzhaf": {"samples": 12},
    "integrated-gradients": {"steps": 6},
    "kernel-shap": {"samples": 12},
    "m2ib": {"steps": 3, "batch": 2},
    "rise": {"masks": 24},
    "second-order": {"steps": 4},
}


def sides(name: str) -> tuple[str, ...]:
    return methods.catalogue()[name].sides


def texts(count: int = 3, width: int = tiny.EMBED) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


class Spy(Method):
    """A method that keeps what its inner one returned, before maps are cut out in float32."""

    def __init__(self, inner: Method) -> None:
        self.inner, self.card, self.kept = inner, inner.card, list[Tensor]()

    @property
    def values(self) -> Tensor:
        return torch.cat(self.kept)

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        return self.inner.plan(sites, side)

    def attribute(self, read: ReadPass) -> Tensor:
        self.kept.append(self.inner.attribute(read).detach())
        return self.kept[-1]

    def factors(self, side: Side) -> Factors:
        return self.inner.factors(side)

    def total(self, read: ReadPass) -> Tensor | None:
        return self.inner.total(read)

    def settings(self) -> dict[str, Any]:
        return self.inner.settings()


def token_values(
    model: Model,
    name: str,
    settings: dict[str, Any],
    side: str,
    items: Tensor,
    targets: Tensor,
    **more: Any,
) -> Tensor:
    """(item, target, token) in the model's dtype, through the public functions."""
    spy = Spy(methods.create(name, **{**QUICK.get(name, {}), **settings}))
    if side == "image":
        heatproof.explain(model, items, targets, method=spy, certify=False, **more)
    else:
        heatproof.explain_words(model, targets, items, method=spy, certify=False, **more)
    return spy.values


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=tolerance, atol=tolerance)
