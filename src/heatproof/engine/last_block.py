"""The readout's row alone through the model's own last block.

After the last attention call only the readout's row reaches the embedding. So the tower runs once,
without a graph, fast paths and fused kernels on; then its last block is called again, under
gradients, on that one row, its attention answered from the keys and values that the full pass read.
The tower's own final norm and projection make the embedding of it. Both embeddings must agree for
every input; where they do not, or where the block cannot be run on one row, the caller reads the
whole pass instead.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatproof.methods.base import Method, Plan
from heatproof.methods.readout import as_readout_method
from heatproof.models.projection import EmbeddingHead
from heatproof.reading import (
    Attention,
    AttentionCall,
    AttentionLayer,
    reading,
    readings_open,
)
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.blocks import select_rows
from heatproof.reading.hooks import hooked
from heatproof.reading.interventions import chain
from heatproof.tolerances import UNFIT, agree, log, says_unfit

# Calls whose block was seen to run on no single row: it is not tried twice.
_unfit: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()

# Pointwise functions of one tensor.
ACTIVATIONS = {F.gelu, F.silu}


class Encoded(Protocol):
    """What is run: of `passes.Batch` the part that is needed here."""

    @property
    def readout(self) -> Int[Tensor, " item"] | None: ...
    @property
    def project(self) -> EmbeddingHead | None: ...
    @property
    def pooled(self) -> bool: ...
    def encode(self) -> Float[Tensor, "item dim"]: ...


@dataclass(frozen=True)
class RowPass:
    """`embedding` is the row's, in the graph that starts at `layer`, whose queries are that row
    (in no graph where the plan takes no gradient).

    `live_rows` are the query rows of the last call whose output moves the whole pass's embedding
    (None where it was not asked for).
    """

    embedding: Float[Tensor, "item dim"]
    layer: Attention
    live_rows: Bool[Tensor, "item query"] | None


def fits(
    module: nn.Module, method: Method, plan: Plan, sites: Sequence[AttentionLayer], chunk: Encoded
) -> bool:
    """Whether the method reads no more than the readout's row of the last call, in a block."""
    last = sites[-1]
    return (
        as_readout_method(method) is not None
        and plan.paths == (last.path,)
        and set(plan.interventions) <= {last.path}
        and not plan.states
        and plan.leaf is None
        and plan.rules is nullcontext
        and last.block is not None
        and last.queries == last.keys
        and "#" not in last.path
        and not chunk.pooled
        and chunk.readout is not None
        and chunk.project is not None
        and last.path not in _unfit.get(module, ())
        and not readings_open()
    )


def read_row(
    module: nn.Module, plan: Plan, site: AttentionLayer, chunk: Encoded, *, evidence: bool
) -> RowPass | None:
    """The row's pass; None where it does not agree with the whole pass, or cannot be run."""
    assert site.block is not None
    assert chunk.readout is not None
    block = module.get_submodule(site.block)
    kept = _Kept(site, chunk.readout)
    own = [plan.interventions[site.path]] if site.path in plan.interventions else []
    changes = {site.path: chain(*own, kept.call_made)}
    start = site.path if evidence else None
    with (
        hooked(block, before=kept.block_given),
        torch.no_grad(),
        reading(module, (site.path,), start=start, interventions=changes) as trace,
    ):
        whole = chunk.encode()
    live = None
    if evidence:
        live = _live_rows(whole, trace.layers[-1].output)
    del trace
    whole = at_least_float32(whole.detach())
    try:
        alone, layer = _row_alone(module, block, plan, site, chunk.project, kept)
    except UNFIT as error:
        if not says_unfit(error, f"the last block ({site.block}) on one row"):
            raise
        _unfit.setdefault(module, set()).add(site.path)
        return None
    embedding = at_least_float32(alone)
    if not agree(embedding.detach(), whole, alone.dtype):
        log.debug("the last block (%s) gives another embedding on one row", site.block)
        return None
    return RowPass(embedding, layer, live)


class _Kept:
    """What the whole pass gave its last block and its last attention, cut down to the row."""

    def __init__(self, site: AttentionLayer, rows: Int[Tensor, " item"]) -> None:
        self.site, self.rows = site, rows
        self.calls: list[AttentionCall] = []
        self.given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def block_given(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        del block
        self.given.append(select_rows(args, kwargs, self.rows[:, None], self.site.queries))

    def call_made(self, call: AttentionCall) -> AttentionCall:
        self.calls.append(call)
        return call

    def answer(self, _: AttentionCall) -> AttentionCall:
        """The row's own call, in place of that of one token which sees itself alone."""
        (call,) = self.calls
        index = self.rows.to(call.query.device).view(-1, 1, 1, 1)
        mask = call.whole_mask()
        if mask is not None:
            shape = (len(self.rows), *(1, call.query.shape[2], call.key.shape[2])[-3:])
            shape = torch.broadcast_shapes(mask.shape, shape)
            mask = mask.expand(shape).take_along_dim(index, 2)
        return call.change(
            query=call.query.take_along_dim(index, 2),
            mask=mask,
            is_causal=False,
            weights=None if call.weights is None else call.weights.take_along_dim(index, 2),
        )


def _row_alone(
    module: nn.Module,
    block: nn.Module,
    plan: Plan,
    site: AttentionLayer,
    project: EmbeddingHead | None,
    kept: _Kept,
) -> tuple[Float[Tensor, "item dim"], Attention]:
    ((args, kwargs),) = kept.given
    assert project is not None
    changes = {site.path: kept.answer}
    with (
        torch.no_grad(),
        reading(
            module, (site.path,), weights=plan.weights, start=plan.start, interventions=changes
        ) as trace,
        _SlopesOnce(),
    ):
        token = _first(block(*args, **kwargs))[:, 0]
        return project(token), trace.layers[-1]


class _SlopesOnce(TorchFunctionMode):
    """Takes the derivative of activation functions once, in the forward pass.

    The value is the function's own, to the bit, and so is its derivative: autograd's, kept as a
    factor. Backwards that is one product a target, which batches; torch's own backward functions
    of these would be computed anew for every target, one after the other.
    """

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
            (slope,) = torch.autograd.grad(value.sum(), [leaf])
        return value.detach() + slope * (at - at.detach())


def _first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(each for each in values if isinstance(each, Tensor))


def _live_rows(
    embedding: Float[Tensor, "item dim"], output: Float[Tensor, "item head query channel"]
) -> Bool[Tensor, "item query"]:
    """By the gradient of a random direction: one that no row is blind to by chance."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(embedding.shape[1], generator=generator).to(embedding)
    (grad,) = torch.autograd.grad((embedding @ direction).sum(), [output], materialize_grads=True)
    return grad.abs().sum((1, 3)) > 0
