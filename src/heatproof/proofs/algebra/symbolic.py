"""The derivation once more, in SymPy, at a few sizes: a second machine beside `all_sizes`.

Each statement is printed and checked from one and the same object. It holds a general left and
right side, sums with symbolic ends. Its check writes the right side out for concrete numbers of
heads, tokens and channels, and compares it with what SymPy derives from an undefined, arbitrarily
differentiable score S(o): the difference must expand to zero.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import sympy

from heatproof.methods.base import Side
from heatproof.proofs.algebra.all_sizes import Step
from heatproof.proofs.algebra.forms import Facts, Form, evaluate

sp: Any = sympy  # typed in part only, and partly wrong
Expr = Any
Size = tuple[int, int, int]
SIZES: tuple[Size, ...] = ((1, 1, 1), (1, 3, 2), (2, 2, 2), (3, 2, 1))
"""(heads, tokens, channels a head) for which every statement is checked."""

h, i, j, c, m = sp.symbols("h i j c m", integer=True, positive=True)
HEADS, TOKENS, CHANNELS = sp.symbols("H N d", integer=True, positive=True)
A, V, G, OUT, U = (sp.IndexedBase(name) for name in ("A", "v", "g", "o", "u"))
LOGIT, NABLA, BY_LOGIT = (sp.IndexedBase(name) for name in ("s", "dSdA", "dSds"))
RELU = sp.Function(r"\operatorname{ReLU}")


def _plain(head: int, key: int, channel: int) -> Expr:
    return V[head, key, channel]


@dataclass(frozen=True)
class SymbolicRun:
    """`equal`: every difference expanded to zero. `refuted`: one of them takes a value that is
    not zero at a point that was tried; `difference` is then its LaTeX, `size` its layer's."""

    equal: bool
    refuted: bool
    settings: int
    size: Size | None = None
    difference: str = ""


class Layer:
    """A layer of concrete size with an undefined score, and what SymPy derives from it.

    `mark` sets its symbols apart from those of other layers; `value` is v by head, key, channel.
    """

    def __init__(
        self, size: Size, mark: str = "", value: Callable[[int, int, int], Expr] | None = None
    ) -> None:
        self.heads, self.tokens, self.channels = size
        self.weights, self.gradient = sp.IndexedBase(f"A{mark}"), sp.IndexedBase(f"g{mark}")
        self.value: Callable[[int, int, int], Expr] = value or _plain
        places = list(itertools.product(range(1, self.heads + 1), range(1, self.channels + 1)))
        symbols = {(head, k): sp.Symbol(f"o_{head}_{k}") for head, k in places}
        self.output = {place: self._output(*place) for place in places}
        undefined = sp.Function(f"S{mark}")(*symbols.values())
        # All at once: one output may hold symbols of another.
        into = dict(zip(symbols.values(), self.output.values(), strict=True))
        self.score = undefined.subs(into, simultaneous=True)
        self._names = {
            sp.Subs(
                sp.Derivative(undefined, symbol), tuple(into), tuple(into.values())
            ).doit(): self.gradient[place]
            for place, symbol in symbols.items()
        }

    def _output(self, head: int, channel: int) -> Expr:
        keys = range(1, self.tokens + 1)
        return sum(self.weights[head, key] * self.value(head, key, channel) for key in keys)

    def by_weights(self, head: int, key: int) -> Expr:
        """Return dS/dA, differentiated by SymPy through o = A v, derivatives of S named g."""
        return self.named(sp.diff(self.score, self.weights[head, key]))

    def by_channels(self, head: int, key: int) -> Expr:
        """Return g . v_i."""
        channels = range(1, self.channels + 1)
        return sum(self.gradient[head, k] * self.value(head, key, k) for k in channels)

    def named(self, expression: Expr) -> Expr:
        """Evaluate derivatives and name those of S after the gradient g."""
        return sp.expand(expression.doit().xreplace(self._names))

    def write_out(self, expression: Expr, **indices: int) -> Expr:
        """Write a general expression at this size: its sums in full, dS/dA as SymPy derives it."""
        values = {HEADS: self.heads, TOKENS: self.tokens, CHANNELS: self.channels}
        values |= {{"h": h, "i": i, "c": c, "j": j}[name]: n for name, n in indices.items()}
        found = sp.sympify(expression).subs(values).doit()
        known = {
            x: self.by_weights(*map(int, x.indices))
            for x in found.atoms(sp.Indexed)
            if x.base == NABLA
        }
        known |= {x: self.output[x.indices] for x in found.atoms(sp.Indexed) if x.base == OUT}
        return sp.expand(found.xreplace(known))


Check = Callable[[Layer], Iterator[tuple[Expr, Expr]]]


