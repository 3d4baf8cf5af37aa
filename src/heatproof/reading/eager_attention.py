"""Attention that a model writes out: scores = q k', softmax over the last axis, product with v.

Hugging Face's BLIP and every `attn_implementation="eager"` do. The recogniser follows the scores
from the first product through scaling and masking to the softmax, and replaces the second product
by the reading, which uses the weights that the model wrote out. What it cannot follow it leaves
alone. It also sees the function itself where a model imported it by name, before any reading.
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
FILL = {torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_}
DROPOUTS = {F.dropout, torch.dropout}
SAME = {Tensor.to, Tensor.float, Tensor.double, Tensor.type_as, Tensor.contiguous, *DROPOUTS}
IN_PLACE_OPERATORS = {
    f"__{name}__"
    for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")
}

_fused: Callable[..., Tensor] = F.scaled_dot_product_attention


@dataclass(frozen=True)
class _Scores:
    query: Tensor
    key: Tensor
    scale: float = 1.0
    mask: Tensor | None = None
    softmaxed: bool = False


class Recogniser(TorchFunctionMode):
    """Follows attention scores inside one running module.

    `serve` computes a recognised call from its operands and the model's own weights; `fused`
    stands in for torch's function.
    """

    def __init__(
        self, serve: Callable[[AttentionCall, Tensor], Tensor], fused: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.serve = serve
        self.fused = fused
        self.paused = False
        # Tensors are kept beside what is known of them, so that no id is reused while it counts.
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
        operands = list(args) + list(kwargs.values())
        tensors = [each for each in operands if isinstance(each, Tensor)]
        if func in PRODUCTS and len(tensors) == 2:
            served = self._product(*tensors)
            if served is not None:
                return served
        result = func(*args, **kwargs)
        if tensors and _writes_in_place(func, kwargs):
            scores = self._of(tensors[0])
            self._forget(kwargs.get("out", tensors[0]))
        else:
            scores = next((s for s in map(self._of, tensors) if s is not None), None)
        if isinstance(result, Tensor) and tensors:
            self._follow(func, operands, tensors, kwargs, scores, result)
        return result

    def _product(self, left: Tensor, right: Tensor) -> Tensor | None:
        known = self._of(left)
        if known is None or not known.softmaxed or right.dim() != 4:
            return None
        shape = (*known.query.shape[:3], known.key.shape[2])
        if left.shape != shape:
            return None
        # A key or value that heads (or inputs) share is read with one for each of them.
        key, value = (
            each if each.shape[:2] == shape[:2] else each.expand(*shape[:2], -1, -1)
            for each in (known.key, right)
        )
        call = AttentionCall(known.query, key, value, known.mask, False, known.scale, shape[1])
        self.known.clear()
        self.scaled.clear()
        return self.serve(call, left)

    def _follow(
        self,
        func: Any,
        operands: list[Any],
        tensors: list[Tensor],
        kwargs: Any,
        scores: _Scores | None,
        result: Tensor,
    ) -> None:
        if func in PRODUCTS and len(tensors) == 2 and result.dim() == 4:
            left, right = tensors
            if left.dim() == right.dim() == 4:
                query, before = self._before_scaling(left)
                self._know(result, _Scores(query, right.transpose(-2, -1), before))
            return
        if scores is None:
            if func in TIMES | OVER and result.dim() == 4 and not _writes_in_place(func, kwargs):
                self._follow_scaling(func, operands, result)
            return
        if func in SAME:
            if func in DROPOUTS and _drops(operands, kwargs):
                raise ReadingError("attention dropout is on; call model.eval() first")
            self._know(result, scores)
        elif func in SOFTMAXES and _over_last_axis(operands, kwargs, result):
            self._know(result, replace(scores, softmaxed=True))
        elif not scores.softmaxed:
            self._follow_arithmetic(func, operands, scores, result)

    def _follow_scaling(self, func: Any, operands: list[Any], result: Tensor) -> None:
        """A query times a number, as timm's unfused attention begins."""
        query, factor = operands[:2]
        if func in TIMES and _many(factor):
            query, factor = factor, query
        if isinstance(query, Tensor) and query.shape == result.shape and not _many(factor):
            number = _number(factor) if func in TIMES else 1 / _number(factor)
            self.scaled[id(result)] = (result, query, number)

    def _before_scaling(self, tensor: Tensor) -> tuple[Tensor, float]:
        entry = self.scaled.get(id(tensor))
        return (tensor, 1.0) if entry is None else entry[1:]

    def _follow_arithmetic(
        self, func: Any, operands: list[Any], scores: _Scores, result: Tensor
    ) -> None:
        if func in FILL:
            self._follow_fill(operands, scores, result)
            return
        if len(operands) != 2:
            return
        first, second = operands
        other = second if isinstance(first, Tensor) and self._of(first) is scores else first
        if isinstance(first, Tensor) and first is result:
            other = second  # in place
        if func in TIMES and not _many(other) and scores.mask is None:
            self._know(result, replace(scores, scale=scores.scale * _number(other)))
        elif func in OVER and other is second and not _many(other) and scores.mask is None:
            self._know(result, replace(scores, scale=scores.scale / _number(other)))
        elif func in PLUS and isinstance(other, Tensor):
            added = other if other.is_floating_point() else other.to(result.dtype)
            mask = added if scores.mask is None else scores.mask + added
            self._know(result, replace(scores, mask=mask))

    def _follow_fill(self, operands: list[Any], scores: _Scores, result: Tensor) -> None:
        """Scores replaced by minus infinity, or by what the softmax takes for that."""
        where, value = operands[1:]
        if not isinstance(where, Tensor) or _many(value) or _number(value) > -1e4:
            return
        added = torch.zeros(where.shape, dtype=result.dtype, device=result.device)
        added = added.masked_fill(where, -torch.inf)
        mask = added if scores.mask is None else scores.mask + added
        self._know(result, replace(scores, mask=mask))

    def _of(self, tensor: Tensor) -> _Scores | None:
        entry = self.known.get(id(tensor))
        return None if entry is None else entry[1]

    def _know(self, tensor: Tensor, scores: _Scores) -> None:
        self.known[id(tensor)] = (tensor, scores)

    def _forget(self, written: Tensor) -> None:
        """What was written into, through any view of it, is no longer what it was known for."""
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
    named = dict(zip(("input", "p", "training"), operands, strict=False)) | kwargs
    return named.get("p", 0.5) > 0 and bool(named.get("training", named.get("train", True)))


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _many(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() != 1


def _over_last_axis(operands: list[Any], kwargs: dict[str, Any], result: Tensor) -> bool:
    axis = kwargs.get("dim", operands[1] if len(operands) > 1 else None)
    return axis in (-1, result.dim() - 1)
