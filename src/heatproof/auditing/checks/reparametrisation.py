"""Check that a map stays when weights change and the model's function provably does not.

Four changes of the weights around every attention call leave o W_O, and so the function, unchanged:

- values: v -> M v and W_O -> W_O M^-1, an invertible matrix M per head;
- scale: q -> c q and k -> k / c, a number c per head: q . k stays;
- shift: k -> k + b, a vector b per head: a query's logits all move by q . b, which softmax drops;
- order: the heads of q, k, v and the columns of W_O change places.

A map that moves beyond rounding shows something that is no property of the model's function.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    Verdict,
    register_check,
)
from heatproof.auditing.comparison import EPSILON, code_of, percent, relative_change
from heatproof.auditing.drawing import against_limits
from heatproof.errors import UserCodeError
from heatproof.evaluation.subject import Subject
from heatproof.models import Model
from heatproof.plots import chart
from heatproof.reading.attention_weights import AttentionWeights, attention_weights
from heatproof.reading.weight_edits import (
    coarsest,
    computed_dtypes,
    in_dtype,
    temporary_weights,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How many times the effect of rounding a change must exceed. Rounding lies at 1e-13 in float64
# and at 1e-6 in float32, what a changed function does above 1e-2: any margin in between says the
# same.
MARGIN = 1000
# The same for a method whose map differs from run to run.
REPEATS = 3
# Relative noise on the attention weights that changes the function: the map has to notice.
CONTROL = 0.1
MOVES_FUNCTION = " (function moves)"

Change = Callable[[AttentionWeights, torch.Generator], bool]
"""Rewrite the weights of one attention call; return False where there is nothing to change."""


def mix_values(view: AttentionWeights, chance: torch.Generator) -> bool:
    """Set v -> M v, W_O -> W_O M^-1, with singular values of M between 1/2 and 2."""
    channels = view.value.by_head().shape[1]
    matrices = torch.stack([_invertible(channels, chance) for _ in range(view.heads)])
    matrices = matrices.to(view.output.weight)
    undone = view.output_by_head().transpose(0, 1) @ torch.linalg.inv(matrices)
    view.value.change(matrices)
    view.write_output(undone.transpose(0, 1))
    return True


def scale_queries(view: AttentionWeights, chance: torch.Generator) -> bool:
    """Set q -> c q, k -> k / c, with c between 1/4 and 4."""
    powers = 4 * torch.rand(view.heads, generator=chance, dtype=torch.float64) - 2
    factors = (2.0**powers).to(view.output.weight)
    eye = torch.eye(view.query.by_head().shape[1]).to(view.output.weight)
    view.query.change(factors.view(-1, 1, 1) * eye)
    view.key.change(eye / factors.view(-1, 1, 1))
    return True


def shift_keys(view: AttentionWeights, chance: torch.Generator) -> bool:
    """Set k -> k + b, with b about as long as a key (of inputs with unit variance)."""
    if view.key.bias is None:
        return False
    weight = view.key.by_head()
    direction = torch.randn(weight.shape[:2], generator=chance, dtype=torch.float64)
    direction = torch.nn.functional.normalize(direction, dim=1).to(weight)
    shift = weight.flatten(1).norm(dim=1, keepdim=True) * direction
    view.key.bias.write(view.key.bias.read() + shift.flatten())
    return True


def reorder_heads(view: AttentionWeights, chance: torch.Generator) -> bool:
    """Move every head one place on."""
    del chance
    if view.heads < 2:
        return False
    order = [*range(1, view.heads), 0]
    for projection in (view.query, view.key, view.value):
        projection.reorder(order)
    view.write_output(view.output_by_head()[:, order])
    return True


def round_off(dtype: torch.dtype) -> Change:
    """Move every weight by one rounding error of `dtype`: what any arithmetic in it may do."""
    return lambda view, chance: _noise(view, chance, float(torch.finfo(dtype).eps))


def change_function(view: AttentionWeights, chance: torch.Generator) -> bool:
    """Change the function: the control, which a map of the function has to notice."""
    return _noise(view, chance, CONTROL)


def _noise(view: AttentionWeights, chance: torch.Generator, size: float) -> bool:
    for rows in view.rows:
        values = rows.read()
        # Drawn in float64, so that every number format gets the same noise.
        noise = torch.randn(values.shape, generator=chance, dtype=torch.float64)
        rows.write(values * (1 + size * noise.to(values)))
    return True


def _invertible(size: int, chance: torch.Generator) -> Tensor:
    def rotation() -> Tensor:
        drawn = torch.randn(size, size, generator=chance, dtype=torch.float64)
        return torch.linalg.qr(drawn)[0]

    stretch = 2 ** (2 * torch.rand(size, generator=chance, dtype=torch.float64) - 1)
    return rotation() * stretch @ rotation()


CHANGES: dict[str, tuple[Change, str]] = {
    "values": (mix_values, "each head's values are mixed and unmixed by the output projection"),
    "scale": (scale_queries, "queries are scaled by c and keys by 1/c"),
    "shift": (shift_keys, "all keys of a head are shifted by one vector"),
    "order": (reorder_heads, "the heads change places"),
}


@register_check
@dataclass(frozen=True)
class ReparametrisationCheck(AuditCheck):
    """Compare maps before and after the four changes, in float64 where the code takes it."""

    card = CheckCard(
        name="reparametrisation",
        title="reparametrisation",
        principle=1,
        place=3,
        question="Does the map stay when the weights change and the model's function does not?",
        answers="function",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Make every change in place, map again, and restore the weights."""
        few = context.first(context.extra, 2)
        weights, unknown = attention_weights(few.model.module, few.attention_layers())
        if not weights:
            text = f"How the weights at {unknown[0]!r} are stored is not known here."
            return self.finding("not applicable", text)
        numbers = _in_float64(few.model, lambda: _measure(_Repeat(subject, few, weights)))
        numbers["layouts not known"] = unknown
        verdict, evidence = _verdict(numbers)
        return self.finding(verdict, evidence, numbers, code_of(subject.method, "attribute"))

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw how far the map moves, a row per change, beside rounding and the control."""
        changes: Mapping[str, Numbers | None] = numbers["changes"]
        moved = {
            name if one["function preserved"] else f"{name}{MOVES_FUNCTION}": one["map"]
            for name, one in changes.items()
            if one
        }
        if not moved:
            return None
        # Where the function moves too, a map that moves breaks nothing.
        controls = {
            **{name: moved.pop(name) for name in list(moved) if name.endswith(MOVES_FUNCTION)},
            "rounding": numbers["rounding"]["map"],
            "control: another function": numbers["control"]["map"],
        }
        limit = float(numbers["map limit"])
        rows = {name: (chart.finite(value), limit) for name, value in (moved | controls).items()}
        return against_limits(rows, "relative change of the map (log)", controls=tuple(controls))


@dataclass(frozen=True)
class _Movement:
    """How far the embedding and the map moved, relative to their lengths."""

    embedding: float
    map: float


class _Repeat:
    """Repeat a method's maps and the model's embeddings after each change of the weights.

    `dtype` is the coarsest number format that the model computes in while a map is made.
    """

    def __init__(
        self, subject: Subject, context: CheckContext, weights: Sequence[AttentionWeights]
    ) -> None:
        self.subject, self.context, self.weights = subject, context, weights
        self.prompts = context.prompts
        if not subject.method.foreign and context.model.text is not None:
            self.prompts = context.embeddings()  # no change reaches the text tower: it runs once
        with computed_dtypes(context.model) as dtypes:
            self.embedding, self.maps = self._run()
        self.dtype = coarsest(dtypes)

    def _run(self) -> tuple[Tensor, Tensor]:
        model, seed = self.context.model, self.context.seed
        pixels = self.context.pixels()
        with torch.no_grad():
            embedding = model.image.encode(pixels)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # user code's own chance, as far as torch's goes
            maps = self.subject.maps(model, self.context.images, self.prompts, seed=seed)
        return embedding, maps

    def again(self) -> _Movement:
        """Map once more, by the weights as they now are."""
        embedding, maps = self._run()
        return _Movement(
            relative_change(embedding, self.embedding), relative_change(maps, self.maps)
        )

    def after(self, change: Change, draw: int) -> _Movement | None:
        """Map with changed weights; None where no layer has anything to change."""
        with temporary_weights(self.context.model.module, restore="swap"):
            chance = torch.Generator().manual_seed(self.context.seed + draw)
            changed = [change(weights, chance) for weights in self.weights]
            return self.again() if any(changed) else None


def _in_float64(model: Model, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        with in_dtype(model.module, torch.float64):
            return {"why not float64": "", **measure()}
    except UserCodeError as error:
        if not _is_about_dtypes(error.__cause__):
            raise
        why = str(error)
    # The code has tensors of the model's own dtype: then so has the whole check.
    return {"why not float64": why, **measure()}


def _is_about_dtypes(error: BaseException | None) -> bool:
    """Say whether torch refused to mix tensors of two dtypes."""
    mixed = re.search("dtype|scalar ?type|input type", str(error), re.IGNORECASE)
    return isinstance(error, (RuntimeError, TypeError)) and mixed is not None


def _measure(repeat: _Repeat) -> dict[str, Any]:
    # Every change has draws of its own, so that no two move the weights alike.
    floor = repeat.after(round_off(repeat.dtype), 1)
    again = repeat.again().map if repeat.subject.method.foreign else 0.0
    control = repeat.after(change_function, 3)
    assert floor is not None
    assert control is not None
    epsilon = float(torch.finfo(repeat.dtype).eps)
    still = MARGIN * max(epsilon, floor.embedding)
    # Maps are float32 whatever the pass computes in, so their own rounding is a floor too.
    limit = max(MARGIN * max(floor.map, EPSILON / 2), REPEATS * again)
    changes: dict[str, Any] = {}
    for number, (name, (change, _)) in enumerate(CHANGES.items()):
        movement = repeat.after(change, 10 + number)
        changes[name] = None if movement is None else _plain(movement, still, limit)
    return {
        "dtype": str(repeat.dtype).removeprefix("torch."),
        "changes": changes,
        "rounding": {"embedding": floor.embedding, "map": floor.map},
        "repeat": again,
        "control": {"embedding": control.embedding, "map": control.map},
        "embedding limit": still,
        "map limit": limit,
        "seed": repeat.context.seed,
        "images": len(repeat.maps),
        "prompts": repeat.maps.shape[1],
    }


def _plain(movement: _Movement, still: float, limit: float) -> dict[str, Any]:
    preserved = movement.embedding <= still
    return {
        "embedding": movement.embedding,
        "map": movement.map,
        "function preserved": preserved,
        "breaks the map": preserved and movement.map > limit,
    }


def _verdict(numbers: dict[str, Any]) -> tuple[Verdict, str]:
    changes: dict[str, dict[str, Any]] = {k: v for k, v in numbers["changes"].items() if v}
    tried = {name: one for name, one in changes.items() if one["function preserved"]}
    if not tried:
        return "not applicable", (
            "None of the four changes leaves this model's function unchanged (norms or rotary "
            "positions stand between the weights)."
        )
    still = max(one["embedding"] for one in tried.values())
    broken = {name: one["map"] for name, one in tried.items() if one["breaks the map"]}
    if broken:
        worst = sorted(broken, key=lambda name: -broken[name])
        parts = [f"by {percent(broken[name])} when {CHANGES[name][1]}" for name in worst]
        return "violated", (
            f"The map moves {', '.join(parts)}, while the embedding moves by at most {still:.1g} "
            f"and rounding alone moves the map by {_floored(numbers['rounding']['map'])}: the map "
            "shows something that the model's function does not depend on."
        )
    control = numbers["control"]["map"]
    if control <= numbers["map limit"]:
        return "cannot tell", _hidden(numbers)
    largest = max(one["map"] for one in tried.values())
    return "holds", (
        f"{len(tried)} changes of the weights that leave the function unchanged "
        f"({', '.join(tried)}) move the map by {_floored(largest)} and the embedding by "
        f"{still:.1g}; a change of the function moves the map by {percent(control)}"
        f"{_in_dtype(numbers)}."
    )


def _hidden(numbers: dict[str, Any]) -> str:
    """Say what hides a change of the function: rounding, chance, or a map of something else."""
    control, limit = numbers["control"]["map"], numbers["map limit"]
    moves = (
        f"a change of the function moves the embedding by "
        f"{percent(numbers['control']['embedding'])} and the map by {percent(control)}"
    )
    if control <= MARGIN * EPSILON / 2:
        return (
            f"The map does not move when the function itself does: {moves}, where {percent(limit)} "
            "would be seen. It depends on nothing that the changes touch."
        )
    if REPEATS * numbers["repeat"] >= MARGIN * numbers["rounding"]["map"]:
        return (
            f"Chance hides the changes: the same map made twice differs by "
            f"{percent(numbers['repeat'])}; {moves}."
        )
    return (
        f"Rounding hides the changes: in {numbers['dtype']} rounding alone moves the map by "
        f"{percent(numbers['rounding']['map'])}; {moves}, less than {MARGIN:,} times that."
        f"{_in_dtype(numbers)}"
    )


def _in_dtype(numbers: dict[str, Any]) -> str:
    """Say that the check did not run in float64, and why."""
    why = numbers["why not float64"]
    return f" (in {numbers['dtype']}, because {why})" if why else ""


def _floored(change: float) -> str:
    """Format a change; maps are float32, and what is below its rounding cannot be seen."""
    return "less than 6e-08" if change < EPSILON / 2 else f"{change:.1g}"
