"""Small attention networks over the rationals: every number a fraction, nothing rounded.

Two layers of x + W_O attention(x) + b_O, of one or several heads, two-way or causal, read out at
one row or as a mean, under a score that is a rational function. Softmax leaves the rationals, so
that here a key's weight is (1 + s^2) / (sum of all keys'), s its query-key product: positive,
row-stochastic, and like softmax a function of the layer's input through which later layers are
differentiated. The cosine leaves them too: it stands squared, with its sign.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from heatproof.methods.base import Side
from heatproof.proofs.algebra.forms import Facts, Rows

Scalar = Any  # Fraction, or Dual where a derivative is taken
Vector = Sequence[Scalar]
Integers = tuple[tuple[int, ...], ...]
Route = Literal["channels", "weights"]


class Dual:
    """value + slope * epsilon, epsilon^2 = 0: carries one exact derivative through arithmetic."""

    __slots__ = ("slope", "value")

    def __init__(self, value: Fraction, slope: Fraction | int = 0) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Scalar) -> "Dual":
        value, slope = _parts(other)
        return Dual(self.value + value, self.slope + slope)

    def __mul__(self, other: Scalar) -> "Dual":
        value, slope = _parts(other)
        return Dual(self.value * value, self.slope * value + self.value * slope)

    def __truediv__(self, other: Scalar) -> "Dual":
        value, slope = _parts(other)
        return Dual(self.value / value, (self.slope * value - self.value * slope) / value**2)

    def __rtruediv__(self, other: Scalar) -> "Dual":
        return Dual(Fraction(other)) / self

    __radd__, __rmul__ = __add__, __mul__


def _parts(number: Scalar) -> tuple[Scalar, Scalar]:
    return (number.value, number.slope) if isinstance(number, Dual) else (number, 0)


@dataclass(frozen=True)
class Weights:
    """One layer's integers: rows are outputs."""

    query: Integers
    key: Integers
    value: Integers
    output: Integers
    bias: tuple[int, ...]


