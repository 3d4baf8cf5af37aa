"""What a method is: a plan of what to read, and a function of what was read."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.certificate import Replaced
from heatproof.errors import InputError, ReadingError
from heatproof.images import Photo
from heatproof.models.model import Projection
from heatproof.options import Switch, checked
from heatproof.reading import Activation, Attention, AttentionLayer, Edit, Intervention, Trace

Side = Literal["image", "text"]
Layers = int | Literal["all"] | None
"""How many of a tower's last attention calls are read; None is the method's own default."""

# Legends of maps (see `Card.signs`): what negative values say, and what positive ones do.
NEVER = "does not occur"
CONTRIBUTES = ("lowers the score", "raises the score")
EXPLAINED = ("lowers the pass's score", "raises the pass's score")
SPEAKS = ("against the score", "for the score")
LIKENESS = ("unlike the prompt", "like the prompt")

# Bytes that the gradients of several targets may take at once where the user says nothing. What a
# processor's cache does not hold takes longer in one go than in several, whatever memory there is.
GRADIENTS_AT_ONCE = 256 * 2**20
IN_CACHE = 8 * 2**20
# A gradient is alive in several copies while it is computed. On its way there it goes through MLPs:
# their hidden layers are four times as wide as the stream, and a few tensors of that size are
# alive at once.
WORKING_COPIES = 4
HIDDEN_WIDTHS = 16


@dataclass(frozen=True)
class Card:
    """A catalogue entry: what a user must know before trusting a map of this method.

    `changes` says what the method does to the model: nothing, or which part of what it explains
    is not the model's. `values` says what a map's numbers mean and add up to. `notes` are the
    authors' defaults and, where their paper and code differ, which is the default here and why.
    `signs` are the legend's words for negative and for positive values; None where they mean
    nothing but low and high.
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


@runtime_checkable
class Rerun(Protocol):
    """Scores of the model's own encoder once more: on other pixels, edited, or intervened on."""

    def __call__(
        self,
        pixels: Float[Tensor, "variant 3 height width"] | None = None,
        *,
        interventions: Mapping[str, Intervention] | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "variant target"]:
        """By default on the pass's own inputs, in the caller's grad mode.

        pixels: any number of pictures (image side alone); they need not be those of the pass.
        """
        ...


