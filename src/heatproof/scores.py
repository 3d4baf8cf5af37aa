"""Scores that maps explain: a differentiable number for each (image, prompt) pair."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.checking import shown
from heatproof.errors import InputError, UnknownName
from heatproof.index import SCORES
from heatproof.models.model import Model
from heatproof.reading.attention_call import exact


@runtime_checkable
class Comparing(Protocol):
    """The part of a model that compares embeddings."""

    @property
    def classes(self) -> tuple[str, ...]:
        """A classifier's class names; empty for a model of two towers."""
        ...

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine (1 for a classifier)."""
        ...

    @property
    def logit_bias(self) -> float:
        """What is added to the scaled cosine (SigLIP)."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Images and prompts as the model compares them.

    Attributes:
        cosine: None for a classifier.
        logit: scale * cosine + bias, or a classifier's own logit.
        rivals: the logits that a prompt is compared with.
        against: the logits of the prompts that the score names (`Score.against`).
        own: whether column p of `rivals` is prompt p itself, which is no rival of its own.
    """

    cosine: Float[Tensor, "image prompt"] | None
    logit: Float[Tensor, "image prompt"]
    rivals: Float[Tensor, "image rival"]
    against: Float[Tensor, "image against"]
    own: bool


@runtime_checkable
class Score(Protocol):
    """A number for each pair."""

    @property
    def name(self) -> str:
        """The name that `score_of` takes."""
        ...

    @property
    def against(self) -> tuple[str, ...]:
        """Further prompts that the score compares with."""
        ...

    def check(self, model: Model, prompts: int) -> None:
        """Raise an `InputError` where the model or the number of prompts does not allow it."""

    def __call__(self, pairs: Pairs) -> Float[Tensor, "image prompt"]:
        """Return the score of every pair."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Cosine of the two embeddings, in [-1, 1]."""

    name: str = "cosine"
    against: tuple[str, ...] = ()

    def check(self, model: Model, prompts: int) -> None:
        """Raise an `InputError` where the model or the number of prompts does not allow it."""
        del prompts
        if model.classes:
            raise InputError("a classifier has no cosine; expected score 'class-logit' or 'margin'")

    def __call__(self, pairs: Pairs) -> Float[Tensor, "image prompt"]:
        """Return the cosines."""
        assert pairs.cosine is not None
        return pairs.cosine


@dataclass(frozen=True)
class Logit:
    """Logit scale * cosine + bias, which the model compares prompts by; a classifier's logit."""

    name: str = "logit"
    against: tuple[str, ...] = ()

    def check(self, model: Model, prompts: int) -> None:
        """Raise an `InputError` where the model or the number of prompts does not allow it."""
        del prompts
        if self.name == "sigmoid-logit" and not model.sigmoid:
            raise InputError(f"{model.spec} was not trained with a sigmoid; try score 'logit'")
        if self.name == "class-logit" and not model.classes:
            raise InputError(f"{model.spec} is no classifier; try score 'cosine' or 'logit'")

    def __call__(self, pairs: Pairs) -> Float[Tensor, "image prompt"]:
        """Return the logits."""
        return pairs.logit


@dataclass(frozen=True)
class Margin:
    """The margin by which a prompt's logit exceeds that of the best other prompt."""

    name: str = "margin"
    against: tuple[str, ...] = ()

    def check(self, model: Model, prompts: int) -> None:
        """Raise an `InputError` where the model or the number of prompts does not allow it."""
        del model
        if prompts < 2:
            raise InputError("score 'margin' compares prompts: got 1, expected at least 2")

    def __call__(self, pairs: Pairs) -> Float[Tensor, "image prompt"]:
        """Return each logit less the largest of its rivals."""
        count = pairs.logit.shape[1]
        rivals = pairs.rivals.unsqueeze(1).expand(-1, count, -1)
        if pairs.own:
            same = torch.eye(count, rivals.shape[-1], dtype=torch.bool, device=rivals.device)
            rivals = rivals.masked_fill(same, -torch.inf)
        return pairs.logit - rivals.amax(-1)


@dataclass(frozen=True)
class Contrast:
    """The difference between the logits of the prompt and of `other`: why this and not that."""

    other: str

    @property
    def name(self) -> str:
        """The score's name, which holds the other prompt."""
        return f"contrast:{self.other}"

    @property
    def against(self) -> tuple[str, ...]:
        """The other prompt."""
        return (self.other,)

    def check(self, model: Model, prompts: int) -> None:
        """Raise an `InputError` where the model or the number of prompts does not allow it."""
        del model, prompts
        if not isinstance(self.other, str) or not self.other.strip():  # pyright: ignore
            raise InputError("score 'contrast' needs the other prompt: try 'contrast:a cat'")

    def __call__(self, pairs: Pairs) -> Float[Tensor, "image prompt"]:
        """Return the differences."""
        return pairs.logit - pairs.against


