"""One read pass over a chunk of inputs: the model's own encoder, read, then the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import Method, Plan, ReadPass, Side
from heatproof.models.model import Model
from heatproof.reading import Site, find_sites, reading
from heatproof.reading.call import at_least_float32

_sites: WeakKeyDictionary[Model, dict[Side, tuple[Site, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Chunk:
    """Inputs of one tower that go through the model together.

    `encode` is the model's own encoder on these inputs; `compare` turns its embeddings into scores
    (item, target). `readout`, `content`, `grid` and `pixels` are those of `ReadPass`.
    """

    side: Side
    encode: Callable[[], Float[Tensor, "item dim"]]
    compare: Callable[[Float[Tensor, "item dim"]], Float[Tensor, "item target"]]
    readout: Int[Tensor, " item"] | None
    content: slice
    pooled: bool
    grid: tuple[int, int] = (1, 1)
    pixels: Float[Tensor, "item 3 height width"] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a read pass gave: the method's values, and the evidence that a certificate needs.

    `total` is what the values promise to add up to, `live_rows` which query rows of the last call
    feed the score (None where no gradient was taken), `reached` whether gradients arrived, by path.
    """

    values: Float[Tensor, "item target token"]
    scores: Float[Tensor, "item target"]
    total: Float[Tensor, "item target"] | None
    live_rows: Bool[Tensor, "item query"] | None
    reached: dict[str, bool]


def sites_of(model: Model, side: Side, run: Callable[[], Any]) -> tuple[Site, ...]:
    """The tower's attention calls, found by running `run` (one input) the first time."""
    known = _sites.setdefault(model, {})
    if side not in known:
        known[side] = find_sites(model.module, run, 1)
    return known[side]


def run(
    model: Model, method: Method, sites: Sequence[Site], chunk: Chunk, *, seed: int, evidence: bool
) -> Outcome:
    """Read the model's pass over `chunk` and attribute its scores by `method`.

    With `evidence`, what a certificate needs is gathered too: one more backward step in the last
    block, and no forward pass.
    """
    plan = method.plan(sites, chunk.side)
    if evidence and plan.start is None:
        plan = replace(plan, start=plan.paths[-1])
    with torch.inference_mode(False), torch.set_grad_enabled(plan.start is not None):
        embedding, trace = _read(model, plan, chunk)
        scores = chunk.compare(at_least_float32(embedding))
        read = ReadPass(
            chunk.side,
            model.module,
            trace,
            scores,
            chunk.readout,
            chunk.content,
            chunk.pooled,
            chunk.grid,
            chunk.pixels,
            seed,
        )
        values = method.attribute(read)
        reached = dict(read.reached)
        total = method.total(read) if evidence else None
        live = _live_rows(read) if evidence else None
    return Outcome(
        values.detach(),
        scores.detach(),
        None if total is None else total.detach(),
        live,
        reached,
    )


def _read(model: Model, plan: Plan, chunk: Chunk) -> tuple[Tensor, Any]:
    with reading(
        model.module,
        plan.paths,
        weights=plan.weights,
        start=plan.start,
        interventions=plan.interventions,
    ) as trace:
        embedding = chunk.encode()
    if plan.start is not None and not embedding.requires_grad:
        raise ReadingError(
            f"the embedding of {model.spec} does not depend on {plan.start!r} by gradient: the "
            "model detaches it or runs it under no_grad"
        )
    return embedding, trace


def _live_rows(read: ReadPass) -> Bool[Tensor, "item query"]:
    """Query rows of the last call whose output moves the first target's score."""
    grads = torch.autograd.grad(
        read.scores[:, 0].sum(), [read.last.output], retain_graph=True, materialize_grads=True
    )
    return grads[0].abs().sum((1, 3)) > 0


def untouched_scores(chunk: Chunk) -> Float[Tensor, "item target"]:
    """Scores of the model's own encoder, with nothing read and nothing changed."""
    with torch.no_grad():
        return chunk.compare(at_least_float32(chunk.encode()))
