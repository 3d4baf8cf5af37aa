"""What a method is: a plan of what to read, and a function of what was read."""

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

# Legends of maps (see `MethodCard.signs`): what negative values say, and what positive ones do.
NEVER = "does not occur"
CONTRIBUTES = ("lowers the score", "raises the score")
EXPLAINED = ("lowers the pass's score", "raises the pass's score")
SPEAKS = ("against the score", "for the score")
LIKENESS = ("unlike the prompt", "like the prompt")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Plan:
    """What a method reads: paths in order, whether weights, from where gradients, what it changes.

    `start` is None for methods that need no gradient, or whose gradients start at `leaf`: the path
    of a module whose input is the graph's leaf (a residual block). `states` are modules whose
    input and output are read. `rules` is a context in which the pass and the score are computed:
    what it changes is gradients only.
    """

    paths: tuple[str, ...]
    weights: bool
    start: str | None
    interventions: Mapping[str, Intervention] = field(default_factory=dict[str, Intervention])
    states: tuple[str, ...] = ()
    leaf: str | None = None
    rules: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def differentiates(self) -> bool:
        return self.start is not None or self.leaf is not None


@dataclass(frozen=True)
class Factors:
    """What a map is made of: factors that the untouched model computes, and those it never does.

    `replaced` says what kind of thing the substituted ones stand in for: a factor, the backward
    rule (the forward pass is untouched), the readout, the forward pass, or everything.
    """

    native: tuple[str, ...]
    substituted: tuple[str, ...] = ()
    replaced: Replaced = "factor"


@dataclass(frozen=True)
class Tower:
    """A tower as `Method.implied` needs it: its attention calls, readout row and content tokens."""

    root: nn.Module
    side: Side
    sites: tuple[AttentionLayer, ...]
    readout: int | None
    content: slice


class Method(ABC):
    """Abstract: subclasses are frozen dataclasses whose fields are the method's options."""

    card: ClassVar[MethodCard]
    foreign: ClassVar[bool] = False
    """Whether its maps come from code that was handed in, of whose pass nothing is known."""
    row_alone: ClassVar[bool] = False
    """Whether, of the calls it reads, it takes the readout's rows alone beside keys and values."""

    def __post_init__(self) -> None:
        """Check the options, as whoever created the method set them.

        Raises:
            InputError: a value that an option does not take.
        """
        for key, option in self.card.options.items():
            value = check_value(self.card.name, key, option, getattr(self, key))
            object.__setattr__(self, key, value)

    @abstractmethod
    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        """What to read of a tower whose attention calls are `sites`, first to last."""

    @abstractmethod
    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """A signed value for every key token of the last layer that was read."""

    def linear(self) -> bool:
        """Whether map and total are linear in the score's gradient: then those of any score follow
        from those of the embedding's coordinates by the chain rule."""
        return False

    def contributions(self, read: ReadPass) -> Float[Tensor, "item head channel token"] | None:
        """What one unit of dS/do_r, o_r the readout's output in the last call, brings to each key;
        None where the map is not that product. `read` has the readout's row alone."""
        del read
        return None

    def factors(self, side: Side) -> Factors:
        """What the map is made of, in words."""
        del side
        return Factors((self.card.reads,))

    def implied(self, tower: "Tower") -> dict[str, dict[str, Intervention]]:
        """The models that a map is really of: what the method uses in the model's place, put back.

        By name, the interventions by path that make the model. None where nothing is changed; by
        default the pass that the plan asks for.
        """
        changes = self.plan(tower.sites, tower.side).interventions
        return {"the pass that is explained": dict(changes)} if changes else {}

    def total(self, read: ReadPass) -> Float[Tensor, "item target"] | None:
        """What the values of all tokens promise to add up to; None where nothing is promised."""
        del read
        return None

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """The score that the values are about, in the graph of the pass: the pass's own, unless the
        method reads out another. The certificate holds it to the untouched model's."""
        return read.scores

    def settings(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {f.name: getattr(self, f.name) for f in fields}


def last_sites(sites: Sequence[AttentionLayer], count: Layers, default: int) -> tuple[str, ...]:
    """Paths of the last `count` calls; the default is cut down to what the model has."""
    if count is None:
        count = min(default, len(sites))
    elif count == "all":
        count = len(sites)
    if not 1 <= count <= len(sites):
        raise InputError(f"got layers={count}, expected 1 to {len(sites)}, the calls of this tower")
    return tuple(site.path for site in sites[-count:])


def stands_for(method: Method, name: str) -> bool:
    """Whether what `name` says of a method's maps still holds: no subclass of the class that said
    it computes anything in another way."""
    for kind in type(method).__mro__:
        if name in vars(kind):
            return kind is not Method
        own = [each for each in vars(kind) if not each.startswith("__")]
        if any(
            callable(vars(kind)[each]) or isinstance(vars(kind)[each], property) for each in own
        ):
            return False
    return False