@dataclass(frozen=True)
class Nudge:
    """The quantity to differentiate by: an attention output's channel, or an attention weight."""

    kind: Route
    layer: int
    row: int
    head: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of integers. `row` is the readout row, None where the mean of all is read out.

    The score is (a . z + b . z^2) / (1 + c . z^2) of the embedding z.
    """

    heads: int
    channels: int
    side: Side
    row: int | None
    tokens: Integers
    layers: tuple[Weights, ...]
    score: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def rows(self) -> tuple[int, ...]:
        """Return the readout rows: the one row, or all where their mean is read out."""
        return tuple(range(len(self.tokens))) if self.row is None else (self.row,)

    @property
    def size(self) -> tuple[int, int, int]:
        """Return heads, tokens, channels a head."""
        return self.heads, len(self.tokens), self.channels

    def description(self) -> dict[str, Any]:
        """Return the network as plain values, from which it can be built again."""
        return asdict(self)

    @cached_property
    def _states(self) -> dict[tuple[int, int], tuple[Vector, ...]]:
        return {}

    def state(self, layer: int, ones: int) -> tuple[Vector, ...]:
        """Return the tokens that enter a layer while the last `ones` layers run with one head."""
        if layer == 0:
            return tuple([Fraction(x) for x in token] for token in self.tokens)
        # Every derivative starts from the same states: each is computed once.
        if (layer, ones) not in self._states:
            before = self.state(layer - 1, ones)
            self._states[layer, ones] = self._step(before, layer - 1, ones, None)
        return self._states[layer, ones]

    def heads_of(self, layer: int, ones: int) -> int:
        """Count the heads of a layer while the last `ones` layers run with one."""
        return 1 if layer >= len(self.layers) - ones else self.heads

    def attend(self, state: Sequence[Vector], layer: int, heads: int) -> tuple[Any, Any]:
        """Return weights by head, query and key, and values by head, key and channel."""
        parts = self.layers[layer]
        query, key, value = (
            _split([_product(m, x) for x in state], heads)
            for m in (parts.query, parts.key, parts.value)
        )
        # A text token attends to itself and to the tokens before it.
        causal = self.side == "text"
        weights = [
            [_kernel(q, keys[: n + 1] if causal else keys, len(keys)) for n, q in enumerate(rows)]
            for rows, keys in zip(query, key, strict=True)
        ]
        return weights, value

    def _step(
        self, state: Sequence[Vector], layer: int, ones: int, nudge: Nudge | None
    ) -> tuple[Vector, ...]:
        heads = self.heads_of(layer, ones)
        weights, values = self.attend(state, layer, heads)
        # After the weights are computed: the derivative by A does not pass the softmax.
        if nudge is not None and nudge.kind == "weights":
            _mark(weights[nudge.head][nudge.row], nudge.index)
        parts, out = self.layers[layer], []
        for row, token in enumerate(state):
            output = [
                _dot(weights[head][row], channel)
                for head in range(heads)
                for channel in zip(*values[head], strict=True)
            ]
            # Marked on the output of one row: the derivative by o there, and nothing else.
            if nudge is not None and nudge.kind == "channels" and nudge.row == row:
                _mark(output, nudge.head * (len(output) // heads) + nudge.index)
            moved = _product(parts.output, output)
            out.append([x + y + b for x, y, b in zip(token, moved, parts.bias, strict=True)])
        return tuple(out)

    def slope(self, nudge: Nudge, ones: int) -> Fraction:
        """Return the exact derivative of the score with respect to the nudged quantity."""
        state = self._step(self.state(nudge.layer, ones), nudge.layer, ones, nudge)
        for layer in range(nudge.layer + 1, len(self.layers)):
            state = self._step(state, layer, ones, None)
        score = self._score(state)
        # A plain fraction carries no slope: the score does not depend on the nudged quantity.
        return Fraction(score.slope) if isinstance(score, Dual) else Fraction(0)

    def _score(self, state: Sequence[Vector]) -> Scalar:
        rows = [state[row] for row in self.rows]
        embedding = [sum(values) * Fraction(1, len(rows)) for values in zip(*rows, strict=True)]
        squares = [z * z for z in embedding]
        linear, square, below = self.score
        over = _dot(linear, embedding) + _dot(square, squares)
        # The denominator is at least 1: the score is defined for every network.
        return over / (_dot(below, squares) + 1)


def facts(network: Network, layer: int, ones: int, route: Route) -> Facts:
    """Compute the quantities of one layer, its channel sums by the named route."""
    heads = network.heads_of(layer, ones)
    state = network.state(layer, ones)
    weights, values = network.attend(state, layer, heads)
    by_route = by_channels if route == "channels" else by_weights
    return Facts(
        by_route(network, layer, ones, values),
        [[head[row] for row in network.rows] for head in weights],
        {name: _loosened(network, layer, state, name) for name in ("output", "none")},
    )


def by_channels(network: Network, layer: int, ones: int, values: Any) -> list[Rows]:
    """Return g . v_i by head, row and key: the score differentiated by each channel of o."""
    sums: list[Rows] = []
    for head, keys in enumerate(values):
        rows: list[Vector] = []
        for row in network.rows:
            nudges = [Nudge("channels", layer, row, head, c) for c in range(len(keys[0]))]
            gradient = [network.slope(nudge, ones) for nudge in nudges]
            rows.append([_dot(gradient, value) for value in keys])
        sums.append(rows)
    return sums


def by_weights(network: Network, layer: int, ones: int, values: Any) -> list[Rows]:
    """Return dS/dA_i by head, row and key: the score differentiated by each weight; no values."""
    return [
        [
            [
                network.slope(Nudge("weights", layer, row, head, key), ones)
                for key in range(len(network.tokens))
            ]
            for row in network.rows
        ]
        for head in range(len(values))
    ]


def random_network(
    seed: int, heads: int, tokens: int, channels: int, side: Side, row: int | None
) -> Network:
    """Draw a network of two layers with integers from -2 to 2."""
    chance = random.Random(f"{seed} {heads} {tokens} {channels} {side} {row}")
    width = heads * channels

    def vector(low: int = -2) -> tuple[int, ...]:
        return tuple(chance.randint(low, 2) for _ in range(width))

    def matrix(rows: int = width) -> Integers:
        return tuple(vector() for _ in range(rows))

    layers = tuple(Weights(matrix(), matrix(), matrix(), matrix(), vector()) for _ in range(2))
    score = (vector(), vector(), vector(0))
    return Network(
        heads=heads,
        channels=channels,
        side=side,
        row=row,
        tokens=matrix(tokens),
        layers=layers,
        score=score,
    )


# --- arithmetic ------------------------------------------------------------------------------


def _dot(left: Vector, right: Vector) -> Scalar:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def _product(matrix: Integers, vector: Vector) -> list[Scalar]:
    return [_dot(vector, row) for row in matrix]


def _split(vectors: Sequence[Vector], heads: int) -> list[list[Vector]]:
    size = len(vectors[0]) // heads
    return [[v[h * size : (h + 1) * size] for v in vectors] for h in range(heads)]


def _kernel(query: Vector, keys: Sequence[Vector], count: int) -> list[Scalar]:
    """Row-stochastic weights; keys that the mask hides weigh nothing."""
    products = [_dot(query, key) for key in keys]
    raw = [s * s + 1 for s in products]
    total = sum(raw[1:], raw[0])
    # Masked keys weigh zero, as after a softmax over minus infinity.
    return [x / total for x in raw] + [Fraction(0)] * (count - len(raw))


def _mark(numbers: Any, index: int) -> None:
    number = numbers[index]
    numbers[index] = number + Dual(Fraction(0), 1) if isinstance(number, Dual) else Dual(number, 1)


def _loosened(network: Network, layer: int, state: Sequence[Vector], projection: str) -> Rows:
    """Phi(signed squared cosine) of full-width queries and keys, by readout row and key."""
    parts = network.layers[layer]
    queries, keys = ([_product(m, x) for x in state] for m in (parts.query, parts.key))
    if projection == "output":
        queries, keys = (
            [_add(_product(parts.output, x), parts.bias) for x in vectors]
            for vectors in (queries, keys)
        )
    return [_min_max([_squared_cosine(queries[row], k) for k in keys]) for row in network.rows]


def _add(left: Vector, right: Vector) -> list[Scalar]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _squared_cosine(left: Vector, right: Vector) -> Fraction:
    norms = _dot(left, left) * _dot(right, right)
    product = _dot(left, right)
    # Squared, with its sign: the square root would leave the rationals.
    return product * abs(product) / norms if norms else Fraction(0)


def _min_max(values: list[Fraction]) -> list[Fraction]:
    # A constant row would divide by zero; there every key weighs the same.
    span = max(values) - min(values)
    return [(x - min(values)) / span if span else Fraction(1) for x in values]
