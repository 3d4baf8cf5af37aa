"""ImageInputs with a right answer, and how often a model names it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from heatproof import scores
from heatproof.data.scenes import UNSEEN, Caption, combinations, render, sample, singles, truths
from heatproof.engine import inputs
from heatproof.models import Model
from heatproof.statistics import sign_test, wilson

SCENES_FIRST = UNSEEN + (7 << 40)
"""Scenes of the audit's own: training and the model's card draw others."""


@dataclass(frozen=True)
class Labelled:
    """A zero-shot task: each picture has one right prompt. `task` says it in words."""

    images: Sequence[Image.Image] | Float[Tensor, "image 3 height width"]
    prompts: tuple[str, ...] | Float[Tensor, "prompt dim"]
    right: Int[Tensor, " image"]
    task: str

    def __post_init__(self) -> None:
        if len(self.images) != len(self.right):
            raise ValueError(f"got {len(self.images)} images and {len(self.right)} right prompts")


@dataclass(frozen=True)
class Accuracy:
    """Which pictures were named rightly: a share with Wilson's 95 % interval, against `chance`."""

    named: Bool[Tensor, " image"]
    chance: float

    @property
    def hits(self) -> int:
        return int(self.named.sum())

    @property
    def count(self) -> int:
        return len(self.named)

    @property
    def value(self) -> float:
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        found = wilson(self.hits, self.count)
        return found.low, found.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"

    def plain(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "value": self.value,
            "low": low,
            "high": high,
            "hits": self.hits,
            "count": self.count,
            "chance": self.chance,
        }

    def against(self, yours: "Accuracy") -> dict[str, Any]:
        """Picture by picture: named by one alone, and how likely so uneven a split is by chance
        (exact two-sided sign test)."""
        lost = int((yours.named & ~self.named).sum())
        gained = int((self.named & ~yours.named).sum())
        return {"lost": lost, "gained": gained, "p": sign_test(lost, gained)}


def accuracy(
    model: Model,
    embeddings: Float[Tensor, "image dim"],
    prompts: Float[Tensor, "prompt dim"],
    right: Int[Tensor, " image"],
) -> Accuracy:
    """How often the prompt with the highest logit is the right one."""
    logits = scores.pairs(model, embeddings.to(prompts), prompts).logit
    return Accuracy(logits.argmax(1).cpu() == right, 1 / len(prompts))


def scenes(count: int = 200, attribute: str = "shape") -> Labelled:
    """Scenes of one object, to be named by "shape", "colour" or "colour and shape" (of 8 or 64)."""
    drawn = sample(torch.arange(SCENES_FIRST, SCENES_FIRST + count), objects=1)
    captions: list[Caption] = {
        "shape": lambda: singles("shape"),
        "colour": lambda: singles("colour"),
        "colour and shape": combinations,
    }[attribute]()
    right = truths(captions, drawn).int().argmax(1)
    pictures, _ = render(drawn, masks=False)
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pictures]
    texts = tuple(caption.text for caption in captions)
    return Labelled(images, texts, right, f"naming the {attribute} of one object")


def prepared(model: Model, labelled: Labelled) -> tuple[Tensor, Tensor]:
    """Pixels and prompt embeddings as the model takes them."""
    images = labelled.images
    shown = images if isinstance(images, Tensor) else list(images)
    prompts = labelled.prompts
    asked = prompts if isinstance(prompts, Tensor) else list(prompts)
    return inputs.images(model, shown, None).pixels, inputs.prompts(model, asked).embeddings
