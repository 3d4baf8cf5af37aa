"""One read pass over a chunk of inputs: the model's own encoder, read, then the method."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from heatproof.engine import last_block
from heatproof.engine.last_block import RowPass
from heatproof.errors import HeatproofError, ReadingError
from heatproof.images import Photo
from heatproof.methods.base import (
    GRADIENTS_AT_ONCE,
    HIDDEN_WIDTHS,
    Method,
    Plan,
    ReadPass,
    Rerun,
    Side,
    gradients_at_once,
    stands_for,
)
from heatproof.models.model import Model, Projection
from heatproof.models.running import find_out_why
from heatproof.reading import (
    Activation,
    Attention,
    AttentionLayer,
    Edit,
    Intervention,
    Trace,
    edit_activations,
    find_attention_layers,
    reading,
    record_activations,
)
from heatproof.reading.attention_call import at_least_float32, exact
from heatproof.reading.compiled import as_python

P = ParamSpec("P")
R = TypeVar("R")

SLOPES_AT_ONCE = 64
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")

_sites: WeakKeyDictionary[Model, dict[Side, tuple[AttentionLayer, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Batch:
    """Inputs of one tower that go through the model together.

    `encode` is the model's own encoder on these inputs; `compare` turns its embeddings into scores
    (item, target). `encode_pixels` encodes other pictures instead (image side), `first` is the
    number of the first item in the explanation. `linear_slopes` gives dS/d(embedding) in closed
    form, or None where there is none; `targets` and the embedding's `width` are 0 where they are
    not known beforehand. The other fields are those of `ReadPass`.
    """

    side: Side
    encode: Callable[[], Float[Tensor, "item dim"]]
    compare: Callable[[Float[Tensor, "item dim"]], Float[Tensor, "item target"]]
    readout: Int[Tensor, " item"] | None
    content: slice
    pooled: bool
    grid: tuple[int, int] = (1, 1)
    pixels: Float[Tensor, "item 3 height width"] | None = None
    encode_pixels: Callable[[Tensor], Tensor] | None = None
    labels: tuple[str, ...] = ()
    photos: tuple[Photo, ...] = ()
    asked: int = 0
    project: Projection | None = None
    empty: Callable[[Float[Tensor, "item dim"]], Float[Tensor, " item"]] | None = None
    first: int = 0
    words: Bool[Tensor, "item key"] | None = None
    black: Callable[[], Float[Tensor, "3 1 1"]] | None = None
    targets: int = 0
    width: int = 0
    linear_slopes: Callable[[Float[Tensor, "item dim"]], Tensor | None] | None = None
    memory: int = GRADIENTS_AT_ONCE

    def slopes(self, embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item target dim"]:
        """dS/d(embedding) of every target, through the embedding's length too."""
        found = None if self.linear_slopes is None else self.linear_slopes(embedding)
        if found is not None:
            return found
        return slopes_of(self.compare, embedding)

    def rerun(self, module: nn.Module) -> Rerun:
        """See `Rerun`."""

        def scores(
            pixels: Tensor | None = None,
            *,
            interventions: Mapping[str, Intervention] | None = None,
            edits: Mapping[str, Edit] | None = None,
        ) -> Tensor:
            with ExitStack() as stack:
                if torch.is_grad_enabled():  # several at once, or twice: not through compiled code
                    stack.enter_context(as_python(module))
                if interventions:
                    paths: list[str] = []
                    stack.enter_context(reading(module, paths, interventions=interventions))
                if edits:
                    stack.enter_context(edit_activations(module, edits))
                if pixels is None:
                    embedding = self.encode()
                else:
                    assert self.encode_pixels is not None
                    embedding = self.encode_pixels(pixels)
            return self.compare(at_least_float32(embedding))

        return scores


