"""The methods that the paper's experiments compare, by the names that the page gives them."""

from typing import Any

from heatproof import methods
from heatproof.methods import Method

UNTOUCHED: dict[str, Any] = {"heads": "model", "spatial": "attention"}


def compared() -> dict[str, Method]:
    """Grad-ECLIP and Attention-ECLIP as published and on the untouched model, peers, controls."""
    make = methods.create
    return {
        "grad-eclip": make("grad-eclip"),
        "attention-eclip": make("attention-eclip"),
        "grad-eclip, untouched model": make("grad-eclip", **UNTOUCHED),
        "attention-eclip, untouched model": make("attention-eclip", **UNTOUCHED),
        "attention-x-gradient": make("attention-x-gradient"),
        "gae": make("gae"),
        "raw-attention": make("raw-attention"),
        "random": make("random"),
        "center": make("center"),
    }


PUBLISHED = ("grad-eclip", "attention-eclip")
ON_UNTOUCHED = ("grad-eclip, untouched model", "attention-eclip, untouched model")
CONTROLS = ("random", "center")
"""They never look at the model: `random` says what chance is, `center` what a guess reaches."""


def readable(side: str) -> dict[str, Method]:
    """Those that explain this side."""
    return {name: m for name, m in compared().items() if side in m.card.sides}
