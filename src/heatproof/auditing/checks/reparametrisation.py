"""Does the map stay when weights change and the model's function provably does not?

Four changes of the weights around every attention call leave o W_O, and so the function, as it was:

- values: v -> M v and W_O -> W_O M^-1, an invertible matrix M a head;
- scale: q -> c q and k -> k / c, a number c a head: q . k stays;
- shift: k -> k + b, a vector b a head: every logit of a query moves by q . b, which softmax drops;
- order: the heads of q, k, v and the columns of W_O change places.

What a map makes of them beyond rounding is no property of the function that the model computes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from heatproof.auditing.base import Finding
from heatproof.auditing.checks.weights import WeightView, weight_views
from heatproof.auditing.measures import EPSILON, code_of, percent, relative_change
from heatproof.engine import inputs
from heatproof.errors import UserCodeError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign
from heatproof.models import Model
from heatproof.reading.weight_edits import coarsest, formats, in_dtype, kept

QUESTION = (
    "Does the map stay the same when the weights change so that the model's function does not?"
)
MARGIN = 1000
"""How many times the effect of rounding a change must exceed. Rounding lies at 1e-13 in float64 and
at 1e-6 in float32, what a changed function does above 1e-2: any margin in between says the same."""
REPEATS = 3
"""The same for a method whose map differs from run to run."""
CONTROL = 0.1
"""Relative noise on the attention weights that changes the function: the map has to notice."""

Change = Callable[[WeightView, torch.Generator], bool]
"""Rewrites the weights of one attention call; False where they have nothing to change."""


def mix_values(view: WeightView, chance: torch.Generator) -> bool:
    """v -> M v, W_O -> W_O M^-1, with singular values of M between 1/2 and 2."""
    channels = view.value.by_head().shape[1]
    matrices = torch.stack([_invertible(channels, chance) for _ in range(view.heads)])
    matrices = matrices.to(view.output.weight)
    undone = view.output_by_head().transpose(0, 1) @ torch.linalg.inv(matrices)
    view.value.change(matrices)
    view.write_output(undone.transpose(0, 1))
    return True


def scale_queries(view: WeightView, chance: torch.Generator) -> bool:
    """q -> c q, k -> k / c, with c between 1/4 and 4."""
    powers = 4 * torch.rand(view.heads, generator=chance, dtype=torch.float64) - 2
    factors = (2.0**powers).to(view.output.weight)
    eye = torch.eye(view.query.by_head().shape[1]).to(view.output.weight)
    view.query.change(factors.view(-1, 1, 1) * eye)
    view.key.change(eye / factors.view(-1, 1, 1))
    return True


def shift_keys(view: WeightView, chance: torch.Generator) -> bool:
    """k -> k + b, with b about as long as a key (of inputs with unit variance)."""
    if view.key.bias is None:
        return False
    weight = view.key.by_head()
    direction = torch.randn(weight.shape[:2], generator=chance, dtype=torch.float64)
    direction = torch.nn.functional.normalize(direction, dim=1).to(weight)
    shift = weight.flatten(1).norm(dim=1, keepdim=True) * direction
    view.key.bias.write(view.key.bias.read() + shift.flatten())
    return True


def reorder_heads(view: WeightView, chance: torch.Generator) -> bool:
    """Every head moves one place on."""
    del chance
    if view.heads < 2:
        return False
    order = [*range(1, view.heads), 0]
    for projection in (view.query, view.key, view.value):
        projection.reorder(order)
    view.write_output(view.output_by_head()[:, order])
    return True


def round_off(dtype: torch.dtype) -> Change:
    """Every weight by one rounding error of `dtype`: what any arithmetic in it may do."""
    return lambda view, chance: _noise(view, chance, float(torch.finfo(dtype).eps))


def change_function(view: WeightView, chance: torch.Generator) -> bool:
    """The control: another function, which a map of the function has to notice."""
    return _noise(view, chance, CONTROL)


def _noise(view: WeightView, chance: torch.Generator, size: float) -> bool:
    for slot in view.slots:
        values = slot.read()
        noise = torch.randn(values.shape, generator=chance, dtype=torch.float64)
        slot.write(values * (1 + size * noise.to(values)))
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


@dataclass(frozen=True)
class _Measured:
    """How far the embedding and the map moved, relative to their lengths."""

    embedding: float
    map: float


class _Bench:
    """The method and the model's embedding, measured again after each change.

    `dtype` is the coarsest number format that the model computes in while a map is made.
    """

    def __init__(
        self,
        subject: Subject,
        model: Model,
        images: Sequence[Image.Image] | Tensor,
        prompts: Sequence[str] | Tensor,
        views: Sequence[WeightView],
        seed: int,
    ) -> None:
        self.subject, self.model, self.images, self.prompts = subject, model, images, prompts
        if not subject.method.foreign and model.text is not None:
            # No change touches the text tower: it runs once.
            asked = prompts if isinstance(prompts, Tensor) else list(prompts)
            self.prompts = inputs.prompts(model, asked).embeddings
        self.views, self.seed = views, seed
        with formats(model) as dtypes:
            self.embedding, self.maps = self._run()
        self.dtype = coarsest(dtypes)

    def _run(self) -> tuple[Tensor, Tensor]:
        shown = self.images if isinstance(self.images, Tensor) else list(self.images)
        pixels = inputs.images(self.model, shown, None).pixels
        with torch.no_grad():
            embedding = self.model.image.encode(pixels)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # user code's own chance, as far as torch's goes
            return embedding, self.subject.maps(
                self.model, self.images, self.prompts, seed=self.seed
            )

    def again(self) -> _Measured:
        embedding, maps = self._run()
        return _Measured(
            relative_change(embedding, self.embedding), relative_change(maps, self.maps)
        )

    def after(self, change: Change, seed: int) -> _Measured | None:
        """None where no layer has anything to change."""
        with kept(self.model.module):
            chance = torch.Generator().manual_seed(seed)
            changed = [change(view, chance) for view in self.views]
            if not any(changed):
                return None
            return self.again()


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    seed: int = 0,
) -> Finding:
    """Maps before and after the four changes, in float64 where the method's own code takes it."""
    shown = images if isinstance(images, Tensor) else list(images)
    pixels = inputs.images(model, shown, None).pixels
    sites = model.attention_layers("image", pixels.shape[-2:])
    views, unknown = weight_views(model.module, sites)
    if not views:
        text = f"the weights at {unknown[0]!r} are laid out in no way that is known here"
        return Finding("reparametrisation", 1, QUESTION, "not applicable", text)

    def measured() -> dict[str, Any]:
        return _measure(_Bench(subject, model, images, prompts, views, seed), seed)

    numbers = _in_float64(model, measured)
    numbers["layouts not known"] = unknown
    return _judge(subject, numbers)


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
    """Whether torch refused to mix tensors of two dtypes."""
    mixed = re.search("dtype|scalar ?type|input type", str(error), re.IGNORECASE)
    return isinstance(error, (RuntimeError, TypeError)) and mixed is not None


