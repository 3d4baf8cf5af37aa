"""Define metrics and the trials that they measure.

A trial is one method's maps of some items, an item being an image with one prompt. A metric's card
says what it needs beside the maps; a trial that lacks it is refused by name.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import InputError
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
"""Changes of a map that leave the value as it is: a positive factor, a number added everywhere, a
factor of -1."""


@dataclass(frozen=True)
class MetricCard:
    """What a reader must know of a metric before believing a table of it.

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
class ImageScore(Protocol):
    """Score images with their item's prompt, by the untouched model."""

    def __call__(
        self, pixels: Float[Tensor, "variant 3 height width"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
class TokenScore(Protocol):
    """Score the trial's own images, of which the model sees these cells' tokens alone.

    Many more variants than a batch may come at once: masks are small, and variants that hide as
    much go well together.
    """

    def __call__(
        self, keep: Bool[Tensor, "variant cell"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
class MapsAgain(Protocol):
    """Compute maps by the trial's method and the model as it now is.

    They are of the items' own images or of `pixels`, for their own prompt or for `prompt` (a null
    prompt's name), with the trial's seed or with `seed`.
    """

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
    """Score the items' own images with their prompts, of which these words are left."""

    def __call__(
        self, keep: Bool[Tensor, "variant word"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]: ...


@runtime_checkable
class RandomModels(Protocol):
    """Make blocks of the model random, within a context.

    `cascade`: the first n blocks from the readout on; `independent`: the n-th of them alone. n goes
    from 1 to `steps`.
    """

    @property
    def steps(self) -> int:
        """The number of blocks."""
        ...

    def __call__(
        self, order: Literal["cascade", "independent"], n: int, /
    ) -> AbstractContextManager[object]: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """Maps of items, with their truth and their model; None for what does not exist.

    mask: share of each patch that the named object covers. objects, named: of every object, and
    whether it is a named one. points: +1 and -1 on pixels judged to be in and out, 0 elsewhere,
    in the model's view. hit: 1 where the item's own prompt beats all others that the model may
    choose from, else 0, of any images. levels: what the model's preprocessing makes of black and
    of white. words: a value for each word of the item's prompt, NaN behind its last. total: what
    the map promises to add up to, from its explicit baseline.
    item: the number of each item in the data, by which chance is drawn for it (default: its
    place).
    batch_size: how many changed images are made and scored at once, which bounds the memory.
    device: where they are made; by default where `pixels` are.
    """

    maps: Float[Tensor, "item row col"]
    pixels: Float[Tensor, "item 3 height width"]
    mask: Float[Tensor, "item row col"] | None = None
    objects: Float[Tensor, "item object row col"] | None = None
    named: Bool[Tensor, "item object"] | None = None
    points: Int[Tensor, "item height width"] | None = None
    score: ImageScore | None = None
    hit: ImageScore | None = None
    tokens: TokenScore | None = None
    levels: Float[Tensor, "2 3"] | None = None
    words: Float[Tensor, "item word"] | None = None
    word_score: WordScore | None = None
    explain: MapsAgain | None = None
    models: RandomModels | None = None
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

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        return self.maps.shape[1], self.maps.shape[2]

    @property
    def place(self) -> torch.device:
        """The device on which changed images are made."""
        return self.device or self.pixels.device

    @property
    def broken(self) -> Bool[Tensor, " item"]:
        """Whether the item's map holds a value that is no number; on the CPU."""
        return ~self.maps.cpu().isfinite().all(-1).all(-1)

    @property
    def flat_maps(self) -> Float[Tensor, "item cell"]:
        """The maps in float64 on the CPU, a row per item."""
        return self.maps.cpu().double().flatten(1)

    def images(self, rows: slice) -> Float[Tensor, "row 3 height width"]:
        """Return the preprocessed images of these items, where changed ones are made."""
        return self.pixels[rows].to(self.place)

    def maps_again(
        self,
        change: Callable[[Float[Tensor, "row 3 _ _"]], Float[Tensor, "row 3 _ _"]] | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "item cell"]:
        """Return the maps of all items by the trial's method once more, as `flat_maps` are.

        Args:
            change: what becomes of the items' images, `batch_size` of them at a time.
            prompt, seed: see `MapsAgain`.
        """
        assert self.explain is not None
        parts: list[Tensor] = []
        # In parts: each holds as many changed images as memory allows.
        for rows in torch.arange(len(self)).split(self.batch_size):
            pixels = None
            if change is not None:
                pixels = change(self.images(slice(int(rows[0]), int(rows[-1]) + 1)))
            maps = self.explain(rows, pixels, prompt=prompt, seed=seed)
            parts.append(maps.detach().cpu().double().flatten(1))
        return torch.cat(parts)

    def lacks(self, needs: tuple[Need, ...]) -> tuple[Need, ...]:
        """Return those of the needs that this trial does not have."""
        return tuple(need for need in needs if getattr(self, need) is None)

    def take(self, rows: Int[Tensor, " chosen"]) -> "Trial":
        """Return the trial of these items alone, in this order."""
        # Chance is drawn by the number in the data, so a part of the items gets the same draws.
        chosen: dict[str, Any] = {"item": self.items[rows.to(self.items.device)]}
        for name in (entry.name for entry in dataclasses.fields(self)):
            value = getattr(self, name)
            # Functions number items from 0, so they are given the rows that were taken.
            if name in ("score", "hit", "tokens", "word_score"):
                chosen[name] = None if value is None else _of_rows(value, rows, 1)
            elif name == "explain":
                chosen[name] = None if value is None else _of_rows(value, rows, 0)
            # Levels belong to the model and not to an item; item numbers were taken above.
            elif isinstance(value, Tensor) and name not in ("levels", "item"):
                chosen[name] = value[rows.to(value.device)]
        return dataclasses.replace(self, **chosen)


def _of_rows(call: Callable[..., Tensor], rows: Tensor, place: int) -> Callable[..., Tensor]:
    """Return `call` with its argument at `place` counting items among `rows` instead."""

    def call_of_rows(*positional: Any, **named: Any) -> Tensor:
        arguments = list(positional)
        item: Tensor = arguments[place]
        arguments[place] = rows.to(item.device)[item]
        return call(*arguments, **named)

    return call_of_rows


def min_max(maps: Float[Tensor, "item row col"]) -> Float[Tensor, "item row col"]:
    """Return the maps scaled from 0 to 1 in float64; a constant map is a half everywhere."""
    maps = maps.double()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # A constant map has no scale; a half favours no patch.
    return torch.where(high > low, (maps - low) / (high - low), 0.5)


def area(
    values: Float[Tensor, "*item point"], fractions: Sequence[float]
) -> Float[Tensor, "*item"]:
    """Return the mean height of a curve: the trapezoid rule, divided by the span of fractions."""
    at = torch.tensor(fractions, dtype=values.dtype, device=values.device)
    # Divided by the span: a curve that ends before 1 is comparable with one that does not.
    return torch.trapezoid(values, at, dim=-1) / (at[-1] - at[0])


class Metric(ABC):
    """Abstract: subclasses are frozen dataclasses whose fields are the metric's options."""

    card: ClassVar[MetricCard]

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the metric needs with its options as they are; the card says it of the defaults."""
        return self.card.needs

    @abstractmethod
    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return a value per item, on the CPU; NaN where the metric has no meaning for it."""

    def measure(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return `values`, after a check that the trial has what the metric needs.

        Raises:
            InputError: it does not.
        """
        if lacking := trial.lacks(self.needs):
            raise InputError(
                f"{self.card.name} needs {', '.join(lacking)}, which this trial does not have"
            )
        return self.values(trial)

    def settings(self) -> dict[str, Any]:
        """Return the values of the options."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {f.name: getattr(self, f.name) for f in fields}


class Curve(Metric):
    """Abstract: a metric that is the area under a curve, whose points the page draws."""

    @abstractmethod
    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        """Return where the curve's points lie, 0 to 1."""

    @abstractmethod
    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """Return the height of every point of every item's curve."""

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the mean height of each curve, by the trapezoid rule over the fractions."""
        return area(self.curves(trial), self.fractions(trial).tolist())
