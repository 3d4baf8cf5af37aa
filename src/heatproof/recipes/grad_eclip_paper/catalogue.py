"""The methods that the experiments compare, under the names of the page."""

from typing import Any

from heatproof import methods
from heatproof.methods import Method

UNTOUCHED: dict[str, Any] = {"heads": "model", "spatial": "attention"}


def compared() -> dict[str, Method]:
    """Return Grad-ECLIP and Attention-ECLIP as published and untouched, peers and controls."""
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
"""They never look at the model: `random` measures chance, `center` a blind guess."""


def readable(side: str) -> dict[str, Method]:
    """Return the methods that explain this side."""
    return {name: m for name, m in compared().items() if side in m.card.sides}
