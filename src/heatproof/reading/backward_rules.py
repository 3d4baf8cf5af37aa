"""Backward rules: functions that keep their results, bit by bit, and get other gradients.

A rule writes down a stand-in for what torch computed, with some factor of it detached; the result
is the function's own and the gradient the stand-in's (`with_gradient_of`). The rules are those of
LibraGrad (arXiv 2411.16760) and AttnLRP (arXiv 2402.05602), which agree on all but attention: a
norm's denominator and an activation's gate are constants, and where two branches are multiplied
each takes half. Attention gets its rule where it is called, by an intervention
(`frozen_attention`, `shared_attention`).
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from heatproof.errors import ReadingError
from heatproof.reading.attention_call import AttentionCall, at_least_float32
from heatproof.reading.interventions import Intervention

Rule = Callable[..., Tensor]
"""Computes a function: (function, *arguments) -> the function's result with another gradient."""

# Rules are found by torch function, not by module, so that they hold for every library's norms and
# activations, whether these are modules or written out.
AFFINE = {F.linear, F.conv2d, torch.conv2d, F.layer_norm, F.batch_norm}
TIMES = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
GATES = {torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh, torch.erf, Tensor.erf}
ACTIVATIONS = {F.gelu, F.silu}
UNRULED = {F.group_norm, F.instance_norm, F.local_response_norm}


def with_gradient_of(value: Tensor, stand_in: Tensor) -> Tensor:
    """Return `value`, bit by bit, with the gradient of `stand_in`."""
    # The bracket is zero, so the sum is `value` in whatever dtype.
    return value.detach() + (stand_in - stand_in.detach()).to(value.dtype)


def with_share(tensor: Tensor, share: float) -> Tensor:
    """Return `tensor`, bit by bit, handing on that share of its gradient."""
    return with_gradient_of(tensor, tensor * share)


@dataclass(frozen=True)
class Bias:
    """A bias of an affine function: its result, and the part that does not come from its operand.

    `token_first`: the result is laid out (token, item, channel).
    """

    result: Tensor
    added: Tensor
    token_first: bool


