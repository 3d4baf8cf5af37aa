"""What a metric is: a card, and a function of a trial; and what a trial holds.

A trial is one method's maps of some items, an item being a picture with one prompt. What a metric
needs beside the maps it says on its card; a trial that lacks it is refused by name.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import InputError

Need = Literal["mask", "objects", "points", "score", "tokens", "explain", "models", "total"]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Card:
    """What a reader must know of a metric before he believes a table of it.

    `formula` in words or symbols; `better` is the direction that the code ranks by; `needs` names
    fields of `Trial`; `chance` is what a map gets that knows nothing; `endpoints`, `imputer`,
    `steps` and `space` (of the score) are empty where there are none. `variants` are the published
    ones and how they differ; `differs` says where a library's implementation gives another value.
    """

    name: str
    summary: str
    formula: str
    better: Better
    needs: tuple[Need, ...]
    source: str
    bounds: tuple[float, float] = (-torch.inf, torch.inf)
    chance: str = ""
    endpoints: str = ""
    imputer: str = ""
    steps: str = ""
    space: str = ""
    variants: tuple[str, ...] = ()
    differs: str = ""


class Score(Protocol):
    """Scores of pictures with their item's prompt, by the untouched model."""

    def __call__(
        self, pixels: Float[Tensor, "variant 3 height width"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


class TokenScore(Protocol):
    """The same of the trial's own pictures, where the model sees the tokens of these cells alone."""

    def __call__(
        self, keep: Bool[Tensor, "variant cell"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


class Explain(Protocol):
    """Maps by the trial's method: of the items' own pictures, of others, for another prompt
    (a null prompt's name) or with `seed` changed, by the model as it is now."""

    def __call__(
        self,
        item: Int[Tensor, " variant"],
        pixels: Float[Tensor, "variant 3 height width"] | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "variant row col"]: ...


Models = Callable[[Literal["cascade", "independent"], int], Any]
"""A context in which the first n blocks from the readout on (or the n-th alone) are random anew;
`.steps` of them there are."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Maps, and what the items' truth and model are; None where there is no such thing.

    mask: share of each patch that the named object covers. objects, named: of every object, and
    whether it is a named one. points: +1 and -1 on pixels judged to be in and out, 0 elsewhere,
    in the model's view. total: what the map promises to add up to, from its explicit baseline.
    """

    maps: Float[Tensor, "item row col"]
    pixels: Float[Tensor, "item 3 height width"]
    mask: Float[Tensor, "item row col"] | None = None
    objects: Float[Tensor, "item object row col"] | None = None
    named: Bool[Tensor, "item object"] | None = None
    points: Int[Tensor, "item height width"] | None = None
    score: Score | None = None
    tokens: TokenScore | None = None
    explain: Explain | None = None
    models: Models | None = None
    total: Float[Tensor, " item"] | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.maps)

    def lacks(self, needs: tuple[Need, ...]) -> tuple[Need, ...]:
        return tuple(need for need in needs if getattr(self, need) is None)


class Metric(ABC):
    """Abstract: subclasses are frozen dataclasses whose fields are the metric's switches."""

    card: ClassVar[Card]

    @abstractmethod
    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """A value an item, on the CPU; NaN where the metric has no meaning for it."""

    def measure(self, trial: Trial) -> Float[Tensor, " item"]:
        """`values`, of a trial that has what the metric needs.

        Raises:
            InputError: it has not.
        """
        if lacking := trial.lacks(self.card.needs):
            raise InputError(
                f"{self.card.name} needs {', '.join(lacking)}, which this trial does not have"
            )
        return self.values(trial)

    def settings(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {f.name: getattr(self, f.name) for f in fields}


class Curve(Metric):
    """A metric that is the area under a curve; its points are kept for the page."""

    @abstractmethod
    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        """Where the curve's points lie, 0 to 1."""

    @abstractmethod
    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """The height of every point of every item's curve."""

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """The trapezoid rule over the span of the fractions: the mean height of the curve."""
        at = self.fractions(trial)
        return torch.trapezoid(self.curves(trial), at, dim=-1) / (at[-1] - at[0])
