"""One forward pass over a batch: the model's own encoder is read, then the method attributes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from heatproof.engine import last_block
from heatproof.engine.last_block import RowPass
from heatproof.errors import ReadingError
from heatproof.methods.base import Method, Plan
from heatproof.methods.pass_context import (
    HIDDEN_WIDTHS,
    Batch,
    ReadPass,
    Rerun,
    Side,
    gradients_at_once,
)
from heatproof.methods.readout import as_readout_method
from heatproof.models.model import Model
from heatproof.reading import (
    Activation,
    Attention,
    AttentionLayer,
    Edit,
    Intervention,
    Trace,
    edit_activations,
    reading,
    record_activations,
)
from heatproof.reading.attention_call import at_least_float32, exact
from heatproof.reading.compiled import as_python

P = ParamSpec("P")
R = TypeVar("R")

QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What one batch gave: the method's values, and the evidence that a certificate needs.

    Attributes:
        values: one signed value per key token.
        scores: those that the values are about: the pass's own, or others (`Method.explained`).
        total: what the values promise to add up to; None where nothing is promised.
        live_rows: the query rows of the last call that feed the score, by a gradient; None where
            none was taken for it.
        row_gaps: in its place, how far the embedding from the readout row alone is from the
            model's own, relative to its length.
        has_gradient: whether a gradient arrived, by path; noted for a certificate alone.
        untouched: the model's own scores; None where the pass that was read was changed.
        errors: standard errors of the values; None where the method has none.
        row_alone: whether the last block was run on the readout row alone (`last_block`).
    """

    values: Float[Tensor, "item target token"]
    scores: Float[Tensor, "item target"]
    total: Float[Tensor, "item target"] | None
    live_rows: Bool[Tensor, "item query"] | None
    has_gradient: dict[str, Bool[Tensor, "item target"]]
    untouched: Float[Tensor, "item target"] | None
    errors: Float[Tensor, "item target token"] | None = None
    row_alone: bool = False
    row_gaps: Float[Tensor, " item"] | None = None


def is_linear(method: Method) -> bool:
    """Return whether maps of any score follow from those of the embedding's coordinates."""
    readout_method = as_readout_method(method)
    return readout_method is not None and readout_method.is_linear()


