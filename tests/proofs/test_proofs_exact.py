"""Networks of fractions: derivatives against a second way, routes against each other, limits."""

import itertools
from fractions import Fraction
from typing import Any

import pytest

from heatproof import methods
from heatproof.methods import Method
from heatproof.proofs.algebra import exact, limits, rational
from heatproof.proofs.algebra.rational import Dual, Network, Nudge


def all_settings(name: str) -> list[Method]:
    options = methods.catalogue()[name].options
    values = [option.allowed or (None, 1, 2) for option in options.values()]
    return [
        methods.create(name, **dict(zip(options, chosen, strict=True)))
        for chosen in itertools.product(*values)
    ]


ECLIP = list(zip(all_settings("grad-eclip"), all_settings("attention-eclip"), strict=True))


def test_duals_carry_the_derivative_of_a_rational_function() -> None:
    """d/dx (x^2 + 3) / (2 x) at 2 is (x^2 - 3) / (2 x^2) = 1/8."""
    x = Dual(Fraction(2), 1)
    found = (x * x + 3) / (2 * x)
    assert (found.value, found.slope) == (Fraction(7, 4), Fraction(1, 8))
    assert (1 / x).slope == Fraction(-1, 4)


NETWORKS = [
    rational.random_network(7, heads, 3, 2, side, row)
    for heads in (1, 2)
    for side, row in (("image", 0), ("image", None), ("text", 2))
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("ones", [0, 1, 2])
def test_slopes_are_the_limit_of_exact_quotients(network: Network, ones: int) -> None:
    """Central quotients of fractions, so that all that is left is the step's own square."""
    for layer, kind in itertools.product((0, 1), ("channels", "weights")):
        nudge = Nudge(kind, layer, network.rows[0], 0, 1)
        errors = [
            abs(quotient(network, nudge, ones, step) - network.slope(nudge, ones))
            for step in (Fraction(1, 10**4), Fraction(1, 10**6))
        ]
        assert errors[1] <= errors[0] / 9000 or errors[1] == 0


def quotient(network: Network, nudge: Nudge, ones: int, step: Fraction) -> Fraction:
    up, down = (moved(network, nudge, ones, way) for way in (step, -step))
    return (up - down) / (2 * step)


def moved(network: Network, nudge: Nudge, ones: int, step: Fraction) -> Fraction:
    """The score with one quantity moved, written once more without any dual number."""
    state = [[Fraction(x) for x in token] for token in network.tokens]
    for number, parts in enumerate(network.layers):
        heads = 1 if number >= len(network.layers) - ones else network.heads
        width = len(state[0]) // heads
        q, k, v = (
            [[sum(w * x for w, x in zip(row, token)) for row in matrix] for token in state]  # noqa: B905
            for matrix in (parts.query, parts.key, parts.value)
        )
        out = []
        for r in range(len(state)):
            o: list[Fraction] = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                last = r + 1 if network.side == "text" else len(state)
                raw = [
                    1 + sum(a * b for a, b in zip(q[r][part], k[j][part], strict=True)) ** 2
                    for j in range(last)
                ]
                weights = [x / sum(raw) for x in raw] + [Fraction(0)] * (len(state) - last)
                here = (nudge.layer, nudge.row, nudge.head) == (number, r, head)
                if here and nudge.kind == "weights":
                    weights[nudge.index] += step
                o += [
                    sum(weights[j] * v[j][c] for j in range(len(state)))
                    for c in range(part.start, part.stop)
                ]
                if here and nudge.kind == "channels":
                    o[part.start + nudge.index] += step
            moved = [sum(w * x for w, x in zip(row, o)) for row in parts.output]  # noqa: B905
            out.append([x + y + b for x, y, b in zip(state[r], moved, parts.bias, strict=True)])
        state = out
    rows = [state[row] for row in network.rows]
    z = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    a, b, c = network.score
    over = sum(p * x + s * x * x for p, s, x in zip(a, b, z, strict=True))
    return over / (1 + sum(w * x * x for w, x in zip(c, z, strict=True)))


def test_weights_are_row_stochastic_and_causal() -> None:
    network = rational.random_network(1, 2, 3, 2, "text", 2)
    weights, _ = network.attend(network.state(1, 0), 1, 2)
    for head in weights:
        assert [sum(row) for row in head] == [1, 1, 1]
        assert head[0][1:] == [0, 0]


# --- comparing -------------------------------------------------------------------------------


def test_the_two_routes_are_equal_for_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "DRAWS", 1)
    run = exact.compare(ECLIP)
    assert run is not None
    assert (run.settings, run.differing) == (108, 0)
    assert run.compared == 108 * 24
    assert run.zeros < run.compared / 4
    assert run.equal