def step(name: str, left: Expr, right: Expr, check: Check) -> Step:
    """A statement `left = right`; `check` yields what must agree, at every size."""
    pairs = [pair for size in SIZES for pair in check(Layer(size))]
    checked = bool(pairs) and all(_zero(one - other) for one, other in pairs)
    sizes = f"{len(SIZES)} sizes, by SymPy"
    return Step(name, readable(sp.Eq(left, right, evaluate=False)), checked, sizes)


def readable(expression: Expr) -> str:
    """Return LaTeX with plain indices: A_{h,i}, and dS/dA_{h,i} as a fraction."""
    text = re.sub(r"\{([^{}]*(?:\{[^{}]*\})*[^{}]*)\}_\{", r"\1_{", sp.latex(expression))
    return re.sub(r"dSd(\w)_\{([^{}]*)\}", r"\\frac{\\partial S}{\\partial \1_{\2}}", text)


def _zero(expression: Expr) -> bool:
    return expression == 0 or sp.expand(expression) == 0 or sp.simplify(expression) == 0


# --- the derivation --------------------------------------------------------------------------


def over_heads(expression: Expr) -> Expr:
    """Return the sum over heads."""
    return sp.Sum(expression, (h, 1, HEADS))


CHANNEL_SUM = sp.Sum(G[h, c] * V[h, i, c], (c, 1, CHANNELS))
GRAD_ECLIP = U[i] * over_heads(CHANNEL_SUM)
ATTENTION_ECLIP = U[i] * over_heads(NABLA[h, i])


def derivation() -> tuple[Step, ...]:
    """Why Grad-ECLIP's map is Attention-ECLIP's, for any differentiable score of o."""
    return (
        linear(V[h, i, c]),
        chain_rule(CHANNEL_SUM),
        same_maps(GRAD_ECLIP, ATTENTION_ECLIP),
        rectified(GRAD_ECLIP, ATTENTION_ECLIP),
        completeness(sp.Sum(G[h, c] * OUT[h, c], (c, 1, CHANNELS))),
        through_softmax(A[h, i] * (NABLA[h, i] - sp.Sum(A[h, j] * NABLA[h, j], (j, 1, TOKENS)))),
    )


def linear(right: Expr) -> Step:
    """do_c/dA_i = v_ic, for any number N of tokens: i is one of them, N = i + m - 1."""
    output = sp.Sum(A[h, j] * V[h, j, c], (j, 1, i + m - 1))
    derived = sp.diff(output, A[h, i]).doit()

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        yield derived, right
        for head, key, channel in _places(layer):
            for other in range(1, layer.heads + 1):
                found = sp.diff(layer.output[other, channel], layer.weights[head, key])
                wanted = layer.write_out(right, h=head, i=key, c=channel)
                # An output of one head does not depend on the weights of another.
                yield found, wanted if other == head else sp.Integer(0)

    shown = sp.Derivative(sp.Sum(A[h, j] * V[h, j, c], (j, 1, TOKENS)), A[h, i], evaluate=False)
    return step("the attention output is linear in its weights", shown, right, check)


def chain_rule(right: Expr) -> Step:
    """dS/dA^h_i = sum_c g^h_c v^h_ic."""

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        for head, key in _keys(layer):
            yield layer.by_weights(head, key), layer.write_out(right, h=head, i=key)

    return step("chain rule, softmax not differentiated", NABLA[h, i], right, check)


def same_maps(left: Expr, right: Expr) -> Step:
    """Grad-ECLIP's sum over all channels is the sum over heads of dS/dA, under one weight u."""

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        for key in range(1, layer.tokens + 1):
            yield layer.write_out(left, i=key), layer.write_out(right, i=key)

    return step("Grad-ECLIP is Attention-ECLIP", left, right, check)


def rectified(left: Expr, right: Expr) -> Step:
    """The published map: cut off below zero after heads are summed."""

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        for key in range(1, layer.tokens + 1):
            yield RELU(layer.write_out(left, i=key)), RELU(layer.write_out(right, i=key))

    return step("and so are their positive parts", RELU(left), RELU(right), check)


def completeness(right: Expr) -> Step:
    """sum_i A_i dS/dA_i = g . o, by head."""
    left = sp.Sum(A[h, i] * NABLA[h, i], (i, 1, TOKENS))

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        for head in range(1, layer.heads + 1):
            yield layer.write_out(left, h=head), layer.write_out(right, h=head)

    return step("attention times its gradient adds up to g . o", left, right, check)