class BackwardRules(TorchFunctionMode):
    """Context in which functions give their own results, and `rules` give the gradients.

    interventions: the rules of attention calls, by path; for the caller to place them.
    keep_biases: fill `biases` with what affine functions add.
    """

    def __init__(
        self,
        rules: Mapping[Any, Rule],
        interventions: Mapping[str, Intervention],
        *,
        keep_biases: bool = False,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.interventions = interventions
        self.keep_biases = keep_biases
        self.biases: list[Bias] = []
        self.inside_multi_head = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in UNRULED:
            raise ReadingError(f"no backward rule is known for {func.__name__}; try another method")
        rule = self.rules.get(func)
        result = func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)
        if self.keep_biases and func in AFFINE and result.requires_grad:
            return self._record_bias(func, args, kwargs, result)
        return result

    def _multi_head(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run torch's own function with its parts in sight of this mode."""
        self.inside_multi_head = True  # its parts are laid out (token, item, channel)
        try:
            with self:
                return opened(F.multi_head_attention_forward)(*args, **kwargs)
        finally:
            self.inside_multi_head = False

    def _record_bias(self, func: Any, args: Any, kwargs: dict[str, Any], result: Tensor) -> Tensor:
        operand = args[0] if args else kwargs["input"]
        if isinstance(operand, nn.Parameter):  # a pooling query: nothing in it is of the input
            return result
        with torch.no_grad():
            if func is F.linear:
                bias = args[2] if len(args) > 2 else kwargs.get("bias")
            else:  # a convolution's or norm's bias is what comes out where zeros go in
                empty = torch.zeros_like(operand[:1])
                named = {key: value for key, value in kwargs.items() if key != "input"}
                bias = func(empty, *args[1:], **named)
        if bias is None or not bias.count_nonzero():
            return result
        self.biases.append(Bias(result, bias.detach(), self.inside_multi_head))
        return result.clone()  # the model may write over its result in place


def opened(function: Any) -> Any:
    """Return a function of `torch.nn.functional` that does not offer itself to modes again.

    It is the same code: only its check for modes says no. What it calls is offered to them.
    """
    names = {**function.__globals__, "has_torch_function": _no}
    return types.FunctionType(
        function.__code__,
        names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _no(_tensors: Any) -> bool:
    return False


# --- rules of functions -------------------------------------------------------------------------


def frozen_rules() -> dict[Any, Rule]:
    """Return the rules of norms (constant denominators), activations (constant gates), products."""
    return {
        F.layer_norm: _layer_norm,
        F.rms_norm: _rms_norm,
        F.normalize: _normalize,
        **dict.fromkeys(ACTIVATIONS, _activation),
        **dict.fromkeys(GATES, _gate),
        **dict.fromkeys(TIMES, _product),
    }


def _layer_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    value = func(input, normalized_shape, weight, bias, eps)
    x, axes = at_least_float32(input), tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    scaled = centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt().detach()
    return with_gradient_of(value, scaled if weight is None else scaled * weight.detach())


def _rms_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    value = func(input, normalized_shape, weight, eps)
    x, axes = at_least_float32(input), tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    scaled = x * (x.square().mean(axes, keepdim=True) + floor).rsqrt().detach()
    return with_gradient_of(value, scaled if weight is None else scaled * weight.detach())


def _normalize(
    func: Any, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    length = input.detach().norm(p, dim, keepdim=True).clamp_min(eps)
    return with_gradient_of(func(input, p=p, dim=dim, eps=eps, out=out), input / length)


def _activation(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Take f(x) as x gate(x) with a constant gate: f(x) / x, and 1/2 at 0 (GELU, SiLU)."""
    if kwargs.pop("inplace", False):
        args = ()  # in place, silu would write over its input
    value = func(input, *args, **kwargs)
    x = at_least_float32(input.detach())
    gate = torch.where(x == 0, 0.5, at_least_float32(value.detach()) / torch.where(x == 0, 1, x))
    return with_gradient_of(value, at_least_float32(input) * gate)


def _gate(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Take a sigmoid, tanh or erf for a constant."""
    # Towers use them inside activations that are written out, and to gate channels.
    return func(*args, **kwargs).detach()


def _product(func: Any, left: Any, right: Any, **kwargs: Any) -> Tensor:
    """Give each of two branches of one size, both of the input, half of the gradient (SwiGLU)."""
    value = func(left, right, **kwargs)
    if not (is_live(left) and is_live(right)) or left.shape != right.shape:
        return value
    return with_gradient_of(value, 0.5 * (left * right.detach() + left.detach() * right))


def is_live(operand: Any) -> bool:
    """Return whether an operand comes from the input; parameters are constants here."""
    return (
        isinstance(operand, Tensor)
        and operand.requires_grad
        and not isinstance(operand, nn.Parameter)
    )


# --- rules of attention -------------------------------------------------------------------------


def frozen_attention() -> Intervention:
    """Take attention weights for constants, so that queries and keys get no gradient.

    Of LibraGrad and CP-LRP.
    """

    def intervene(call: AttentionCall) -> AttentionCall:
        weights = (call.softmax() if call.weights is None else call.weights).detach()
        if torch.is_grad_enabled():
            weights.requires_grad_()  # leaves: the score still has a gradient at them
        return call.change(query=call.query.detach(), key=call.key.detach(), weights=weights)

    return intervene


def shared_attention() -> Intervention:
    """Divide the gradient of both products of attention evenly between their operands (AttnLRP)."""

    def intervene(call: AttentionCall) -> AttentionCall:
        # The weights get half, and queries and keys half of that each.
        return call.change(
            query=with_share(call.query, 1 / 4),
            key=with_share(call.key, 1 / 4),
            value=with_share(call.value, 1 / 2),
        )

    return intervene


def token_values(bias: Bias, gradient: Tensor, items: int) -> Float[Tensor, "item token"]:
    """Compute the sum over channels of b dS/dy by token (one token where the result is pooled)."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    share = gradient.to(wide) * bias.added.to(wide)
    if share.dim() == 4 and share.shape[0] == items:  # a feature map (item, channel, row, col)
        return share.flatten(2).sum(1)
    values = share.sum(-1)
    return values.view(-1, items).T if bias.token_first else values.view(items, -1)
