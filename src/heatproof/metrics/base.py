"""What a metric is: a card, and a function of a trial; and what a trial holds.

A trial is one method's maps of some items, an item being a picture with one prompt. What a metric
needs beside the maps it says on its card; a trial that lacks it is refused by name.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.perturbation import area
from heatproof.registry import Option

Need = Literal[
    "mask",
    "objects",
    "named",
    "points",
    "score",
    "hit",
    "tokens",
    "levels",
    "words",
    "word_score",
    "explain",
    "models",
    "total",
]
Better = Literal["higher", "lower", "neither"]
Invariance = Literal["scale", "shift", "sign"]
"""What a map may go through without any change of value: a positive factor, a number added
everywhere, a factor of -1."""


@dataclass(frozen=True)
class MetricCard:
    """What a reader must know of a metric before he believes a table of it.

    `formula` in words or symbols; `better` is the direction that the code ranks by; `needs` names
    fields of `Trial`; `chance` is what a map gets that knows nothing; `undefined` says where the
    value is NaN, beside maps that hold a value that is no number; `endpoints`, `imputer`, `steps`
    and `space` (of the score) are empty where there are none; `ties` says what becomes of cells of
    equal heat, where their order matters. `variants` are the published ones
    and how they differ; `differs` says where a library's implementation gives another value.
    `options` are filled in where the metric is registered.
    """

    name: str
    summary: str
    formula: str
    better: Better
    needs: tuple[Need, ...]
    source: str
    bounds: tuple[float, float] = (-torch.inf, torch.inf)
    chance: str = ""
    undefined: str = ""
    invariant: tuple[Invariance, ...] = ()
    endpoints: str = ""
    imputer: str = ""
    steps: str = ""
    space: str = ""
    ties: str = ""
    variants: tuple[str, ...] = ()
    differs: str = ""
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])


@runtime_checkable
class Score(Protocol):
    """Scores of pictures with their item's prompt, by the untouched model."""

    def __call__(
        self, pixels: Float[Tensor, "variant 3 height width"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
class TokenScore(Protocol):
    """The same of the trial's own pictures, of which the model sees these cells' tokens alone.

    Many more variants than a batch may come at once: masks are small, and variants that hide as
    much go well together.
    """

    def __call__(
        self, keep: Bool[Tensor, "variant cell"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
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


@runtime_checkable
class WordScore(Protocol):
    """Scores of the items' own pictures with their prompts, of which these words are left."""

    def __call__(
        self, keep: Bool[Tensor, "variant word"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
class Models(Protocol):
    """A context in which the first n blocks from the readout on (cascade), or the n-th of them
    alone (independent), are random anew; n from 1 to `steps`."""

    @property
    def steps(self) -> int: ...

    def __call__(
        self, order: Literal["cascade", "independent"], n: int, /
    ) -> AbstractContextManager[object]: ...


@dataclass(frozen=True, eq=False)
class Trial:
    """Maps, and what the items' truth and model are; None where there is no such thing.

    mask: share of each patch that the named object covers. objects, named: of every object, and
    whether it is a named one. points: +1 and -1 on pixels judged to be in and out, 0 elsewhere,
    in the model's view. hit: 1 where the item's own prompt beats all others that the model may
    choose from, else 0, of any pictures. levels: what the model's preprocessing makes of black and
    of white. words: a value for each word of the item's prompt, NaN behind its last. total: what
    the map promises to add up to, from its explicit baseline.
    item: the number of each item in the data, by which chance is drawn for it (default: its
    place).
    batch_size: how many changed pictures are made and scored at once, which bounds the memory.
    device: where they are made; by default where `pixels` are.
    """

    maps: Float[Tensor, "item row col"]
    pixels: Float[Tensor, "item 3 height width"]
    mask: Float[Tensor, "item row col"] | None = None
    objects: Float[Tensor, "item object row col"] | None = None
    named: Bool[Tensor, "item object"] | None = None
    points: Int[Tensor, "item height width"] | None = None
    score: Score | None = None
    hit: Score | None = None
    tokens: TokenScore | None = None
    levels: Float[Tensor, "2 3"] | None = None
    words: Float[Tensor, "item word"] | None = None
    word_score: WordScore | None = None
    explain: Explain | None = None
    models: Models | None = None
    total: Float[Tensor, " item"] | None = None
    item: Int[Tensor, " item"] | None = None
    seed: int = 0
    batch_size: int = 64
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def items(self) -> Int[Tensor, " item"]:
        """The number of each item in the data."""
        return torch.arange(len(self)) if self.item is None else self.item

    def lacks(self, needs: tuple[Need, ...]) -> tuple[Need, ...]:
        return tuple(need for need in needs if getattr(self, need) is None)

    def take(self, rows: Int[Tensor, " chosen"]) -> "Trial":
        """The trial of these items alone, in this order."""
        chosen: dict[str, Any] = {"item": self.items[rows.to(self.items.device)]}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name in ("score", "hit", "tokens", "word_score"):
                chosen[each.name] = None if value is None else _of_rows(value, rows, 1)
            elif each.name == "explain":
                chosen[each.name] = None if value is None else _of_rows(value, rows, 0)
            elif isinstance(value, Tensor) and each.name not in ("levels", "item"):
                chosen[each.name] = value[rows.to(value.device)]
        return dataclasses.replace(self, **chosen)


def _of_rows(call: Callable[..., Tensor], rows: Tensor, place: int) -> Callable[..., Tensor]:
    """`call`, whose argument at `place` counts items among `rows` instead."""

    def of(*given: Any, **named: Any) -> Tensor:
        arguments = list(given)
        item: Tensor = arguments[place]
        arguments[place] = rows.to(item.device)[item]
        return call(*arguments, **named)

    return of


class Metric(ABC):
    """Abstract: subclasses are frozen dataclasses whose fields are the metric's options."""

    card: ClassVar[MetricCard]

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs with its options as they are; the card says it of their defaults."""
        return self.card.needs

    @abstractmethod
    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """A value an item, on the CPU; NaN where the metric has no meaning for it."""

    def measure(self, trial: Trial) -> Float[Tensor, " item"]:
        """`values`, of a trial that has what the metric needs.

        Raises:
            InputError: it has not.
        """
        if lacking := trial.lacks(self.needs):
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
        return area(self.curves(trial), self.fractions(trial).tolist())