def through_softmax(right: Expr) -> Step:
    """The limit: by the logits s, A = softmax(s), the derivative is another one."""

    def check(layer: Layer) -> Iterator[tuple[Expr, Expr]]:
        for head, key in _keys(layer):
            exps = [sp.exp(LOGIT[head, n]) for n in range(1, layer.tokens + 1)]
            into = {layer.weights[head, n]: e / sum(exps) for n, e in enumerate(exps, 1)}
            found = sum(
                layer.gradient[place] * sp.diff(output.xreplace(into), LOGIT[head, key])
                for place, output in layer.output.items()
                if place[0] == head
            )
            wanted = layer.write_out(right, h=head, i=key).xreplace(into)
            yield sp.simplify(found - wanted), sp.Integer(0)

    left = BY_LOGIT[h, i]
    return step("the limit: through the softmax it is not dS/dA", left, right, check)


def _keys(layer: Layer) -> Iterator[tuple[int, int]]:
    return itertools.product(range(1, layer.heads + 1), range(1, layer.tokens + 1))


def _places(layer: Layer) -> Iterator[tuple[int, int, int]]:
    for head, key in _keys(layer):
        for channel in range(1, layer.channels + 1):
            yield head, key, channel


# --- any two forms ---------------------------------------------------------------------------


def compare(pairs: Sequence[tuple[Form, Form]], calls: int = 2) -> SymbolicRun:
    """Each pair of forms on layers of every size, image and text depth: do differences vanish?"""
    sides: tuple[Side, ...] = ("image", "text")
    unequal: tuple[Size, Expr] | None = None
    compared = False
    for size, side, forms in itertools.product(SIZES, sides, dict.fromkeys(pairs)):
        maps = [_map(form, size, side, calls) for form in forms]
        if maps[0] is None or maps[1] is None:
            continue
        compared = True
        for one, other in zip(maps[0], maps[1], strict=True):
            difference = sp.expand(one - other)
            if difference == 0:
                continue
            # Not expanding to zero proves nothing, since ReLU does not expand; a point does.
            if _witness(difference):
                return SymbolicRun(False, True, len(pairs), size, readable(difference))
            # Neither proved nor refuted: remembered, while a later size may still refute.
            unequal = unequal or (size, difference)
    if unequal is not None:
        return SymbolicRun(False, False, len(pairs), unequal[0], readable(unequal[1]))
    return SymbolicRun(compared, False, len(pairs))


def _map(form: Form, size: Size, side: Side, calls: int) -> list[Expr] | None:
    depth = form.depth(side, calls)
    if depth is None:
        return None
    # What a form does not read decides nothing: settings that differ in it share their map.
    projection = form.projection if form.spatial == "loosened" else "output"
    # With one head there is no difference between the two.
    heads = "model" if size[0] == 1 else form.heads
    return _written(replace(form, heads=heads, projection=projection, layers=depth), size)


@cache
def _written(form: Form, size: Size) -> list[Expr]:
    assert isinstance(form.layers, int)
    route = "weights" if form.route == "none" else form.route
    layers = [
        _facts(form.heads == "one", route, size, below, form.layers)
        for below in range(form.layers - 1, -1, -1)
    ]
    return [sp.expand(x) for x in evaluate(form, layers, lambda x: RELU(sp.expand(x)))]


@cache
def _facts(one: bool, route: str, size: Size, below: int, depth: int) -> Facts:
    """Symbols of the layer with `below` layers after it.

    One-headed layers have weights and gradients of their own. The first of them has the model's
    queries, keys and values still; those after it do not, since their input has changed.
    """
    heads, tokens, channels = size
    mark = "'" * below
    own = f"^{{one,{depth}}}{mark}" if one else mark
    entering = mark if below == depth - 1 else own
    values = sp.IndexedBase(f"v{entering}")

    def value(head: int, key: int, channel: int) -> Expr:
        if not one:
            return values[head, key, channel]
        return values[1 + (channel - 1) // channels, key, 1 + (channel - 1) % channels]

    shape = (1, tokens, heads * channels) if one else size
    layer = Layer(shape, own, value)
    by_route = layer.by_channels if route == "channels" else layer.by_weights
    keys, each = range(1, tokens + 1), range(1, shape[0] + 1)
    spatial = {"output": sp.IndexedBase(f"u{entering}"), "none": sp.IndexedBase(f"w{entering}")}
    return Facts(
        [[[by_route(head, key) for key in keys]] for head in each],
        [[[layer.weights[head, key] for key in keys]] for head in each],
        {name: [[base[key] for key in keys]] for name, base in spatial.items()},
    )


def _positive(x: Expr) -> Expr:
    return sp.Max(0, x)


def _witness(difference: Expr) -> bool:
    """Whether the difference is not zero at one of some integer points."""
    free = sorted(difference.atoms(sp.Indexed), key=str)
    for shift in range(1, 4):
        # Integers of both signs and several sizes: ReLU is on for some terms, off for others.
        point = {x: (-1) ** (n // shift) * (n % 5 + shift) for n, x in enumerate(free)}
        value = difference.subs(point).replace(RELU, _positive)
        if value != 0:
            return True
    return False