def score_gradient(
    model: Comparing,
    score: Score,
    image: Float[Tensor, "image dim"],
    text: Float[Tensor, "prompt dim"],
    *,
    against: Float[Tensor, "against dim"] | None = None,
) -> Float[Tensor, "image prompt dim"] | None:
    """Return dS/d(image embedding) of every pair in closed form, normalisation included.

    None for scores that are not linear in the unit embedding.
    """
    match score:
        case Cosine():
            return _cosine_gradient(image, text)
        case Logit() | Contrast():
            gradient = _logit_gradient(model, image, text)
            if isinstance(score, Contrast):
                assert against is not None
                gradient = gradient - _logit_gradient(model, image, against)
            return gradient
        case _:
            return None


def _logit_gradient(model: Comparing, image: Tensor, text: Tensor) -> Tensor:
    if model.classes:
        return text.expand(len(image), -1, -1)
    return model.logit_scale * _cosine_gradient(image, text)


def _cosine_gradient(image: Tensor, text: Tensor) -> Tensor:
    # d cos(f, t) / df = (t - cos e) / |f|, with e and t the unit embeddings and f the image's own.
    unit = torch.nn.functional.normalize
    e, t = unit(image, dim=-1), unit(text, dim=-1)
    along = torch.einsum("ip,id->ipd", e @ t.T, e)
    return (t - along) / image.norm(dim=-1)[:, None, None]


NAMES = SCORES


def score_of(value: str | Score) -> Score:
    """Return a score as it is, or by its name.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return create(value)
    if isinstance(value, type) or not isinstance(value, Score):  # pyright: ignore
        raise InputError(f"got the score {shown(value)}, expected {' or '.join(NAMES[:3])}, ...")
    return value


def create(name: str) -> Score:
    """Return the score of that name; `contrast:a cat` compares each prompt with "a cat"."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"got the score {shown(name)}, expected a name such as 'cosine'")
    kind, _, rest = name.partition(":")
    match kind:
        case "cosine":
            return Cosine()
        case "logit" | "sigmoid-logit" | "class-logit":
            return Logit(kind)
        case "margin":
            return Margin()
        case "contrast":
            return Contrast(rest)
        case _:
            raise UnknownName("score", name, NAMES)


def default(model: Model) -> str:
    """Return the name of the score that is explained where the user names none."""
    return "class-logit" if model.classes else "cosine"


def pairs(
    model: Comparing,
    image: Float[Tensor, "image dim"],
    text: Float[Tensor, "prompt dim"],
    *,
    rivals: Float[Tensor, "rival dim"] | None = None,
    against: Float[Tensor, "against dim"] | None = None,
) -> Pairs:
    """Compare every image with every prompt, by unnormalised embeddings.

    rivals: the prompts' rivals; by default the prompts are each other's.
    """
    # Rivals are constants: what explains a prompt's score is its own embedding.
    others = (text if rivals is None else rivals).detach()
    none = text.new_zeros(0, text.shape[1])
    with exact(image):
        return Pairs(
            None if model.classes else _cosine(image, text),
            _logit(model, image, text),
            _logit(model, image, others),
            _logit(model, image, none if against is None else against.detach()),
            own=rivals is None,
        )


def score_pairs(
    model: Comparing,
    score: Score,
    image: Float[Tensor, "image dim"],
    text: Float[Tensor, "prompt dim"],
    *,
    nulls: Float[Tensor, "null dim"] | None = None,
    against: Float[Tensor, "against dim"] | None = None,
) -> Float[Tensor, "image target"]:
    """Return the score of every image with every prompt, then with every null prompt.

    Null prompts have the prompts as rivals, and are no rivals of theirs.
    """
    own = score(pairs(model, image, text, against=against))
    if nulls is None:
        return own
    return torch.cat([own, score(pairs(model, image, nulls, rivals=text, against=against))], dim=1)


def _cosine(image: Tensor, text: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize
    return unit(image, dim=-1) @ unit(text, dim=-1).T


def _logit(model: Comparing, image: Tensor, text: Tensor) -> Tensor:
    if model.classes:
        return _class_logits(image, text)
    return model.logit_scale * _cosine(image, text) + model.logit_bias


def _class_logits(
    logits: Float[Tensor, "image class"], text: Float[Tensor, "prompt class"]
) -> Float[Tensor, "image prompt"]:
    # A class's prompt is a row with a single 1. Its logit is picked and not summed, so that neither
    # relevance rules nor another class's infinite logit see a sum.
    if bool(((text != 0).sum(1) == 1).all() and (text.sum(1) == 1).all()):
        return logits[:, text.argmax(1)]
    return logits @ text.T
