"""Two methods compared in exact arithmetic over random small networks: equal means `==`."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from heatproof.methods.base import Method, Side
from heatproof.proofs.algebra import rational
from heatproof.proofs.algebra.forms import Facts, Form, evaluate, form_of
from heatproof.proofs.algebra.rational import Network, Route

SIZES = ((1, 2, 1), (2, 2, 1), (1, 3, 2), (2, 2, 2), (3, 2, 1), (2, 3, 1))
"""(heads, tokens, channels a head), the smallest first."""
DRAWS = 3


@dataclass(frozen=True)
class ExactDifference:
    """Two maps that differ, in full: the network, the methods, the place, the fractions."""

    network: Network
    methods: tuple[Method, Method]
    token: int
    maps: tuple[tuple[Fraction, ...], tuple[Fraction, ...]]

    @property
    def length(self) -> tuple[int, int, int, int]:
        """Order by size: heads, tokens, channels a head, then digits of the difference."""
        return (*self.network.size, len(str(self.difference)))

    @property
    def difference(self) -> Fraction:
        """Return the first map minus the second at `token`."""
        return self.maps[0][self.token] - self.maps[1][self.token]


@dataclass
class ExactRun:
    """Counts of one comparison. `by_heads`: number of heads -> maps compared, maps that differ.

    `zeros` counts compared maps that were zero on both sides, which say nothing.
    """

    networks: int
    settings: int
    zeros: int = 0
    by_heads: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    smallest: ExactDifference | None = None

    @property
    def compared(self) -> int:
        """Count the maps compared, over all numbers of heads."""
        return sum(compared for compared, _ in self.by_heads.values())

    @property
    def differing(self) -> int:
        """Count the pairs of maps that differ."""
        return sum(differing for _, differing in self.by_heads.values())

    @property
    def equal(self) -> bool:
        """True where no pair differs and some map is not zero: zeros alone establish nothing."""
        return self.compared > self.zeros and self.differing == 0


def networks(seed: int = 0) -> Iterator[Network]:
    """Yield random networks of every size and side, read out at one row and as a mean."""
    sides: tuple[Side, ...] = ("image", "text")
    for (heads, tokens, channels), draw, side in itertools.product(SIZES, range(DRAWS), sides):
        row = 0 if side == "image" else tokens - 1
        for readout in (row, None):
            # Seeds of different runs do not overlap.
            chance = seed * DRAWS + draw
            yield rational.random_network(chance, heads, tokens, channels, side, readout)


def compare(pairs: Sequence[tuple[Method, Method]], seed: int = 0) -> ExactRun | None:
    """Compare each pair of methods (one per setting) on every network, without tolerance.

    Settings that ask for more layers than a network's two are left out. Return None where a method
    has no form.
    """
    forms = [(form_of(one), form_of(other)) for one, other in pairs]
    drawn = list(networks(seed))
    run = ExactRun(len(drawn), len(pairs))
    for network in drawn:
        known = _Known(network)
        for pair, (one, other) in zip(pairs, forms, strict=True):
            if one is None or other is None:
                return None
            # None: the form asks for more layers than the network has.
            left, right = known.map(one), known.map(other)
            if left is None or right is None:
                continue
            compared, differing = run.by_heads.get(network.heads, (0, 0))
            # Two zero maps agree trivially: they are counted apart.
            run.zeros += not any(left) and not any(right)
            run.by_heads[network.heads] = (compared + 1, differing + (left != right))
            if left != right:
                token = next(n for n, x in enumerate(left) if x != right[n])
                found = ExactDifference(network, pair, token, (left, right))
                # The smallest counterexample is the one that a reader can check by hand.
                if run.smallest is None or found.length < run.smallest.length:
                    run.smallest = found
    return run


def exact_map(network: Network, form: Form) -> tuple[Fraction, ...] | None:
    """Return the form's map on a network; None where it asks for more layers than there are."""
    return _Known(network).map(form)


class _Known:
    """The facts of one network, each derived once: settings share them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._facts: dict[tuple[int, int, Route], Facts] = {}

    def map(self, form: Form) -> tuple[Fraction, ...] | None:
        calls = len(self.network.layers)
        depth = form.depth(self.network.side, calls)
        if depth is None:
            return None
        ones = depth if form.heads == "one" else 0
        facts = [self._facts_of(layer, ones, form.route) for layer in range(calls - depth, calls)]
        return tuple(Fraction(x) for x in evaluate(form, facts, lambda x: max(x, Fraction(0))))

    def _facts_of(
        self, layer: int, ones: int, route: Literal["channels", "weights", "none"]
    ) -> Facts:
        # Without a channel sum either route serves; the cheaper one is taken.
        known: Route = "weights" if route == "none" else route
        key = (layer, ones, known)
        if key not in self._facts:
            self._facts[key] = rational.facts(self.network, layer, ones, known)
        return self._facts[key]
