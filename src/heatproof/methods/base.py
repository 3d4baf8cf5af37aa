"""What a method is: a card, a plan of what to read, and a function of what was read."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from heatproof.certificate import Replaced
from heatproof.errors import InputError
from heatproof.methods.pass_context import ReadPass, Side
from heatproof.reading import AttentionLayer, Intervention
from heatproof.registry import Option, check_value

Layers = int | Literal["all"] | None
"""How many of a tower's last attention calls are read; None is the method's own default."""

# Legends of maps (see `MethodCard.signs`): the meaning of negative values, and of positive ones.
NEVER = "does not occur"
CONTRIBUTES = ("lowers the score", "raises the score")
EXPLAINED = ("lowers the pass's score", "raises the pass's score")
SPEAKS = ("against the score", "for the score")
LIKENESS = ("unlike the prompt", "like the prompt")

# Factors that several methods name.
WEIGHTS = "attention weights"
GRADIENTS = "gradients of the score with respect to them"
# Cards whose `changes` begin so are of methods that explain the model itself.
UNCHANGED = ("nothing", "the input")


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A catalogue entry: what a user must know before trusting a map of this method.

    `changes` says what the method does to the model: nothing, or which part of what it explains
    is not the model's. `values` says what a map's numbers mean and add up to. `notes` are the
    authors' defaults and, where their paper and code differ, which is the default here and why.
    `signs` are the legend's words for negative and for positive values; None where they mean
    nothing but low and high. `options` are filled in where the method is registered.
    """

    name: str
    summary: str
    source: str
    reads: str
    changes: str
    values: str
    cost: str
    sides: tuple[Side, ...] = ("image", "text")
    notes: str = ""
    signs: tuple[str, str] | None = None
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a method reads of a pass.

    paths: the attention calls, in order. Maps are over the key tokens of the last one.
    weights: materialise attention weights.
    start: the first call that gradients must reach.
    interventions: what the method changes, by path.
    states: paths of modules whose input and output are read.
    leaf: in place of `start`, a module whose input is the leaf of the graph (a residual block).
    rules: a context in which the pass and the score are computed; it changes gradients only.
    """

    paths: tuple[str, ...]
    weights: bool = False
    start: str | None = None
    interventions: Mapping[str, Intervention] = field(default_factory=dict[str, Intervention])
    states: tuple[str, ...] = ()
    leaf: str | None = None
    rules: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def differentiates(self) -> bool:
        """Return whether the pass needs a graph."""
        return self.start is not None or self.leaf is not None


@dataclass(frozen=True)
class Factors:
    """What a map is made of: factors that the untouched model computes, and those it never does.

    `replaced` is the kind of thing that the substituted ones stand in for: a factor, the backward
    rule (the forward pass is untouched), the readout, the forward pass, or everything.
    """

    native: tuple[str, ...]
    substituted: tuple[str, ...] = ()
    replaced: Replaced = "factor"


@dataclass(frozen=True)
class ExplainedTower:
    """What `Method.implied` needs of a tower: its attention calls, readout row, content tokens."""

    root: nn.Module
    side: Side
    layers: tuple[AttentionLayer, ...]
    readout: int | None
    content: slice


class Method(ABC):
    """Abstract: a subclass is a frozen dataclass whose fields are the method's options.

    It needs `card`, `plan` and `attribute`. The other members have safe defaults: they are what a
    certificate or an audit may hold a method to. A method that takes only the readout's row of
    what it reads extends `ReadoutMethod`, which makes it fast.
    """

    card: ClassVar[MethodCard]
    made_of: ClassVar[Factors | None] = None
    """What the map is made of, where that depends on no option and no side: see `factors`."""
    foreign: ClassVar[bool] = False
    """Whether its maps come from code that was handed in, whose pass is unknown."""

    def __post_init__(self) -> None:
        """Check the options, as whoever created the method set them.

        Raises:
            InputError: a value that an option does not take.
        """
        for key, option in self.card.options.items():
            value = check_value(self.card.name, key, option, getattr(self, key))
            object.__setattr__(self, key, value)

    @abstractmethod
    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        """Return what to read of a tower whose attention calls are `layers`, first to last."""

    @abstractmethod
    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Compute a signed value for every key token of the last call that was read."""

    # --- optional: what a certificate or an audit may hold the method to ---------------------

    def factors(self, side: Side) -> Factors:
        """Return what the map is made of, in words.

        By default `made_of`; without it what the card says: all that the method reads, and what it
        changes as substituted, unless that is nothing or the input alone.
        """
        del side
        if self.made_of is not None:
            return self.made_of
        changed = not self.card.changes.startswith(UNCHANGED)
        return Factors((self.card.reads,), (self.card.changes,) if changed else ())

    def implied(self, tower: ExplainedTower) -> dict[str, dict[str, Intervention]]:
        """Return the models that a map is really of: what the method uses in the model's place,
        put there.

        Each is named and given as interventions by path; by default it is the pass that the plan
        asks for. None where nothing is changed.
        """
        changes = self.plan(tower.layers, tower.side).interventions
        return {"the pass that is explained": dict(changes)} if changes else {}

    def total(self, read: ReadPass) -> Float[Tensor, "item target"] | None:
        """Compute what the values of all tokens promise to add up to; None without a promise."""
        del read
        return None

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Return the score that the values are about, in the graph of the pass: the pass's own,
        unless the method reads out another. The certificate holds it to the untouched model's."""
        return read.scores

    def settings(self) -> dict[str, Any]:
        """Return the values of all options."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {f.name: getattr(self, f.name) for f in fields}


class ScoreMethod(Method):
    """Abstract: a method that reads no attention; it scores or differentiates further passes."""

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        # Of the last call nothing is used but the number of its key tokens.
        return Plan(paths=(layers[-1].path,))


def last_paths(layers: Sequence[AttentionLayer], count: Layers, default: int) -> tuple[str, ...]:
    """Return the paths of the last `count` calls; the default is cut down to what the model has.

    Raises:
        InputError: the tower has fewer.
    """
    if count is None:
        count = min(default, len(layers))
    elif count == "all":
        count = len(layers)
    if not 1 <= count <= len(layers):
        raise InputError(
            f"got layers={count}, expected 1 to {len(layers)}, the calls of this tower"
        )
    return tuple(layer.path for layer in layers[-count:])
