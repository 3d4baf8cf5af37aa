"""Measure how often a model names images rightly: a zero-shot task, and its accuracy."""

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

# Training and the model's card draw scenes from other numbers, so that none of these was seen.
FIRST_SCENE = UNSEEN + (7 << 40)


@dataclass(frozen=True)
class ZeroShotTask:
    """Images, each with one right prompt; `name` says what is to be named."""

    images: Sequence[Image.Image] | Float[Tensor, "image 3 height width"]
    prompts: tuple[str, ...] | Float[Tensor, "prompt dim"]
    right: Int[Tensor, " image"]
    name: str

    def __post_init__(self) -> None:
        if len(self.images) != len(self.right):
            raise ValueError(f"got {len(self.images)} images and {len(self.right)} right prompts")

    def prepared(self, model: Model) -> tuple[Tensor, Tensor]:
        """Return pixels and prompt embeddings as the model takes them."""
        images = self.images if isinstance(self.images, Tensor) else list(self.images)
        prompts = self.prompts if isinstance(self.prompts, Tensor) else list(self.prompts)
        return inputs.images(model, images, None).pixels, inputs.prompts(model, prompts).embeddings


@dataclass(frozen=True)
class Accuracy:
    """Which images were named rightly, beside the accuracy of guessing (`chance`)."""

    named: Bool[Tensor, " image"]
    chance: float

    @property
    def hits(self) -> int:
        """How many images were named rightly."""
        return int(self.named.sum())

    @property
    def value(self) -> float:
        """The share of images that were named rightly."""
        return self.hits / len(self.named)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        interval = wilson(self.hits, len(self.named))
        return interval.low, interval.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"

    def plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        low, high = self.interval
        return {
            "value": self.value,
            "low": low,
            "high": high,
            "hits": self.hits,
            "count": len(self.named),
            "chance": self.chance,
        }

    def against(self, other: "Accuracy") -> dict[str, Any]:
        """Count images that only one of both names rightly, with the p-value of the split.

        lost: named by `other` alone; gained: by this one alone. The test is the exact two-sided
        sign test.
        """
        lost = int((other.named & ~self.named).sum())
        gained = int((self.named & ~other.named).sum())
        return {"lost": lost, "gained": gained, "p": sign_test(lost, gained)}


def accuracy(
    model: Model,
    embeddings: Float[Tensor, "image dim"],
    prompts: Float[Tensor, "prompt dim"],
    right: Int[Tensor, " image"],
) -> Accuracy:
    """Return for which images the prompt with the highest logit is the right one."""
    logits = scores.pairs(model, embeddings.to(prompts), prompts).logit
    return Accuracy(logits.argmax(1).cpu() == right, 1 / len(prompts))


def scene_task(count: int = 200, attribute: str = "shape") -> ZeroShotTask:
    """Draw scenes of one object, to be named by "shape", "colour" or "colour and shape"."""
    drawn = sample(torch.arange(FIRST_SCENE, FIRST_SCENE + count), objects=1)
    captions: list[Caption] = {
        "shape": lambda: singles("shape"),
        "colour": lambda: singles("colour"),
        "colour and shape": combinations,
    }[attribute]()
    right = truths(captions, drawn).int().argmax(1)
    pixels, _ = render(drawn, masks=False)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    texts = tuple(caption.text for caption in captions)
    return ZeroShotTask(images, texts, right, f"naming the {attribute} of one object")