def untouched_scores(batch: Batch) -> Float[Tensor, "item target"]:
    """Return the scores of the model's own encoder, with nothing read and nothing changed."""
    with torch.no_grad():
        return batch.compare(at_least_float32(batch.encode()))


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads batches of one tower, and attributes their scores by one method.

    With `evidence`, what a certificate needs is gathered too, without a forward pass. It is
    "sample" or "full"; the latter takes one more backward step in the last block, where the former
    takes it that the model's embedding follows from the readout row alone (see `last_block`).
    """

    model: Model
    method: Method
    layers: Sequence[AttentionLayer]
    seed: int
    evidence: Literal["none", "sample", "full"]

    @property
    def _certifies(self) -> bool:
        return self.evidence != "none"

    def attribute(self, batch: Batch) -> Attribution:
        """Attribute the batch's scores to the key tokens of the last layer that is read.

        Raises:
            ReadingError: the model cannot be read, or gives no gradient.
        """
        # With more targets than coordinates it is cheaper to attribute the coordinates: a map that
        # is linear in the score's gradient follows from theirs by the chain rule.
        if not 0 < batch.width < batch.targets or not is_linear(self.method):
            return self._attribute(batch)
        by_coordinate = self._attribute(batch.by_coordinate())
        embedding, total = by_coordinate.scores, by_coordinate.total
        own = by_coordinate.untouched
        with exact(embedding):
            gradient = batch.score_gradient(embedding)
            return replace(
                by_coordinate,
                values=gradient @ by_coordinate.values,
                scores=batch.compare(embedding),
                untouched=None if own is None else batch.compare(own),
                total=None if total is None else (gradient @ total.unsqueeze(-1)).squeeze(-1),
                # What a prompt's gradient is made of; a prompt's own may vanish only with the sum.
                has_gradient={
                    path: arrived.any(1, keepdim=True) & (gradient != 0).any(2)
                    for path, arrived in by_coordinate.has_gradient.items()
                },
            )

    def _attribute(self, batch: Batch) -> Attribution:
        try:
            return self._read_and_attribute(batch)
        except CheckpointError as error:  # with a switch it is off (`reading.compiled`)
            raise ReadingError(
                f"{self.model.spec} runs blocks again in the backward pass "
                "(torch.utils.checkpoint), when nothing is read any more; take that out of its "
                "forward"
            ) from error

    def _read_and_attribute(self, batch: Batch) -> Attribution:
        module, side = self.model.module, batch.side
        plan = self.method.plan(self.layers, side)
        differentiates = plan.differentiates
        if self._certifies and not differentiates:
            # Which rows feed the score is told by a gradient, even where the method needs none.
            plan, differentiates = replace(plan, start=plan.paths[-1]), True
        if differentiates:
            _refuse_quantised(self.model, side)
        device, encode_pixels = self.model.device.type, batch.encode_pixels
        # The user's autocast belongs to the model's pass; scores and values are computed without.
        batch = replace(
            batch,
            encode=_as_called(device, batch.encode),
            encode_pixels=None if encode_pixels is None else _as_called(device, encode_pixels),
        )
        read_row = _as_called(device, last_block.read_row)
        with torch.inference_mode(False), torch.autocast(device, enabled=False):
            if side == "image" and last_block.fits(module, self.method, plan, self.layers, batch):
                full = self.evidence == "full"
                row = read_row(module, plan, self.layers[-1], batch, live_rows=full)
                if row is not None:
                    with torch.set_grad_enabled(differentiates):
                        return self._attribute_row(plan, batch, row)
            with torch.set_grad_enabled(differentiates):
                return self._attribute_whole(plan, batch)

    def _attribute_row(self, plan: Plan, batch: Batch, row: RowPass) -> Attribution:
        """Attribute by the readout row alone (see `last_block`)."""
        assert batch.readout is not None
        # The block was run on one row: the readout is the first of one.
        alone = replace(batch, readout=torch.zeros_like(batch.readout))
        read = self._read_pass(alone, row.trace, row.embedding, batch.compare(row.embedding))
        method, scores = self.method, read.scores.detach()
        readout_method = as_readout_method(method)
        assert readout_method is not None  # see `last_block.fits`
        contributions = readout_method.contributions(read)
        if contributions is None:
            values = method.attribute(read)
            read.watched = False  # further gradients would count as the method's
            total = method.total(read) if self._certifies else None
        else:
            gradient = batch.score_gradient(row.embedding.detach())
            values, total = _contract(read, gradient, contributions)
            if not self._certifies or type(method).total is Method.total:
                total = None  # nothing is promised
        return Attribution(
            values=values.detach(),
            scores=scores,
            total=None if total is None else total.detach(),
            live_rows=row.live_rows,
            has_gradient=read.has_gradient,
            untouched=scores if _leaves_untouched(plan) else None,
            row_alone=True,
            row_gaps=row.gaps,
        )

    def _attribute_whole(self, plan: Plan, batch: Batch) -> Attribution:
        with plan.rules() as rules:
            embedding, trace, states = self._read(plan, batch)
            embedding = at_least_float32(embedding)
            scores = batch.compare(embedding)
        read = self._read_pass(batch, trace, embedding, scores, states=states, rules=rules)
        values = self.method.attribute(read)
        # Further gradients would count as the method's.
        read.watched = False
        total = self.method.total(read) if self._certifies else None
        explained = self.method.explained(read)
        live = _live_rows(read, explained) if self._certifies else None
        return Attribution(
            values=values.detach(),
            scores=explained.detach(),
            total=None if total is None else total.detach(),
            live_rows=live,
            has_gradient=read.has_gradient,
            untouched=scores.detach() if _leaves_untouched(plan) else None,
            errors=None if read.errors is None else read.errors.detach(),
        )

    def _read(self, plan: Plan, batch: Batch) -> tuple[Tensor, Trace, Mapping[str, Activation]]:
        module = self.model.module
        with (
            reading(
                module,
                plan.paths,
                weights=plan.weights,
                rows=self._rows(batch),
                start=plan.start,
                interventions=plan.interventions,
            ) as trace,
            record_activations(module, plan.states, leaf=plan.leaf) as states,
        ):
            embedding = batch.encode()
        if plan.differentiates and not embedding.requires_grad:
            raise ReadingError(
                f"the embedding of {self.model.spec} does not depend on "
                f"{plan.start or plan.leaf!r} by gradient: the model detaches it or runs it under "
                "no_grad"
            )
        return embedding, trace, states

    def _rows(self, batch: Batch) -> Int[Tensor, " item"] | None:
        """Return the rows of weights that the method takes; None where it may take all."""
        takes = as_readout_method(self.method) is not None and not batch.pooled
        return batch.readout if takes else None

    def _read_pass(
        self, batch: Batch, trace: Trace, embedding: Tensor, scores: Tensor, **more: Any
    ) -> ReadPass:
        module = self.model.module
        return ReadPass(
            batch=batch,
            root=module,
            trace=trace,
            embedding=embedding,
            scores=scores,
            rerun=_rerun(module, batch),
            seed=self.seed,
            watched=self._certifies,
            **more,
        )


def _rerun(module: nn.Module, batch: Batch) -> Rerun:
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
                embedding = batch.encode()
            else:
                assert batch.encode_pixels is not None
                embedding = batch.encode_pixels(pixels)
        return batch.compare(at_least_float32(embedding))

    return scores


def _as_called(device: str, function: Callable[P, R]) -> Callable[P, R]:
    """Bind `function` to the `torch.autocast` that is on now, wherever it will be called."""
    on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(device, dtype=dtype, enabled=on):
            return function(*args, **kwargs)

    return run if on else function


def _refuse_quantised(model: Model, side: Side) -> None:
    """Raise a `ReadingError` for int8 layers: torch would cut the graph there without a word."""
    tower = model.image if side == "image" or model.text is None else model.text
    for path, part in model.module.get_submodule(tower.path).named_modules(prefix=tower.path):
        if type(part).__module__.startswith(QUANTISED):
            raise ReadingError(
                f"{model.spec} has int8 layers ({path}), through which torch gives no gradient; "
                "explain the model that was quantised, or take a method without gradients "
                "(occlusion, rise, kernel-shap) without a certificate (certify=False)"
            )


def _leaves_untouched(plan: Plan) -> bool:
    """Return whether the pass that is read is the model's own, with nothing put in its place."""
    return not plan.interventions and plan.rules is nullcontext


