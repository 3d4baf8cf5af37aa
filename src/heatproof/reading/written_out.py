"""Attention that a model writes out: scores = q k', softmax over the last axis, product with v.

Hugging Face's BLIP and every `attn_implementation="eager"` do. The recogniser follows the scores
from the first product through scaling and masking to the softmax, and replaces the second product
by the reading. What it cannot follow it leaves alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatproof.reading.call import AttentionCall

PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
SOFTMAXES = {torch.softmax, F.softmax, Tensor.softmax}
TIMES = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__rmul__, Tensor.__imul__}
OVER = {torch.div, Tensor.div, Tensor.__truediv__, Tensor.div_, Tensor.__itruediv__}
PLUS = {torch.add, Tensor.add, Tensor.__add__, Tensor.add_, Tensor.__iadd__, Tensor.__radd__}
SAME = {F.dropout, Tensor.to, Tensor.float, Tensor.type_as, Tensor.contiguous, torch.dropout}


@dataclass(frozen=True)
class _Scores:
    query: Tensor
    key: Tensor
    scale: float = 1.0
    mask: Tensor | None = None
    softmaxed: bool = False


class Recogniser(TorchFunctionMode):
    """Follows attention scores inside one running module; `serve` computes the recognised call."""

    def __init__(self, serve: Callable[[AttentionCall], Tensor]) -> None:
        super().__init__()
        self.serve = serve
        self.paused = False
        # Tensors are kept beside what is known of them, so that no id is reused while it counts.
        self.known: dict[int, tuple[Tensor, _Scores]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        operands = list(args) + list(kwargs.values())
        tensors = [each for each in operands if isinstance(each, Tensor)]
        if func in PRODUCTS and len(tensors) == 2:
            served = self._product(*tensors)
            if served is not None:
                return served
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and tensors:
            self._follow(func, operands, tensors, kwargs, result)
        return result

    def _product(self, left: Tensor, right: Tensor) -> Tensor | None:
        known = self._of(left)
        if known is None or not known.softmaxed or right.dim() != 4:
            return None
        call = AttentionCall(
            known.query, known.key, right, known.mask, False, known.scale, right.shape[1]
        )
        self.known.clear()
        return self.serve(call)

    def _follow(
        self, func: Any, operands: list[Any], tensors: list[Tensor], kwargs: Any, result: Tensor
    ) -> None:
        if func in PRODUCTS and len(tensors) == 2 and result.dim() == 4:
            left, right = tensors
            if left.dim() == right.dim() == 4:
                self._know(result, _Scores(left, right.transpose(-2, -1)))
            return
        scores = next((s for s in map(self._of, tensors) if s is not None), None)
        if scores is None:
            return
        if func in SAME:
            self._know(result, scores)
        elif func in SOFTMAXES and _over_last_axis(operands, kwargs, result):
            self._know(result, replace(scores, softmaxed=True))
        elif not scores.softmaxed:
            self._follow_arithmetic(func, operands, scores, result)

    def _follow_arithmetic(
        self, func: Any, operands: list[Any], scores: _Scores, result: Tensor
    ) -> None:
        if len(operands) < 2:
            return
        first, second = operands[:2]
        other = second if isinstance(first, Tensor) and self._of(first) is scores else first
        if func in TIMES and not _many(other) and scores.mask is None:
            self._know(result, replace(scores, scale=scores.scale * float(other)))
        elif func in OVER and other is second and not _many(other) and scores.mask is None:
            self._know(result, replace(scores, scale=scores.scale / float(other)))
        elif func in PLUS and isinstance(other, Tensor):
            mask = other if scores.mask is None else scores.mask + other
            self._know(result, replace(scores, mask=mask))

    def _of(self, tensor: Tensor) -> _Scores | None:
        entry = self.known.get(id(tensor))
        return None if entry is None else entry[1]

    def _know(self, tensor: Tensor, scores: _Scores) -> None:
        self.known[id(tensor)] = (tensor, scores)


def _many(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() != 1


def _over_last_axis(operands: list[Any], kwargs: dict[str, Any], result: Tensor) -> bool:
    axis = kwargs.get("dim", operands[1] if len(operands) > 1 else None)
    return axis in (-1, result.dim() - 1)