@dataclass(frozen=True)
class Attribution:
    """What a read pass gave: the method's values, and the evidence that a certificate needs.

    `total` is what the values promise to add up to, `live_rows` which query rows of the last call
    feed the score (None where no gradient was taken), `reached` whether gradients arrived, by path.
    `scores` are those that the values are about: the pass's own, or others (`Method.explained`).
    `untouched` are the model's own scores, None where the pass that was read was changed.
    `row_alone` says that the last block was run on the readout's row (`row_pass`).
    """

    values: Float[Tensor, "item target token"]
    scores: Float[Tensor, "item target"]
    total: Float[Tensor, "item target"] | None
    live_rows: Bool[Tensor, "item query"] | None
    reached: dict[str, bool]
    untouched: Float[Tensor, "item target"] | None
    row_alone: bool = False


def slopes_of(
    compare: Callable[[Float[Tensor, "item dim"]], Float[Tensor, "item target"]],
    embedding: Float[Tensor, "item dim"],
) -> Float[Tensor, "item target dim"]:
    """dS/d(embedding) of any score by gradient; each item's depends on its own embedding alone."""
    with torch.enable_grad():
        leaf = embedding.detach().requires_grad_()
        sums = compare(leaf).sum(0)
    every = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
    parts = [gradients_at_once(sums, [leaf], some)[0] for some in every.split(SLOPES_AT_ONCE)]
    return torch.cat(parts).transpose(0, 1)


def attention_layers_of(
    model: Model, side: Side, run: Callable[[], Any]
) -> tuple[AttentionLayer, ...]:
    """The tower's attention calls, found by running `run` (one input) the first time.

    A model that gives each image a grid of its own is asked anew: its calls differ in size.
    """
    if side == "image" and model.image.preprocess.flexible:
        return find_attention_layers(model.module, run, 1)
    known = _sites.setdefault(model, {})
    if side not in known:
        try:
            known[side] = find_attention_layers(model.module, run, 1)
        except HeatproofError:
            raise
        except Exception:
            find_out_why(model.spec, side, run)
            raise
    return known[side]


def run(
    model: Model,
    method: Method,
    sites: Sequence[AttentionLayer],
    chunk: Batch,
    *,
    seed: int,
    evidence: bool,
) -> Attribution:
    """Read the model's pass over `chunk` and attribute its scores by `method`.

    With `evidence`, what a certificate needs is gathered too: one more backward step in the last
    block, and no forward pass. Where targets outnumber the embedding's coordinates and the method
    is linear in the gradient, the coordinates are explained in their place.
    """
    if not 0 < chunk.width < chunk.targets or not is_linear(method):
        return _run(model, method, sites, chunk, seed=seed, evidence=evidence)
    by_coordinate = coordinates(model, method, sites, chunk, seed=seed, evidence=evidence)
    embedding, total, own = by_coordinate.scores, by_coordinate.total, by_coordinate.untouched
    with exact(embedding):
        slopes = chunk.slopes(embedding)
        return replace(
            by_coordinate,
            values=slopes @ by_coordinate.values,
            scores=chunk.compare(embedding),
            untouched=None if own is None else chunk.compare(own),
            total=None if total is None else (slopes @ total.unsqueeze(-1)).squeeze(-1),
        )


def is_linear(method: Method) -> bool:
    """Whether maps of any score follow from those of the embedding's coordinates."""
    return stands_for(method, "linear") and method.linear()


def coordinates(
    model: Model,
    method: Method,
    sites: Sequence[AttentionLayer],
    chunk: Batch,
    *,
    seed: int,
    evidence: bool,
) -> Attribution:
    """The outcome with the embedding's coordinates as targets: its Jacobian, mapped."""
    plain = replace(chunk, compare=coordinates_of, linear_slopes=_unit_slopes)
    return _run(model, method, sites, plain, seed=seed, evidence=evidence)


