"""Attention that a model writes out: scores = q k', softmax over the last axis, product with v.

Hugging Face's BLIP and every `attn_implementation="eager"` do. Inside a module that is read, torch
offers each function call to `EagerAttention`, which follows tensors by identity:

1. a product of two 4-axis tensors starts `_Scores` (query and key, perhaps scaled before);
2. scaling, masks and fills change what is known of them (`_follow_arithmetic`);
3. the softmax over the last axis makes them weights;
4. the product of weights with another tensor is the attention call: the reading computes it, from
   the weights that the model wrote out.

What it cannot follow it forgets, so that an unknown form is left alone and never misread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatproof.errors import ReadingError
from heatproof.reading.attention_call import AttentionCall

PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
SOFTMAXES = {torch.softmax, F.softmax, Tensor.softmax}
TIMES = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__rmul__, Tensor.__imul__}
OVER = {torch.div, Tensor.div, Tensor.__truediv__, Tensor.div_, Tensor.__itruediv__}
PLUS = {torch.add, Tensor.add, Tensor.__add__, Tensor.add_, Tensor.__iadd__, Tensor.__radd__}
SCALINGS = TIMES | OVER
FILLS = {torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_}
DROPOUTS = {F.dropout, torch.dropout}
SAME = {Tensor.to, Tensor.float, Tensor.double, Tensor.type_as, Tensor.contiguous, *DROPOUTS}
IN_PLACE_OPERATORS = {
    f"__{name}__"
    for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")
}
# Models mask by -10000 or by the dtype's lowest number where they do not take minus infinity.
MASKING_VALUE = -1e4

# Torch's own function as it was on import: a model that did `from torch.nn.functional import
# scaled_dot_product_attention` calls this very object, past the dispatcher that stands there now.
_fused: Callable[..., Tensor] = F.scaled_dot_product_attention


@dataclass(frozen=True)
class _Scores:
    """What is known of a tensor: softmax(query key' scale + mask), or its argument."""

    query: Tensor
    key: Tensor
    scale: float = 1.0
    mask: Tensor | None = None
    softmaxed: bool = False

    def masked(self, added: Tensor) -> "_Scores":
        return replace(self, mask=added if self.mask is None else self.mask + added)


@dataclass(frozen=True)
class _Operation:
    """A call of a torch function that has run. `operands` are its arguments, named ones last."""

    func: Any
    operands: list[Any]
    tensors: list[Tensor]
    kwargs: dict[str, Any]
    result: Tensor

    @property
    def in_place(self) -> bool:
        return _writes_in_place(self.func, self.kwargs)


class EagerAttention(TorchFunctionMode):
    """Follows attention scores inside one running module and has recognised calls served.

    serve: computes a recognised call from its operands and the model's own weights.
    fused: stands in for torch's function.
    """

    def __init__(
        self, serve: Callable[[AttentionCall, Tensor], Tensor], fused: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.serve = serve
        self.fused = fused
        # While the reading computes: its own softmax and product are not the model's.
        self.paused = False
        # By id. Each tensor is kept beside what is known of it, so that no id is reused meanwhile.
        self.known: dict[int, tuple[Tensor, _Scores]] = {}
        # Queries or keys that were scaled before the product: result, what it was, the factor.
        self.scaled: dict[int, tuple[Tensor, Tensor, float]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        if func is _fused:
            return self.fused(*args, **kwargs)
        operands = [*args, *kwargs.values()]
        tensors = [operand for operand in operands if isinstance(operand, Tensor)]
        if func in PRODUCTS and len(tensors) == 2:
            served = self._serve_product(*tensors)
            if served is not None:
                return served
        result = func(*args, **kwargs)
        if tensors:
            scores = self._scores_before(func, kwargs, tensors)
            if isinstance(result, Tensor):
                self._follow(_Operation(func, operands, tensors, kwargs, result), scores)
        return result

    def _serve_product(self, left: Tensor, right: Tensor) -> Tensor | None:
        """Return the attention output where `left` is known to be weights; else None."""
        known = self._lookup(left)
        if known is None or not known.softmaxed or right.dim() != 4:
            return None
        shape = (*known.query.shape[:3], known.key.shape[2])
        if left.shape != shape:
            return None
        # A key or value that heads (or inputs) share is read with one for each of them.
        key, value = (
            tensor if tensor.shape[:2] == shape[:2] else tensor.expand(*shape[:2], -1, -1)
            for tensor in (known.key, right)
        )
        call = AttentionCall(
            query=known.query,
            key=key,
            value=value,
            mask=known.mask,
            is_causal=False,
            scale=known.scale,
            heads_out=shape[1],
        )
        self.known.clear()
        self.scaled.clear()
        return self.serve(call, left)

    def _scores_before(
        self, func: Any, kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> _Scores | None:
        """Return what was known of an operand. Forget what the function has written over."""
        if _writes_in_place(func, kwargs):
            scores = self._lookup(tensors[0])
            self._forget(kwargs.get("out", tensors[0]))
            return scores
        return next((s for s in map(self._lookup, tensors) if s is not None), None)

    # --- what a function makes of scores ---------------------------------------------------

    def _follow(self, op: _Operation, scores: _Scores | None) -> None:
        if op.func in PRODUCTS:
            self._begin(op)
        elif scores is None:
            self._follow_scaling(op)
        elif op.func in SAME:
            if op.func in DROPOUTS and _drops(op.operands, op.kwargs):
                raise ReadingError("attention dropout is on; call model.eval() first")
            self._know(op.result, scores)
        elif op.func in SOFTMAXES:
            if _over_last_axis(op):
                self._know(op.result, replace(scores, softmaxed=True))
        elif not scores.softmaxed:
            self._follow_arithmetic(op, scores)

    def _begin(self, op: _Operation) -> None:
        """Take a product of two 4-axis tensors for scores: only a softmax will show whether."""
        if len(op.tensors) != 2 or any(tensor.dim() != 4 for tensor in (*op.tensors, op.result)):
            return
        left, right = op.tensors
        _, query, scale = self.scaled.get(id(left), (left, left, 1.0))
        self._know(op.result, _Scores(query, right.transpose(-2, -1), scale))

    def _follow_scaling(self, op: _Operation) -> None:
        """Note a query times a number, as timm's unfused attention begins."""
        if op.func not in SCALINGS or op.result.dim() != 4 or op.in_place:
            return
        query, factor = op.operands[:2]
        if op.func in TIMES and _is_many(factor):
            query, factor = factor, query
        if isinstance(query, Tensor) and query.shape == op.result.shape and not _is_many(factor):
            number = _number(factor) if op.func in TIMES else 1 / _number(factor)
            self.scaled[id(op.result)] = (op.result, query, number)

    def _follow_arithmetic(self, op: _Operation, scores: _Scores) -> None:
        if op.func in FILLS:
            self._follow_fill(op, scores)
        if op.func in FILLS or len(op.operands) != 2:
            return
        other = self._other_operand(op, scores)
        if op.func in PLUS and isinstance(other, Tensor):
            added = other if other.is_floating_point() else other.to(op.result.dtype)
            self._know(op.result, scores.masked(added))
        elif op.func in SCALINGS and not _is_many(other) and scores.mask is None:
            # Behind a mask a factor would scale the mask as well: such scores are given up.
            if op.func in TIMES:
                self._know(op.result, replace(scores, scale=scores.scale * _number(other)))
            elif other is op.operands[1]:  # not a number over scores
                self._know(op.result, replace(scores, scale=scores.scale / _number(other)))

    def _other_operand(self, op: _Operation, scores: _Scores) -> Any:
        """Return the operand that is not the scores."""
        first, second = op.operands
        # Written in place, the scores are the result itself, and no longer known by their id.
        is_first = isinstance(first, Tensor) and (
            first is op.result or self._lookup(first) is scores
        )
        return second if is_first else first

    def _follow_fill(self, op: _Operation, scores: _Scores) -> None:
        """Follow scores replaced by minus infinity, or by what the softmax takes for that."""
        where, value = op.operands[1:]
        if not isinstance(where, Tensor) or _is_many(value) or _number(value) > MASKING_VALUE:
            return
        added = torch.zeros(where.shape, dtype=op.result.dtype, device=op.result.device)
        self._know(op.result, scores.masked(added.masked_fill(where, -torch.inf)))

    # --- what is known of tensors ----------------------------------------------------------

    def _lookup(self, tensor: Tensor) -> _Scores | None:
        entry = self.known.get(id(tensor))
        return None if entry is None else entry[1]

    def _know(self, tensor: Tensor, scores: _Scores) -> None:
        self.known[id(tensor)] = (tensor, scores)

    def _forget(self, written: Tensor) -> None:
        """Forget every tensor that shares memory with one that was written into."""
        if not (self.known or self.scaled):
            return
        memory = _memory(written)
        self.known = {k: entry for k, entry in self.known.items() if _memory(entry[0]) != memory}
        self.scaled = {
            k: (result, base, factor)
            for k, (result, base, factor) in self.scaled.items()
            if memory not in (_memory(result), _memory(base))
        }


def _writes_in_place(func: Any, kwargs: dict[str, Any]) -> bool:
    name: str = getattr(func, "__name__", "")
    return (
        (name.endswith("_") and not name.endswith("__"))
        or name in IN_PLACE_OPERATORS
        or kwargs.get("out") is not None
        or bool(kwargs.get("inplace"))
    )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _drops(operands: list[Any], kwargs: dict[str, Any]) -> bool:
    # The functional form names the switch `training`, torch.dropout `train`.
    named = dict(zip(("input", "p", "training"), operands, strict=False)) | kwargs
    return named.get("p", 0.5) > 0 and bool(named.get("training", named.get("train", True)))


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _is_many(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() != 1


def _over_last_axis(op: _Operation) -> bool:
    axis = op.kwargs.get("dim", op.operands[1] if len(op.operands) > 1 else None)
    return axis in (-1, op.result.dim() - 1)
