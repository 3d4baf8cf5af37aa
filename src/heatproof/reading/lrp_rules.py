"""Relevance in place of gradients: layer-wise relevance propagation through a model's own pass.

Under `RelevanceRules` a backward pass hands on relevance instead of derivatives: at every function
the relevance of its result is divided among its operands. The rules are those of Chefer et al.
(CVPR 2021, arXiv 2012.09838): the alpha-1 rule (z+) on linear maps, halves on products of two
activations, sums divided by their parts and scaled to the parts' absolute totals; norms,
activations and the softmax hand all on.

A rule computes the function's value and gives `_with_rule` a `Distribute`: the relevance of each
operand from that of the result.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from heatproof.errors import ReadingError
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.backward_rules import is_live, opened
from heatproof.reading.eager_attention import OVER, PLUS, PRODUCTS, SOFTMAXES, TIMES

Distribute = Callable[[Tensor], tuple[Tensor, ...]]
"""The relevance of a function's result -> that of each of its operands."""

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
# Functions that only move numbers: their derivative takes each one's relevance back to its place.
MOVES = {
    "__get__", "__getitem__", "amax", "cat", "chunk", "clone", "concat", "contiguous", "dropout",
    "double", "expand", "expand_as", "flatten", "float", "gather", "index_select", "masked_fill",
    "movedim", "permute", "reshape", "select", "split", "squeeze", "stack", "swapaxes", "to",
    "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip


class RelevanceRules(TorchFunctionMode):
    """Context in which functions give their own results, and backward passes give relevance.

    items: how many inputs go through together: the first axis of everything that is added.

    Raises:
        ReadingError: the model calls a function that has no rule.
    """

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # No rule fits the whole of it: its parts must show themselves to this mode.
            with self:
                return opened(func)(*args, **kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        operands = [*args, *kwargs.values()]
        if not any(is_live(operand) for operand in _flat(operands)):
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
        if name not in MOVES and any(is_live(operand) for operand in _flat([result])):
            # Refused, not guessed: a derivative in the place of relevance would give a map.
            raise ReadingError(
                f"no relevance rule is known for torch's {name}, which this model uses; "
                "try gae, which needs none"
            )
        return result

    def _sum(self, func: Any, left: Any, right: Any, **kwargs: Any) -> Tensor:
        if not (is_live(left) and is_live(right)):
            return func(left, right, **kwargs)
        if left.shape != right.shape or left.shape[0] != self.items:
            raise ReadingError(
                f"a sum of {tuple(left.shape)} and {tuple(right.shape)} for {self.items} item(s) "
                "cannot be divided by item; try gae"
            )
        sign = -1 if func in MINUS else 1
        value, (a, b) = _value(func, (left, right), kwargs), (_wide(left), _wide(right) * sign)
        return _with_rule(value, lambda r: _sum_shares(r, a, b), left, right)


# --- the rules ----------------------------------------------------------------------------------


def _weighted(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """Apply z+: what raised a result gets its relevance, in proportion; the bias gets none."""
    names = ("input", "weight", "bias")
    given = dict(zip(names, args[:3], strict=False)) | kwargs
    x, weight = given["input"], given["weight"]
    more = {key: value for key, value in kwargs.items() if key not in names}

    def bare(left: Tensor, right: Tensor) -> Tensor:
        return func(left, right, None, *args[3:], **more)

    return _with_rule(_value(func, args, kwargs), _positive(bare, x, weight), x)


def _matrix_product(func: Any, left: Tensor, right: Tensor) -> Tensor:
    value = _value(func, (left, right), {})
    if not is_live(right):
        return _with_rule(value, _positive(func, left, right), left)
    if not is_live(left):
        return _with_rule(value, _positive(lambda x, w: func(w, x), right, left), right)
    a, b, whole = _wide(left), _wide(right), _wide(value)

    def halves(relevance: Tensor) -> tuple[Tensor, Tensor]:
        share = divided(relevance, whole) / 2
        return a * (share @ b.transpose(-2, -1)), b * (a.transpose(-2, -1) @ share)

    return _with_rule(value, halves, left, right)


def _scaled(func: Any, left: Any, right: Any) -> Tensor:
    """Hand all on where one factor is a constant; of two branches each gets half.

    A factor that is broadcast, such as a gate of channels, gets nothing.
    """
    value = _value(func, (left, right), {})
    if func in TIMES and is_live(left) and is_live(right) and left.shape == right.shape:
        return _with_rule(value, lambda r: (r / 2, r / 2), left, right)
    main = left if is_live(left) and (func in OVER or left.shape == value.shape) else right
    shape = main.shape
    return _with_rule(value, lambda r: (r.sum_to_size(shape),), main)


def _average(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """Apply z+ to a mean or a sum, which is a linear map of equal weights."""
    x = args[0]

    def distribute(relevance: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            positive = _wide(x).clamp(min=0).requires_grad_()
            total = func(positive, *args[1:], **kwargs)
        share = divided(relevance, total.detach())
        return (positive.detach() * torch.autograd.grad(total, positive, share)[0],)

    return _with_rule(_value(func, args, kwargs), distribute, x)


def _handed_on(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    x = args[0] if args else kwargs["input"]
    if kwargs.get("inplace"):  # would write over the operand of the function before
        kwargs = kwargs | {"inplace": False}
    return _with_rule(_value(func, args, kwargs), lambda r: (r,), x)


def _positive(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor
) -> Distribute:
    """Return the z+ rule of a linear map: each entry of x gets relevance in proportion to its part
    of f(x+, w+) + f(x-, w-), which is all that raised the result."""
    weight = weight.detach()  # as it is in this call: wrappers (LoRA) may swap it afterwards

    def distribute(relevance: Tensor) -> tuple[Tensor]:
        parts = [_wide(x).clamp(min=0), _wide(x).clamp(max=0)]
        weights = [_wide(weight).clamp(min=0), _wide(weight).clamp(max=0)]
        with torch.enable_grad():
            parts = [part.requires_grad_() for part in parts]
            raised = [function(part, w) for part, w in zip(parts, weights, strict=True)]
        share = divided(relevance, sum(part.detach() for part in raised))
        grads = torch.autograd.grad(raised, parts, [share, share])
        shares = [part.detach() * grad for part, grad in zip(parts, grads, strict=True)]
        return (torch.stack(shares).sum(0),)

    return distribute


def _sum_shares(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by part, then scale each operand's share by its absolute total, item by item."""
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
    """Return number / by, and 0 where `by` is 0: nothing is divided among parts that add to 0."""
    by = torch.as_tensor(by)
    return torch.where(by == 0, 0, number / by.masked_fill(by == 0, 1))


# --- how a rule becomes a backward pass -----------------------------------------------------------


class _RelevanceFunction(torch.autograd.Function):
    """A function whose value is computed already and whose backward pass is a rule."""

    @staticmethod
    def forward(ctx: Any, value: tuple[Tensor], rule: Distribute, *operands: Tensor) -> Tensor:
        # In a tuple, autograd does not take the value for an operand.
        ctx.rule = rule
        ctx.dtypes = [operand.dtype for operand in operands]
        return value[0].view_as(value[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        shares = ctx.rule(_wide(grads[0]))
        return (None, None, *(r.to(d) for r, d in zip(shares, ctx.dtypes, strict=True)))


def _with_rule(value: Tensor, rule: Distribute, *operands: Tensor) -> Tensor:
    return _RelevanceFunction.apply((value,), rule, *operands)  # pyright: ignore[reportReturnType]


def _value(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return func(*args, **kwargs)


def _wide(tensor: Tensor) -> Tensor:
    # Quotients overflow where a model computes in less than float32.
    return at_least_float32(tensor.detach())


def _flat(operands: Any) -> list[Any]:
    """Return operands together with those in lists (of `cat`) and tuples (of `chunk`)."""
    nested = [operand for operand in operands if isinstance(operand, list | tuple)]
    return [*operands, *(entry for entries in nested for entry in entries)]