def _contract(
    read: ReadPass,
    score_gradient: Float[Tensor, "item target dim"],
    contributions: Float[Tensor, "item head channel token"],
) -> tuple[Float[Tensor, "item target token"], Float[Tensor, "item target"]]:
    """Return values g . contributions and totals g . o_r, with g = dS/do_r of many targets.

    o_r is the readout row's attention output; g follows from dS/d(embedding) by one backward pass
    through what stands behind it, batched over targets.
    """
    layer, embedding = read.last, read.embedding
    output = layer.output.detach().flatten(1).unsqueeze(-1)
    # The total is one more column of the same product.
    per_key = torch.cat([contributions.flatten(1, 2), output.to(contributions.dtype)], dim=-1)
    parts: list[Tensor] = []
    target = 0
    step = _targets_at_once(layer, read.batch.gradient_bytes)
    for some in score_gradient.transpose(0, 1).split(step):
        (grads,) = gradients_at_once(embedding, [layer.output], some)
        read.note_gradients(layer.path, grads, target)
        target += len(grads)
        parts.append(grads.flatten(2).transpose(0, 1) @ per_key)
    values = torch.cat(parts, dim=1)
    return values[..., :-1], values[..., -1]


def _targets_at_once(layer: Attention, limit: int) -> int:
    """Return how many targets' gradients go through one row of a block in `limit` bytes."""
    width = layer.output.shape[1] * layer.output.shape[3]
    row = HIDDEN_WIDTHS * width * layer.output.element_size() * len(layer.output)
    return max(1, limit // row)


def _live_rows(read: ReadPass, scores: Float[Tensor, "item target"]) -> Bool[Tensor, "item query"]:
    """Return which query rows of the last call move the first target's score."""
    grads = torch.autograd.grad(
        scores[:, 0].sum(), [read.last.output], retain_graph=True, materialize_grads=True
    )
    return grads[0].abs().sum((1, 3)) > 0
