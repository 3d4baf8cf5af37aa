"""One read pass over a chunk of inputs: the model's own encoder, read, then the method."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.methods.base import Method, Plan, ReadPass, Rerun, Side
from heatproof.models.model import Model, Projection
from heatproof.reading import (
    Edit,
    Intervention,
    Site,
    State,
    Trace,
    editing,
    find_sites,
    observing,
    reading,
)
from heatproof.reading.call import at_least_float32

_sites: WeakKeyDictionary[Model, dict[Side, tuple[Site, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Chunk:
    """Inputs of one tower that go through the model together.

    `encode` is the model's own encoder on these inputs; `compare` turns its embeddings into scores
    (item, target). `encode_pixels` encodes other pictures instead (image side), `number` counts the
    chunks of an explanation. The other fields are those of `ReadPass`.
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
    photos: tuple[Image.Image, ...] = ()
    asked: int = 0
    project: Projection | None = None
    empty: Callable[[Float[Tensor, "item dim"]], Float[Tensor, " item"]] | None = None
    number: int = 0
    words: Bool[Tensor, "item key"] | None = None
    black: Callable[[], Float[Tensor, "3 1 1"]] | None = None

    def rerun(self, module: nn.Module) -> Rerun:
        """See `Rerun`."""

        def scores(
            pixels: Tensor | None = None,
            *,
            interventions: Mapping[str, Intervention] | None = None,
            edits: Mapping[str, Edit] | None = None,
        ) -> Tensor:
            with ExitStack() as stack:
                if interventions:
                    paths: list[str] = []
                    stack.enter_context(reading(module, paths, interventions=interventions))
                if edits:
                    stack.enter_context(editing(module, edits))
                if pixels is None:
                    embedding = self.encode()
                else:
                    assert self.encode_pixels is not None
                    embedding = self.encode_pixels(pixels)
            return self.compare(at_least_float32(embedding))

        return scores


@dataclass(frozen=True)
class Outcome:
    """What a read pass gave: the method's values, and the evidence that a certificate needs.

    `total` is what the values promise to add up to, `live_rows` which query rows of the last call
    feed the score (None where no gradient was taken), `reached` whether gradients arrived, by path.
    `scores` are those that the values are about: the pass's own, or others (`Method.explained`).
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
    if evidence and not plan.differentiates:
        plan = replace(plan, start=plan.paths[-1])
    with torch.inference_mode(False), torch.set_grad_enabled(plan.differentiates):
        with plan.rules() as rules:
            embedding, trace, states = _read(model, plan, chunk)
            embedding = at_least_float32(embedding)
            scores = chunk.compare(embedding)
        read = ReadPass(
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
            seed + chunk.number,
            states=states,
            labels=chunk.labels,
            photos=chunk.photos,
            embedding=embedding,
            rules=rules,
            asked=chunk.asked,
            project=chunk.project,
            empty=chunk.empty,
            base_seed=seed,
            words=chunk.words,
            black=chunk.black,
        )
        values = method.attribute(read)
        reached = dict(read.reached)
        total = method.total(read) if evidence else None
        explained = method.explained(read)
        live = _live_rows(read, explained) if evidence else None
    return Outcome(
        values.detach(),
        explained.detach(),
        None if total is None else total.detach(),
        live,
        reached,
    )


def _read(model: Model, plan: Plan, chunk: Chunk) -> tuple[Tensor, Trace, Mapping[str, State]]:
    with (
        reading(
            model.module,
            plan.paths,
            weights=plan.weights,
            start=plan.start,
            interventions=plan.interventions,
        ) as trace,
        observing(model.module, plan.states, leaf=plan.leaf) as states,
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


def untouched_scores(chunk: Chunk) -> Float[Tensor, "item target"]:
    """Scores of the model's own encoder, with nothing read and nothing changed."""
    with torch.no_grad():
        return chunk.compare(at_least_float32(chunk.encode()))
