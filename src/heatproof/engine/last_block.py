"""A shortcut: gradients through the model's own last block, run on the readout row alone.

After the last attention call only the readout row reaches the embedding. So the tower runs once
without a graph; then its last block is called again, under gradients, on that one row, with the
keys and values of the first pass. `docs/internals/reading.md` tells why the result is the same.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatproof.methods.base import Method, Plan
from heatproof.methods.pass_context import Batch
from heatproof.methods.readout import as_readout_method
from heatproof.models.projection import EmbeddingHead
from heatproof.reading import (
    AttentionCall,
    AttentionLayer,
    Trace,
    reading,
    readings_open,
)
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.blocks import select_rows
from heatproof.reading.hooks import hooked
from heatproof.reading.interventions import chain
from heatproof.tolerances import UNFIT, agree, log, relative_gaps, says_unfit

# Calls whose block cannot run on a single row: what failed once is not tried again.
_unfit: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()

# Pointwise functions of one tensor (see `_DerivativeOnce`).
ACTIVATIONS = {F.gelu, F.silu}


@dataclass(frozen=True)
class RowPass:
    """A second pass through the last block, of the readout row alone.

    Attributes:
        embedding: the row's; in the graph that starts at the last attention call, if the plan takes
            gradients.
        trace: the last attention call, whose queries are the readout row.
        live_rows: the query rows of the last call that move the first pass's embedding; None where
            they were not asked for.
        gaps: how far the embedding is from that of the first pass, relative to its length.
    """

    embedding: Float[Tensor, "item dim"]
    trace: Trace
    live_rows: Bool[Tensor, "item query"] | None
    gaps: Float[Tensor, " item"]


def fits(
    module: nn.Module, method: Method, plan: Plan, layers: Sequence[AttentionLayer], batch: Batch
) -> bool:
    """Return whether the method reads no more than the readout row of the last call, in a block."""
    last = layers[-1]
    return (
        as_readout_method(method) is not None
        # Nothing else is read or changed.
        and plan.paths == (last.path,)
        and set(plan.interventions) <= {last.path}
        and not plan.states
        and plan.leaf is None
        and plan.rules is nullcontext
        # The last call is the only one of a transformer block, with a query for each token.
        and last.block is not None
        and last.queries == last.keys
        and "#" not in last.path
        # Behind the block, one row becomes the embedding by the model's own parts.
        and not batch.pooled
        and batch.readout is not None
        and batch.project is not None
        and last.path not in _unfit.get(module, ())
        # Another reading around this one would see the block run twice.
        and not readings_open()
    )


def read_row(
    module: nn.Module, plan: Plan, layer: AttentionLayer, batch: Batch, *, live_rows: bool
) -> RowPass | None:
    """Run the tower, then its last block on the readout row; None where the two do not agree.

    live_rows: find these out, too.
    """
    assert layer.block is not None
    assert batch.readout is not None
    block = module.get_submodule(layer.block)
    row = _Row(layer, batch.readout)
    own = [plan.interventions[layer.path]] if layer.path in plan.interventions else []
    # Our own comes last: it must see the call as the plan's intervention leaves it.
    changes = {layer.path: chain(*own, row.take_call)}
    # A graph of the first pass is needed for the live rows alone, and from the call on.
    start, recorded = (layer.path, (layer.path,)) if live_rows else (None, ())
    with (
        hooked(block, before=row.take_arguments),
        torch.no_grad(),
        # Recorded only where it is needed: tensors of all rows would be kept through the block.
        reading(module, recorded, start=start, interventions=changes) as trace,
    ):
        whole = batch.encode()
    live = _live_rows(whole, trace.layers[-1].output) if live_rows else None
    del trace  # and with it the graph: the second pass needs the memory
    whole = at_least_float32(whole.detach())
    try:
        alone, trace = _run_row(module, block, plan, layer, batch.project, row)
    except UNFIT as error:
        if not says_unfit(error, f"the last block ({layer.block}) on one row"):
            raise
        _unfit.setdefault(module, set()).add(layer.path)
        return None
    embedding = at_least_float32(alone)
    # A block that mixes tokens elsewhere (a convolution, a norm over tokens) gives another row.
    if not agree(embedding.detach(), whole, alone.dtype):
        log.debug("the last block (%s) gives another embedding on one row", layer.block)
        return None
    return RowPass(embedding, trace, live, relative_gaps(embedding.detach(), whole))


class _Row:
    """What the first pass gave its last block and its last attention, cut down to one row."""

    def __init__(self, layer: AttentionLayer, rows: Int[Tensor, " item"]) -> None:
        """rows: the readout row of each item."""
        self.layer, self.rows = layer, rows
        self.calls: list[AttentionCall] = []
        self.given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def take_arguments(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        del block
        self.given.append(select_rows(args, kwargs, self.rows[:, None], self.layer.queries))

    def take_call(self, call: AttentionCall) -> AttentionCall:
        self.calls.append(call.row_alone(self.rows))
        return call

    def answer(self, _: AttentionCall) -> AttentionCall:
        """Return the row's own call: run by itself, the one token would see itself alone."""
        (call,) = self.calls
        return call


def _run_row(
    module: nn.Module,
    block: nn.Module,
    plan: Plan,
    layer: AttentionLayer,
    project: EmbeddingHead | None,
    row: _Row,
) -> tuple[Float[Tensor, "item dim"], Trace]:
    ((args, kwargs),) = row.given
    assert project is not None
    changes = {layer.path: row.answer}
    with (
        torch.no_grad(),
        reading(
            module, (layer.path,), weights=plan.weights, start=plan.start, interventions=changes
        ) as trace,
    ):
        with _DerivativeOnce():
            token = _first(block(*args, **kwargs))[:, 0]
        return project(token), trace


class _DerivativeOnce(TorchFunctionMode):
    """Take the derivative of activation functions once, in the forward pass.

    The value is the function's own, to the bit, and so is its derivative: autograd's, kept as a
    factor. Backwards that is one product per target, which is batched.
    """

    # Torch's own backward functions of these have no rule of batching: they would be computed
    # again for every target, one after the other.

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in ACTIVATIONS or not args[0].requires_grad or kwargs.get("inplace"):
            return func(*args, **kwargs)
        at = args[0]
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            value = func(leaf, *args[1:], **kwargs)
            (derivative,) = torch.autograd.grad(value.sum(), [leaf])
        return value.detach() + derivative * (at - at.detach())


def _first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(value for value in values if isinstance(value, Tensor))


def _live_rows(
    embedding: Float[Tensor, "item dim"], output: Float[Tensor, "item head query channel"]
) -> Bool[Tensor, "item query"]:
    """Return which query rows of the last call move the embedding."""
    # By the gradient of a random direction, to which no row is orthogonal by chance.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(embedding.shape[1], generator=generator).to(embedding)
    (grad,) = torch.autograd.grad((embedding @ direction).sum(), [output], materialize_grads=True)
    return grad.abs().sum((1, 3)) > 0