def _measure(bench: _Bench, seed: int) -> dict[str, Any]:
    floor = bench.after(round_off(bench.dtype), seed + 1)
    repeat = bench.again().map if isinstance(bench.subject.method, Foreign) else 0.0
    control = bench.after(change_function, seed + 3)
    assert floor is not None
    assert control is not None
    epsilon = float(torch.finfo(bench.dtype).eps)
    still = MARGIN * max(epsilon, floor.embedding)
    limit = max(MARGIN * max(floor.map, EPSILON / 2), REPEATS * repeat)
    changes: dict[str, Any] = {}
    for number, (name, (change, _)) in enumerate(CHANGES.items()):
        found = bench.after(change, seed + 10 + number)
        changes[name] = None if found is None else _plain(found, still, limit)
    return {
        "dtype": str(bench.dtype).removeprefix("torch."),
        "changes": changes,
        "rounding": {"embedding": floor.embedding, "map": floor.map},
        "repeat": repeat,
        "control": {"embedding": control.embedding, "map": control.map},
        "embedding limit": still,
        "map limit": limit,
        "seed": seed,
        "images": len(bench.maps),
        "prompts": bench.maps.shape[1],
    }


def _plain(found: _Measured, still: float, limit: float) -> dict[str, Any]:
    preserved = found.embedding <= still
    return {
        "embedding": found.embedding,
        "map": found.map,
        "function preserved": preserved,
        "breaks the map": preserved and found.map > limit,
    }


def _judge(subject: Subject, numbers: dict[str, Any]) -> Finding:
    changes: dict[str, dict[str, Any]] = {k: v for k, v in numbers["changes"].items() if v}
    tried = {name: each for name, each in changes.items() if each["function preserved"]}
    control, limit = numbers["control"]["map"], numbers["map limit"]

    def finding(verdict: Any, text: str) -> Finding:
        code = code_of(subject.method, "attribute")
        return Finding("reparametrisation", 1, QUESTION, verdict, text, numbers, code)

    if not tried:
        text = "none of the four changes leaves this model's function as it was (norms or rotary"
        return finding("not applicable", f"{text} positions stand between the weights)")
    still = max(each["embedding"] for each in tried.values())
    broken = {name: each["map"] for name, each in tried.items() if each["breaks the map"]}
    if broken:
        worst = sorted(broken, key=lambda name: -broken[name])
        parts = [f"by {percent(broken[name])} when {CHANGES[name][1]}" for name in worst]
        text = (
            f"The map moves {', '.join(parts)}, while the embedding moves by {still:.1g} at most "
            f"and rounding alone moves the map by {_floored(numbers['rounding']['map'])}: it shows "
            "something that the model's function does not depend on."
        )
        return finding("violated", text)
    if control <= limit:
        return finding("cannot tell", _hidden(numbers))
    largest = max(each["map"] for each in tried.values())
    text = (
        f"{len(tried)} changes of the weights that leave the function as it is ("
        f"{', '.join(tried)}) move the map by {_floored(largest)}, the embedding by {still:.1g}; "
        f"a change of the function moves it by {percent(control)}{_in_dtype(numbers)}."
    )
    return finding("holds", text)


def _hidden(numbers: dict[str, Any]) -> str:
    """Why a change of the function cannot be told from none: rounding, chance, or a map of nothing
    that the changes touch."""
    control, limit = numbers["control"]["map"], numbers["map limit"]
    moves = (
        f"a change of the function moves the embedding by "
        f"{percent(numbers['control']['embedding'])} and the map by {percent(control)}"
    )
    if control <= MARGIN * EPSILON / 2:
        return (
            f"The map does not move when the function itself does: {moves}, and {percent(limit)} "
            "can be told apart. It depends on nothing that the changes touch."
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
    """That the check did not run in float64, and why."""
    why = numbers["why not float64"]
    return f" (in {numbers['dtype']}, for {why})" if why else ""


def _floored(change: float) -> str:
    """Maps are kept in float32: what is below its rounding cannot be seen."""
    return "less than 6e-08" if change < EPSILON / 2 else f"{change:.1g}"