def coordinates_of(embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
    """The embedding's coordinates as scores of their own."""
    return embedding


def _unit_slopes(embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim dim"]:
    eye = torch.eye(embedding.shape[1], dtype=embedding.dtype, device=embedding.device)
    return eye.expand(len(embedding), -1, -1)


def _run(
    model: Model,
    method: Method,
    sites: Sequence[AttentionLayer],
    chunk: Batch,
    *,
    seed: int,
    evidence: bool,
) -> Attribution:
    try:
        return _attributed(model, method, sites, chunk, seed=seed, evidence=evidence)
    except CheckpointError as error:  # with a switch it is off (`reading.checkpointing`)
        raise ReadingError(
            f"{model.spec} runs blocks again in the backward pass (torch.utils.checkpoint), when "
            "nothing is read any more; take that out of its forward"
        ) from error


def _attributed(
    model: Model,
    method: Method,
    sites: Sequence[AttentionLayer],
    chunk: Batch,
    *,
    seed: int,
    evidence: bool,
) -> Attribution:
    plan = method.plan(sites, chunk.side)
    if evidence and not plan.differentiates:
        plan = replace(plan, start=plan.paths[-1])
    if plan.differentiates:
        _refuse_quantised(model, chunk.side)
    device, see = model.device.type, chunk.encode_pixels
    chunk = replace(
        chunk,
        encode=_as_called(device, chunk.encode),
        encode_pixels=None if see is None else _as_called(device, see),
    )
    read_row = _as_called(device, last_block.read_row)
    with torch.inference_mode(False), torch.autocast(device, enabled=False):
        if chunk.side == "image" and last_block.fits(model.module, method, plan, sites, chunk):
            row = read_row(model.module, plan, sites[-1], chunk, evidence=evidence)
            if row is not None:
                with torch.set_grad_enabled(plan.differentiates):
                    return _of_row(model, method, plan, chunk, row, seed, evidence)
        with torch.set_grad_enabled(plan.differentiates):
            return _of_whole(model, method, plan, chunk, seed, evidence)


def _as_called(device: str, function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` in the `torch.autocast` that is on now, wherever it will be called: the
    model's own pass is, and what is computed from it is not."""
    on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(device, dtype=dtype, enabled=on):
            return function(*args, **kwargs)

    return run if on else function


def _refuse_quantised(model: Model, side: Side) -> None:
    """A gradient would leave out every int8 layer, unsaid: torch cuts the graph there."""
    tower = model.image if side == "image" or model.text is None else model.text
    for path, part in model.module.get_submodule(tower.path).named_modules(prefix=tower.path):
        if type(part).__module__.startswith(QUANTISED):
            raise ReadingError(
                f"{model.spec} has int8 layers ({path}), through which torch gives no gradient; "
                "explain the model that was quantised, or take a method without gradients "
                "(occlusion, rise, kernel-shap) without a certificate (certify=False)"
            )


def _of_row(
    model: Model,
    method: Method,
    plan: Plan,
    chunk: Batch,
    row: RowPass,
    seed: int,
    evidence: bool,
) -> Attribution:
    """What the readout's row alone gives (see `row_pass`)."""
    trace = Trace()
    trace.add(row.layer)
    scores = chunk.compare(row.embedding)
    read = _read_pass(model, chunk, seed, trace, scores, row.embedding)
    assert chunk.readout is not None
    read.readout = torch.zeros_like(chunk.readout)
    shares = method.shares(read) if stands_for(method, "shares") else None
    if shares is None:
        values, total = method.attribute(read), method.total(read) if evidence else None
    else:
        values, total = _by_shares(read, chunk.slopes(row.embedding.detach()), shares)
        if not evidence or type(method).total is Method.total:
            total = None  # nothing is promised
    return Attribution(
        values.detach(),
        scores.detach(),
        None if total is None else total.detach(),
        row.live_rows,
        dict(read.reached),
        scores.detach() if _untouched(plan) else None,
        row_alone=True,
    )


def _by_shares(
    read: ReadPass,
    slopes: Float[Tensor, "item target dim"],
    shares: Float[Tensor, "item head channel token"],
) -> tuple[Float[Tensor, "item target token"], Float[Tensor, "item target"]]:
    """Values g . shares and g . o_r, with g = dS/do_r of many targets at once."""
    layer, embedding = read.last, read.embedding
    assert embedding is not None
    output = layer.output.detach().flatten(1).unsqueeze(-1)
    per_key = torch.cat([shares.flatten(1, 2), output.to(shares.dtype)], dim=-1)
    found: list[Tensor] = []
    arrived = False
    for some in slopes.transpose(0, 1).split(_rows_at_once(layer, read.memory)):
        (grads,) = gradients_at_once(embedding, [layer.output], some)
        arrived = arrived or bool(grads.count_nonzero())
        found.append(grads.flatten(2).transpose(0, 1) @ per_key)
    values = torch.cat(found, dim=1)
    read.reached[layer.path] = arrived
    return values[..., :-1], values[..., -1]


def _rows_at_once(layer: Attention, memory: int) -> int:
    """How many targets' gradients go through one row of a block together."""
    width = layer.output.shape[1] * layer.output.shape[3]
    row = HIDDEN_WIDTHS * width * layer.output.element_size() * len(layer.output)
    return max(1, memory // row)


def _of_whole(
    model: Model, method: Method, plan: Plan, chunk: Batch, seed: int, evidence: bool
) -> Attribution:
    with plan.rules() as rules:
        embedding, trace, states = _read(model, plan, chunk)
        embedding = at_least_float32(embedding)
        scores = chunk.compare(embedding)
    read = _read_pass(model, chunk, seed, trace, scores, embedding, states=states, rules=rules)
    values = method.attribute(read)
    reached = dict(read.reached)
    total = method.total(read) if evidence else None
    explained = method.explained(read)
    live = _live_rows(read, explained) if evidence else None
    return Attribution(
        values.detach(),
        explained.detach(),
        None if total is None else total.detach(),
        live,
        reached,
        scores.detach() if _untouched(plan) else None,
    )


def _untouched(plan: Plan) -> bool:
    """Whether the pass that is read is the model's own, with nothing put in its place."""
    return not plan.interventions and plan.rules is nullcontext


def _read_pass(
    model: Model,
    chunk: Batch,
    seed: int,
    trace: Trace,
    scores: Tensor,
    embedding: Tensor,
    **more: Any,
) -> ReadPass:
    return ReadPass(
        chunk.side,
        model.module,
        trace,
        scores,
        chunk.readout,
        chunk.content,
        chunk.compare,
        chunk.rerun(model.module),
        chunk.pooled,
        chunk.grid,
        chunk.pixels,
        seed,
        labels=chunk.labels,
        photos=chunk.photos,
        embedding=embedding,
        asked=chunk.asked,
        project=chunk.project,
        empty=chunk.empty,
        first=chunk.first,
        words=chunk.words,
        black=chunk.black,
        memory=chunk.memory,
        **more,
    )


def _read(model: Model, plan: Plan, chunk: Batch) -> tuple[Tensor, Trace, Mapping[str, Activation]]:
    with (
        reading(
            model.module,
            plan.paths,
            weights=plan.weights,
            start=plan.start,
            interventions=plan.interventions,
        ) as trace,
        record_activations(model.module, plan.states, leaf=plan.leaf) as states,
    ):
        embedding = chunk.encode()
    if plan.differentiates and not embedding.requires_grad:
        raise ReadingError(
            f"the embedding of {model.spec} does not depend on {plan.start or plan.leaf!r} by "
            "gradient: the model detaches it or runs it under no_grad"
        )
    return embedding, trace, states


def _live_rows(read: ReadPass, scores: Float[Tensor, "item target"]) -> Bool[Tensor, "item query"]:
    """Query rows of the last call whose output moves the first target's score."""
    grads = torch.autograd.grad(
        scores[:, 0].sum(), [read.last.output], retain_graph=True, materialize_grads=True
    )
    return grads[0].abs().sum((1, 3)) > 0


def untouched_scores(chunk: Batch) -> Float[Tensor, "item target"]:
    """Scores of the model's own encoder, with nothing read and nothing changed."""
    with torch.no_grad():
        return chunk.compare(at_least_float32(chunk.encode()))