@dataclass
class ReadPass:
    """One read forward pass of one tower, and the scores that it led to.

    Items are the tower's inputs (pictures, or prompts on the text side), targets what each is
    scored against. `readout` is the readout row of each item, None where all rows of content are.
    `content` are the key tokens that stand for the input itself: patches, or the whole context.
    `reached` notes by path whether any gradient arrived there. `states` holds what `Plan.states`
    asked for. `compare` scores embeddings as the pass's own were, `rerun` runs the encoder again.
    `labels` are the targets' names, `photos` the pictures as the user handed them in, if he did.
    `embedding` is what was scored, in the graph; `rules` what the plan's rules gave on entering.
    The first `asked` targets are the user's own; null prompts ride along behind them. `project`
    is what one token of the last block goes through to become an embedding, where the tower has
    such a thing; `empty` scores embeddings against the empty prompt (image side).
    `seed` is the explanation's, `first` the number of its first item there. `words` is True on the
    keys that stand for words (text side); `black` is what the model's preprocessing makes of black.
    `memory` is how many bytes the gradients of several targets may take at once.
    """

    side: Side
    root: nn.Module
    trace: Trace
    scores: Float[Tensor, "item target"]
    readout: Int[Tensor, " item"] | None
    content: slice
    compare: Callable[[Float[Tensor, "item dim"]], Float[Tensor, "item target"]]
    rerun: Rerun
    pooled: bool = False
    grid: tuple[int, int] = (1, 1)
    pixels: Float[Tensor, "item 3 height width"] | None = None
    seed: int = 0
    reached: dict[str, bool] = field(default_factory=dict[str, bool])
    states: Mapping[str, Activation] = field(default_factory=dict[str, Activation])
    labels: tuple[str, ...] = ()
    photos: tuple[Photo, ...] = ()
    embedding: Float[Tensor, "item dim"] | None = None
    rules: object = None
    asked: int = 0
    project: Projection | None = None
    empty: Callable[[Float[Tensor, "item dim"]], Float[Tensor, " item"]] | None = None
    first: int = 0
    words: Bool[Tensor, "item key"] | None = None
    black: Callable[[], Float[Tensor, "3 1 1"]] | None = None
    memory: int = GRADIENTS_AT_ONCE

    @property
    def targets(self) -> int:
        return self.scores.shape[1]

    @property
    def last(self) -> Attention:
        return self.trace.layers[-1]

    def gradients(
        self,
        layers: Sequence[Attention],
        of: Sequence[Literal["weights", "output"]],
        scores: Float[Tensor, "item target"] | None = None,
    ) -> Iterator[dict[str, list[Tensor]]]:
        """For each target in turn: its gradient with respect to each layer's `of`.

        Gradients are of the sum over items, each of which depends on its own input alone.
        `scores`: others than the pass's own.
        """
        wanted: list[Tensor] = [getattr(layer, kind) for kind in of for layer in layers]
        for grads in self.gradients_of(wanted, scores):
            split = {
                kind: list(grads[n * len(layers) : (n + 1) * len(layers)])
                for n, kind in enumerate(of)
            }
            for layer, grad in zip(layers, split[of[0]], strict=True):
                if not self.reached.get(layer.path):
                    self.reached[layer.path] = bool(grad.count_nonzero())
            yield split

    def gradients_of(
        self, wanted: Sequence[Tensor], scores: Float[Tensor, "item target"] | None = None
    ) -> Iterator[tuple[Tensor, ...]]:
        """For each target in turn: the gradient of its score (summed over items) with respect to
        each of `wanted`, zero where it does not depend on it. As many together as fit `memory`.

        `scores`: others than the pass's own.
        """
        with torch.enable_grad():  # the pass itself may have needed no graph
            sums = (self.scores if scores is None else scores).sum(0)
        step = self._targets_at_once(wanted)
        for some in torch.eye(len(sums), dtype=sums.dtype, device=sums.device).split(step):
            grads = gradients_at_once(sums, wanted, some)
            yield from zip(*(grad.unbind() for grad in grads), strict=True)

    def _targets_at_once(self, wanted: Sequence[Tensor]) -> int:
        """How many targets' gradients fit `memory` together, and each in a processor's cache."""
        sizes = [WORKING_COPIES * _size(each) for each in wanted]
        passing = HIDDEN_WIDTHS * max(_size(layer.query) for layer in self.trace.layers)
        fit = self.memory // max(1, sum(sizes) + passing)
        if wanted[0].device.type == "cpu":
            fit = min(fit, IN_CACHE // max(1, *sizes))
        return max(1, fit)

    def rows(
        self, tensor: Float[Tensor, "item head query last"], layer: Attention
    ) -> Float[Tensor, "item head row last"]:
        """The readout rows: one an item, or those of all content where the readout is a mean."""
        if self.pooled and layer.path != self.last.path:
            raise ReadingError(
                f"the readout is a row of the pooling call {self.last.path!r} alone; "
                f"{layer.path!r} has no such row; try layers=1"
            )
        if self.readout is None:
            return tensor[:, :, self.content]
        index = self.readout.to(tensor.device).view(-1, 1, 1, 1)
        return tensor.take_along_dim(index, dim=2)


@dataclass(frozen=True)
class Tower:
    """A tower as `Method.implied` needs it: its attention calls, readout row and content tokens."""

    root: nn.Module
    side: Side
    sites: tuple[AttentionLayer, ...]
    readout: int | None
    content: slice


class Method(ABC):
    """Abstract: subclasses are frozen dataclasses whose fields are the method's switches."""

    card: ClassVar[Card]
    switches: ClassVar[Mapping[str, Switch]] = {}
    """Set where the method is registered."""
    foreign: ClassVar[bool] = False
    """Whether its maps come from code that was handed in, of whose pass nothing is known."""
    row_alone: ClassVar[bool] = False
    """Whether, of the calls it reads, it takes the readout's rows alone beside keys and values."""

    def __post_init__(self) -> None:
        """Check the switches, as whoever created the method set them.

        Raises:
            InputError: a value that a switch does not take.
        """
        for key, switch in self.switches.items():
            value = checked(self.card.name, key, switch, getattr(self, key))
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

    def shares(self, read: ReadPass) -> Float[Tensor, "item head channel token"] | None:
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


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def gradients_at_once(
    outputs: Float[Tensor, "*size"],
    wanted: Sequence[Tensor],
    cotangents: Float[Tensor, "some *size"],
) -> tuple[Tensor, ...]:
    """Vector-Jacobian products of all cotangents, stacked in front; zero where nothing depends.

    All at once where every function of the graph can be batched, else one after the other: the
    same products, and an error that is not one of batching comes again.
    """
    if len(cotangents) > 1:
        try:
            return _products(outputs, wanted, cotangents, batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a function written in Python has no rule of batching
            pass
    each = [_products(outputs, wanted, one, batched=False) for one in cotangents]
    return tuple(torch.stack(grads) for grads in zip(*each, strict=True))


def _products(
    outputs: Tensor, wanted: Sequence[Tensor], cotangents: Tensor, *, batched: bool
) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(
        outputs,
        wanted,
        cotangents,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
    some = cotangents.shape[:1] if batched else ()
    return tuple(
        each.new_zeros(*some, *each.shape) if grad is None else grad  # pyright: ignore
        for grad, each in zip(found, wanted, strict=True)
    )
