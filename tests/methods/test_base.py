"""What a method needs not say: the defaults of its base class."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import Tensor

from heatproof.methods import AttentionXGradient, Factors, MethodCard, ReadPass, ScoreMethod

CARD = dataclasses.replace(AttentionXGradient.card, name="planted", reads="attention weights")


@dataclass(frozen=True)
class Planted(ScoreMethod):
    card: ClassVar[MethodCard] = CARD

    def attribute(self, read: ReadPass) -> Tensor:
        raise NotImplementedError


def changing(changes: str) -> Factors:
    class Changing(Planted):
        card = dataclasses.replace(CARD, changes=changes)

    return Changing().factors("image")


@pytest.mark.parametrize(
    "changes", ["nothing", "nothing but its input", "the input: noise is added"]
)
def test_a_card_that_changes_nothing_has_native_factors_alone(changes: str) -> None:
    assert changing(changes) == Factors(("attention weights",))


def test_a_card_that_changes_something_never_passes_for_native() -> None:
    """Break: return the card's `reads` alone, as the default once did."""
    assert changing("forward pass: one head").substituted == ("forward pass: one head",)


def test_what_a_method_says_itself_comes_first() -> None:
    class Said(Planted):
        card = dataclasses.replace(CARD, changes="readout: the mean token")
        made_of = Factors(("values",), ("the mean token",), "readout")

    assert Said().factors("text") == Said.made_of
