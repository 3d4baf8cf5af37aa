"""Relevance in place of gradients: layer-wise relevance propagation through a model's own pass.

Under `RelevanceRules` a backward pass hands on, at every function, relevance instead of a
derivative: what arrives at a result is dealt out among its operands. The rules are those of Chefer
et al. (CVPR 2021, arXiv 2012.09838): the alpha-1 rule (z+) on linear maps, halves on products of
two activations, sums dealt out by their parts and scaled to the parts' absolute totals; norms,
activations and the softmax hand all on. What has no rule is refused, not guessed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatproof.errors import ReadingError
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.backward_rules import opened
from heatproof.reading.eager_attention import OVER, PLUS, PRODUCTS, SOFTMAXES, TIMES

Deal = Callable[[Tensor], tuple[Tensor, ...]]

MINUS = {torch.sub, Tensor.sub, Tensor.__sub__}
CONVOLUTIONS = {F.conv2d, torch.conv2d}
AVERAGES = {
    torch.mean, Tensor.mean, torch.sum, Tensor.sum, F.avg_pool2d, F.adaptive_avg_pool2d,
}  # fmt: skip
HANDED_ON = {
    *SOFTMAXES, torch._safe_softmax,  # pyright: ignore[reportPrivateUsage]
    F.layer_norm, F.rms_norm, F.batch_norm, F.normalize,
    F.gelu, F.silu, F.relu, torch.relu, Tensor.relu,
    torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh, torch.erf, Tensor.erf,
    torch.neg, Tensor.neg, Tensor.__neg__,
}  # fmt: skip
# Functions that move numbers about: their derivative deals relevance out rightly.
MOVES = {
    "__get__", "__getitem__", "amax", "cat", "chunk", "clone", "concat", "contiguous", "dropout",
    "double", "expand", "expand_as", "flatten", "float", "gather", "index_select", "masked_fill",
    "movedim", "permute", "reshape", "select", "split", "squeeze", "stack", "swapaxes", "to",
    "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip


class RelevanceRules(TorchFunctionMode):
    """Functions computed as they are; in a graph, their backward pass deals out relevance.

    items: inputs that go through together, the first axis of everything that is added.
    """

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return opened(func)(*args, **kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        operands = [*args, *kwargs.values()]
        if not any(_is_live(each) for each in _flat(operands)):
            return func(*args, **kwargs)
        return self._ruled(func, args, kwargs)

    def _ruled(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is F.linear or func in CONVOLUTIONS:
            return _weighted(func, args, kwargs)
        if func in PRODUCTS:
            return _matrix_product(func, *args)
        if func in PLUS or func in MINUS:
            return self._sum(func, *args, **kwargs)
        if func in TIMES or func in OVER:
            return _scaled(func, *args)
        if func in AVERAGES:
            return _average(func, args, kwargs)
        if func in HANDED_ON:
            return _handed_on(func, args, kwargs)
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        moves = name in MOVES or not any(_is_live(each) for each in _flat([result]))
        if not moves:
            raise ReadingError(
                f"no relevance rule is known for torch's {name}, which this model uses; "
                "try gae, which needs none"
            )
        return result

    def _sum(self, func: Any, left: Any, right: Any, **kwargs: Any) -> Tensor:
        if not (_is_live(left) and _is_live(right)):
            return func(left, right, **kwargs)
        if left.shape != right.shape or left.shape[0] != self.items:
            raise ReadingError(
                f"a sum of {tuple(left.shape)} and {tuple(right.shape)} for {self.items} item(s) "
                "cannot be dealt out by item; try gae"
            )
        sign = -1 if func in MINUS else 1
        value, (a, b) = _value(func, (left, right), kwargs), (_wide(left), _wide(right) * sign)
        return _deal(value, lambda r: _sum_shares(r, a, b), left, right)


# --- the rules ----------------------------------------------------------------------------------


def _weighted(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """z+: what raised a result gets its relevance, in proportion; the bias gets none."""
    names = ("input", "weight", "bias")
    given = dict(zip(names, args[:3], strict=False)) | kwargs
    x, weight = given["input"], given["weight"]
    more = {key: value for key, value in kwargs.items() if key not in names}

    def bare(left: Tensor, right: Tensor) -> Tensor:
        return func(left, right, None, *args[3:], **more)

    return _deal(_value(func, args, kwargs), _positive(bare, x, weight), x)


def _matrix_product(func: Any, left: Tensor, right: Tensor) -> Tensor:
    value = _value(func, (left, right), {})
    if not _is_live(right):
        return _deal(value, _positive(func, left, right), left)
    if not _is_live(left):
        return _deal(value, _positive(lambda x, w: func(w, x), right, left), right)
    a, b, whole = _wide(left), _wide(right), _wide(value)

    def halves(relevance: Tensor) -> tuple[Tensor, Tensor]:
        share = divided(relevance, whole) / 2
        return a * (share @ b.transpose(-2, -1)), b * (a.transpose(-2, -1) @ share)

    return _deal(value, halves, left, right)


def _scaled(func: Any, left: Any, right: Any) -> Tensor:
    """Times a constant: all is handed on. Two branches: half each, a gate of channels none."""
    value = _value(func, (left, right), {})
    if func in TIMES and _is_live(left) and _is_live(right) and left.shape == right.shape:
        return _deal(value, lambda r: (r / 2, r / 2), left, right)
    main = left if _is_live(left) and (func in OVER or left.shape == value.shape) else right
    shape = main.shape
    return _deal(value, lambda r: (r.sum_to_size(shape),), main)


def _average(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A mean or a sum is a linear map of equal weights: z+ deals by positive parts."""
    x = args[0]

    def deal(relevance: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            positive = _wide(x).clamp(min=0).requires_grad_()
            total = func(positive, *args[1:], **kwargs)
        share = divided(relevance, total.detach())
        return (positive.detach() * torch.autograd.grad(total, positive, share)[0],)

    return _deal(_value(func, args, kwargs), deal, x)


def _handed_on(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    x = args[0] if args else kwargs["input"]
    if kwargs.get("inplace"):
        kwargs = kwargs | {"inplace": False}
    return _deal(_value(func, args, kwargs), lambda r: (r,), x)


def _positive(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Deal:
    weight = weight.detach()  # as it is in this call: wrappers (LoRA) may swap it afterwards

    def deal(relevance: Tensor) -> tuple[Tensor]:
        parts = [_wide(x).clamp(min=0), _wide(x).clamp(max=0)]
        weights = [_wide(weight).clamp(min=0), _wide(weight).clamp(max=0)]
        with torch.enable_grad():
            parts = [part.requires_grad_() for part in parts]
            raised = [function(part, w) for part, w in zip(parts, weights, strict=True)]
        share = divided(relevance, sum(each.detach() for each in raised))
        grads = torch.autograd.grad(raised, parts, [share, share])
        shares = [part.detach() * grad for part, grad in zip(parts, grads, strict=True)]
        return (torch.stack(shares).sum(0),)

    return deal


def _sum_shares(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """By part, then each operand's share scaled to its absolute total, item by item."""
    axes = tuple(range(1, relevance.dim()))
    by_part = divided(relevance, a + b)
    shares = (a * by_part, b * by_part)
    totals = [share.sum(axes, keepdim=True) for share in shares]
    whole = sum(total.abs() for total in totals)
    arrived = relevance.sum(axes, keepdim=True)
    first, second = (
        share * divided(divided(total.abs(), whole) * arrived, total)
        for share, total in zip(shares, totals, strict=True)
    )
    return first, second


def divided(number: Tensor, by: Tensor | int) -> Tensor:
    """number / by, 0 where that has no meaning: nothing is dealt out among parts that add to 0."""
    by = torch.as_tensor(by)
    return torch.where(by == 0, 0, number / by.masked_fill(by == 0, 1))


# --- how a rule becomes a backward pass -----------------------------------------------------------


class _Dealt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: tuple[Tensor], deal: Deal, *operands: Tensor) -> Tensor:
        ctx.deal = deal
        ctx.dtypes = [each.dtype for each in operands]
        return value[0].view_as(value[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dealt = ctx.deal(_wide(grads[0]))
        return (None, None, *(r.to(d) for r, d in zip(dealt, ctx.dtypes, strict=True)))


def _deal(value: Tensor, deal: Deal, *operands: Tensor) -> Tensor:
    return _Dealt.apply((value,), deal, *operands)  # pyright: ignore[reportReturnType]


def _value(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return func(*args, **kwargs)


def _wide(tensor: Tensor) -> Tensor:
    """Relevance is dealt out in float32 where a model computes in less: quotients overflow."""
    return at_least_float32(tensor.detach())


def _is_live(operand: Any) -> bool:
    """Whether relevance can reach it; parameters are constants."""
    return (
        isinstance(operand, Tensor)
        and operand.requires_grad
        and not isinstance(operand, nn.Parameter)
    )


def _flat(operands: Any) -> list[Any]:
    """Operands, those in lists (of `cat`) and results in tuples (of `chunk`) among them."""
    nested = [each for each in operands if isinstance(each, list | tuple)]
    return [*operands, *(each for some in nested for each in some)]