@pytest.mark.parametrize("route", ["by_weights", "by_channels"])
def test_a_perturbed_route_is_refuted(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    """One part in 10^40, where no float would notice."""
    true = getattr(rational, route)

    def perturbed(*given: Any) -> Any:
        sums = [[list(row) for row in rows] for rows in true(*given)]
        sums[0][0][0] += Fraction(1, 10**40)
        return sums

    monkeypatch.setattr(exact, "DRAWS", 1)
    monkeypatch.setattr(exact, "SIZES", exact.SIZES[:2])
    monkeypatch.setattr(rational, route, perturbed)
    run = exact.compare(ECLIP)
    assert run is not None
    assert run.differing > 0
    assert not run.equal


def test_the_routes_share_no_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route 1 nudges channels alone, route 2 weights alone."""
    asked: set[str] = set()
    slope = Network.slope

    def spied(self: Network, nudge: Nudge, ones: int) -> Fraction:
        asked.add(nudge.kind)
        return slope(self, nudge, ones)

    monkeypatch.setattr(Network, "slope", spied)
    for route in ("channels", "weights"):
        asked.clear()
        rational.facts(NETWORKS[0], 1, 0, route)
        assert asked == {route}


def test_one_head_is_equal_and_several_are_not() -> None:
    """The published spatial weight is the mean over heads; attention-x-gradient's is each's own."""
    one = methods.create("grad-eclip", heads="model", spatial="attention", layers=1)
    run = exact.compare([(one, methods.create("attention-x-gradient"))])
    assert run is not None
    assert run.by_heads[1] == (24, 0)
    assert run.by_heads[2][1] > 30
    assert run.smallest is not None
    assert run.smallest.network.size == (2, 2, 1)
    assert run.smallest.difference != 0


def test_another_seed_draws_other_networks() -> None:
    assert list(exact.networks(0)) == list(exact.networks(0))
    assert not set(map(str, exact.networks(0))) & set(map(str, exact.networks(1)))


def test_methods_without_a_form_are_not_compared() -> None:
    assert exact.compare([(methods.create("gae"), methods.create("grad-eclip"))]) is None


# --- limits ----------------------------------------------------------------------------------


def test_the_smallest_counterexamples() -> None:
    found = {limit.name: limit for limit in limits.limits()}
    assert {name: limit.case.size for name, limit in found.items()} == {
        "rectified per head": (2, 1, 1),
        "a spatial weight per head": (2, 2, 1),
        "softmax differentiated through": (1, 1, 1),
    }
    for name, limit in found.items():
        one, other = limits.VARIANTS[name][2](limit.case)
        assert list(one) != list(other)
        assert limit.difference != 0


def test_sizes_below_a_limit_show_nothing() -> None:
    """Searched once more, in another order."""
    for limit in limits.limits():
        sides = limits.VARIANTS[limit.name][2]
        for size in limit.below:
            for case in reversed(list(limits.cases(size))):
                one, other = sides(case)
                assert list(one) == list(other)


def test_one_head_never_breaks_the_first_two() -> None:
    for sides in (limits.per_head_rectified, limits.per_head_weight):
        for case in limits.cases((1, 2, 1)):
            one, other = sides(case)
            assert list(one) == list(other)


def test_a_search_that_finds_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"nothing": ("", "", lambda _: ([Fraction(1)], [Fraction(1)]))}
    monkeypatch.setattr(limits, "VARIANTS", same)
    monkeypatch.setattr(limits, "sizes", lambda: iter([(1, 1, 1), (1, 2, 1)]))
    with pytest.raises(LookupError, match=r"nothing: .* layers searched, no difference found"):
        limits.smallest("nothing")
