"""Where the equivalence ends: the smallest layers on which variants of it differ, by search.

One readout row, the score linear in o (so that g is its integer gradient), weights any rational
row-stochastic A. Sizes are searched with the fewest values v_ic first, then the fewest channels and
heads; within a size all integers up to 1, then up to 2, the smallest first; nothing is rounded.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Vector = tuple[Fraction, ...]
MOST_HEADS, MOST_TOKENS, MOST_CHANNELS, MOST = 2, 2, 2, 2


@dataclass(frozen=True)
class Case:
    """By head: weights A_i, gradient g_c, values v_ic."""

    weights: tuple[Vector, ...]
    gradient: tuple[Vector, ...]
    values: tuple[tuple[Vector, ...], ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """Heads, tokens, channels a head."""
        return len(self.weights), len(self.weights[0]), len(self.gradient[0])

    @property
    def gradients(self) -> tuple[Vector, ...]:
        """Return dS/dA_i = g . v_i, by head."""
        return tuple(
            tuple(_dot(g, value) for value in values)
            for g, values in zip(self.gradient, self.values, strict=True)
        )


Maps = tuple[Sequence[Fraction], Sequence[Fraction]]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A variant that is not the same map, and the smallest layer that shows it.

    `tried` cases were compared up to and with `case`; `below` are the sizes (heads, tokens,
    channels) that were searched in full and showed nothing.
    """

    name: str
    left: str
    right: str
    case: Case
    maps: Maps
    tried: int
    below: tuple[tuple[int, int, int], ...]

    @property
    def difference(self) -> Fraction:
        """Return the largest difference of the two maps, with its sign."""
        return max((a - b for a, b in zip(*self.maps, strict=True)), key=abs)


def per_head_rectified(case: Case) -> Maps:
    """Return (sum_h dS/dA^h)+ and sum_h (dS/dA^h)+."""
    heads = case.gradients
    after = [max(sum(column, Fraction(0)), Fraction(0)) for column in zip(*heads, strict=True)]
    before = [sum(max(x, Fraction(0)) for x in column) for column in zip(*heads, strict=True)]
    return after, [Fraction(x) for x in before]


def per_head_weight(case: Case) -> Maps:
    """Return the maps of one weight for all heads (their mean attention) and of each head's own."""
    count = len(case.weights)
    shared = [sum(column, Fraction(0)) / count for column in zip(*case.weights, strict=True)]
    slopes = [sum(column, Fraction(0)) for column in zip(*case.gradients, strict=True)]
    own = [
        sum((a * s for a, s in zip(weights, slopes, strict=True)), Fraction(0))
        for weights, slopes in zip(
            zip(*case.weights, strict=True), zip(*case.gradients, strict=True), strict=True
        )
    ]
    return [u * s for u, s in zip(shared, slopes, strict=True)], own


def through_softmax(case: Case) -> Maps:
    """Return sum_h dS/dA^h and sum_h dS/ds^h, where A is the softmax of the logits s.

    The Jacobian of softmax, diag(A) - A A', is rational in A.
    """
    by_logit = [
        [a * (slope - _dot(weights, slopes)) for a, slope in zip(weights, slopes, strict=True)]
        for weights, slopes in zip(case.weights, case.gradients, strict=True)
    ]
    return tuple(  # pyright: ignore[reportReturnType]
        [sum(column, Fraction(0)) for column in zip(*heads, strict=True)]
        for heads in (case.gradients, by_logit)
    )


VARIANTS: dict[str, tuple[str, str, Callable[[Case], Maps]]] = {
    "rectified per head": (
        r"\left(\sum_h \partial S/\partial A^h_i\right)_+",
        r"\sum_h \left(\partial S/\partial A^h_i\right)_+",
        per_head_rectified,
    ),
    "a spatial weight per head": (
        r"\left(\tfrac1H \sum_h A^h_i\right) \sum_h \partial S/\partial A^h_i",
        r"\sum_h A^h_i\, \partial S/\partial A^h_i",
        per_head_weight,
    ),
    "softmax differentiated through": (
        r"\sum_h \partial S/\partial A^h_i",
        r"\sum_h \partial S/\partial s^h_i",
        through_softmax,
    ),
}


def limits() -> tuple[Limit, ...]:
    """Return the smallest case of every variant."""
    return tuple(smallest(name) for name in VARIANTS)


@cache
def smallest(name: str) -> Limit:
    """Search for the first case on which the two sides of a variant differ.

    Raises `LookupError` where no layer within the bounds shows a difference.
    """
    left, right, sides = VARIANTS[name]
    tried, below = 0, []
    # Sizes in order, each in full: what is smaller than the result is known to show nothing.
    for size in sizes():
        for case in cases(size):
            tried += 1
            maps = sides(case)
            if list(maps[0]) != list(maps[1]):
                return Limit(
                    name=name,
                    left=left,
                    right=right,
                    case=case,
                    maps=maps,
                    tried=tried,
                    below=tuple(below),
                )
        below.append(size)
    raise LookupError(f"{name}: {tried} layers searched, no difference found")


def sizes() -> Iterator[tuple[int, int, int]]:
    """Few values v_ic first, then few channels and heads."""
    found = itertools.product(
        range(1, MOST_HEADS + 1), range(1, MOST_TOKENS + 1), range(1, MOST_CHANNELS + 1)
    )
    return iter(sorted(found, key=lambda n: (n[0] * n[1] * n[2], n[2], n[0])))


def cases(size: tuple[int, int, int]) -> Iterator[Case]:
    """All layers of a size: integers up to 1, then those that need a 2; small sums first."""
    heads, tokens, channels = size
    # Integers to choose: the gradient, and a value per token.
    count = heads * channels * (1 + tokens)
    for most in range(1, MOST + 1):
        numbers = sorted(
            itertools.product(range(-most, most + 1), repeat=count),
            key=lambda n: (sum(map(abs, n)), sum(x < 0 for x in n), n),
        )
        for each in numbers:
            if most > 1 and max(map(abs, each)) < most:
                continue  # tried before
            exact = [Fraction(x) for x in each]
            gradient = _deal(exact[: heads * channels], heads)
            values = tuple(_deal(part, tokens) for part in _deal(exact[heads * channels :], heads))
            for weights in itertools.product(stochastic(tokens), repeat=heads):
                yield Case(weights, gradient, values)


def stochastic(tokens: int) -> list[Vector]:
    """Rows of positive weights, as softmax gives, from integers 1 and 2."""
    raw = itertools.product((1, 2), repeat=tokens)
    rows = {tuple(Fraction(x, sum(each)) for x in each) for each in raw}
    return sorted(rows, key=lambda row: (max(row), row))


def _deal(numbers: Sequence[Fraction], parts: int) -> tuple[Vector, ...]:
    size = len(numbers) // parts
    return tuple(tuple(numbers[n * size : (n + 1) * size]) for n in range(parts))


def _dot(left: Vector, right: Vector) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))
