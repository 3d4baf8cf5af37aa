"""Intervals, ranks and tests: values by hand, scipy's, and what they cover.

Coverage itself, of many kinds of values from 2 units to 500, is `benchmarks/coverage.py`'s; a short
version of it runs here.
"""

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from heatproof import statistics
from heatproof.statistics import Interval

SHARE = statistics.SHARE


def generator(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (3, 11), (170, 200), (5, 5), (1, 2), (1, 50)])
def test_wilson_is_scipys_with_continuity_correction(hits: int, count: int) -> None:
    """Break: the score interval without the correction."""
    theirs = stats.binomtest(hits, count).proportion_ci(method="wilsoncc")
    found = statistics.wilson(hits, count)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_covers_every_share_from_two_units_to_fifty() -> None:
    """Exactly, by the binomial: without correction it falls to 83 %."""
    shares = torch.linspace(0.01, 0.99, 99, dtype=torch.float64).numpy()
    for count in (2, 3, 5, 8, 20, 50):
        ends = [statistics.wilson(hits, count) for hits in range(count + 1)]
        covered = sum(
            stats.binom.pmf(hits, count, shares) * ((each.low <= shares) & (shares <= each.high))
            for hits, each in enumerate(ends)
        )
        assert covered.min() >= 0.95


def test_nothing_seen_is_nothing_known() -> None:
    nothing = statistics.wilson(0, 0)
    assert (nothing.low, nothing.high, nothing.plain["value"]) == (0, 1, None)
    assert statistics.mean(torch.full((3,), torch.nan)).count == 0


# --- means --------------------------------------------------------------------------------------


def test_the_interval_of_symmetric_values_is_students() -> None:
    sample = torch.linspace(-1, 2, 25, dtype=torch.float64)
    found = statistics.mean(sample)
    theirs = stats.ttest_1samp(sample.numpy(), 0)
    ends = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-9)


def test_a_long_tail_moves_the_end_on_its_side() -> None:
    """Hall's transformation, by its own equation: at the end it gives the quantile of t."""
    sample = -torch.log(torch.rand(40, generator=generator(), dtype=torch.float64))
    found = statistics.mean(sample)
    plain = stats.ttest_1samp(sample.numpy(), 0).confidence_interval(0.95)
    assert found.low == pytest.approx(plain.low, abs=1e-9)
    assert found.high > plain.high
    a = statistics.SKEW * stats.skew(sample.numpy(), bias=False) / (6 * math.sqrt(40))
    at = (float(sample.mean()) - found.high) / (float(sample.std()) / math.sqrt(40))
    assert at + 2 * a * at**2 + 4 / 3 * a**2 * at**3 + a == pytest.approx(-stats.t.isf(0.025, 39))


def test_few_units_reach_further() -> None:
    """Below ten units t is that of a fifth of the tails."""
    sample = torch.tensor([1.0, 2.0, 3.0])
    half = stats.t.isf(0.005, 2) / math.sqrt(3)
    found = statistics.mean(sample)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_equal_values_are_no_certainty(count: int) -> None:
    """Break: the bootstrap, whose interval of equal values has no width."""
    hits = statistics.mean(torch.ones(count), bounds=SHARE)
    assert hits.high == 1
    assert hits.low == pytest.approx(statistics.wilson(count, count).low)
    assert hits.low < 0.7
    same = statistics.mean(torch.full((count,), 0.5))
    assert same.high == pytest.approx(1 - same.low)
    assert same.low == pytest.approx(0.5 - statistics.wilson(0, count).high)
    free = statistics.mean(torch.zeros(count))
    assert (free.value, free.low, free.high) == (0, -math.inf, math.inf)
    assert free.p == 1
    assert str(free) == "0.000 [no interval]"
    assert (free.plain["low"], free.plain["high"]) == (None, None)


def test_a_mean_of_zeros_and_ones_is_a_share() -> None:
    values = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    found, share = statistics.mean(values, bounds=SHARE), statistics.wilson(7, 11)
    assert (found.low, found.high) == pytest.approx((share.low, share.high))


def test_differences_of_zeros_and_ones_are_mcnemars() -> None:
    """Eight pairs of twenty differ, seven of them one way."""
    one = torch.tensor([1.0] * 7 + [0] + [1] * 12)
    other = torch.tensor([0.0] * 7 + [1] + [1] * 12)
    found = statistics.paired(one, other, bounds=SHARE)
    assert found.value == pytest.approx(0.3)
    assert found.p == pytest.approx(stats.binomtest(7, 8).pvalue)
    assert found.p == pytest.approx(18 / 256)
    up, down = statistics.wilson(7, 20), statistics.wilson(1, 20)
    a, b = 0.35 - up.low, down.high - 0.05
    correlation = -math.sqrt(0.35 * 0.05 / (0.65 * 0.95))
    assert found.low == pytest.approx(0.3 - math.sqrt(a * a + b * b - 2 * correlation * a * b))


def test_mostly_equal_values_are_held_to_their_bounds() -> None:
    """Of 30 values 28 are 0: two others tell little of how large others are."""
    values = torch.tensor([0.0] * 28 + [0.1, 0.2])
    free, bound = statistics.mean(values), statistics.mean(values, bounds=SHARE)
    assert free.low == -math.inf
    assert bound.low == 0
    assert bound.high == pytest.approx(statistics.wilson(0.3, 30).high)


def test_pairs_take_out_what_they_share() -> None:
    shared = 10 * torch.randn(100, generator=generator())
    noise = 0.1 * torch.randn(100, generator=generator(3))
    found = statistics.paired(shared + 1 + noise, shared)
    assert found.low < 1 < found.high
    assert found.high - found.low < 0.1


def test_units_without_a_number_are_left_out_of_each_column_alone() -> None:
    columns = torch.tensor([[1.0, 5.0], [torch.nan, 6.0], [3.0, 8.0]])
    first, second = statistics.means(columns)
    assert (first.value, first.count, second.count) == (2.0, 2, 3)
    assert second == statistics.mean(columns[:, 1])


def test_the_test_and_the_interval_agree() -> None:
    """An interval excludes 0 just where p is below 5 %."""
    for seed in range(60):
        sample = torch.rand(12, generator=generator(seed)).square() - 0.2
        found = statistics.mean(sample)
        assert (found.p <= 0.05) == (found.low > 0 or found.high < 0)


# --- what they cover: a short version of benchmarks/coverage.py -----------------------------------

KINDS = {
    "normal": (lambda n, g: torch.randn(n, generator=g, dtype=torch.float64), 0.0, None),
    "skewed": (lambda n, g: -torch.rand(n, generator=g, dtype=torch.float64).log(), 1.0, None),
    "0/1": (lambda n, g: (torch.rand(n, generator=g) < 0.8).double(), 0.8, SHARE),
    "mixed": (
        lambda n, g: torch.rand(n, generator=g).double() * (torch.rand(n, generator=g) < 0.3),
        0.15,
        SHARE,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 5, 8, 20, 50])
def test_intervals_cover(kind: str, count: int) -> None:
    """The percentile bootstrap covers half at two units, 90 % at eight."""
    draw, truth, bounds = KINDS[kind]
    columns = torch.stack([draw(count, generator(seed)) for seed in range(400)], 1)
    found = statistics.means(columns, bounds=bounds)
    inside = sum(each.low <= truth <= each.high for each in found) / len(found)
    assert inside >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) + 0.01


# --- other statistics -----------------------------------------------------------------------------


def test_the_jackknife_of_a_mean_is_the_mean() -> None:
    sample = torch.rand(30, generator=generator(), dtype=torch.float64).square()
    found = statistics.jackknife(lambda rows: sample[rows].mean(1), 30)
    plain = statistics.mean(sample)
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.value, plain.low, plain.high), abs=1e-9
    )
    assert statistics.jackknife(lambda rows: sample[rows].mean(1), 1).low == -math.inf


def test_the_jackknife_of_a_ratio_covers_it() -> None:
    inside = 0
    for seed in range(200):
        top, bottom = torch.rand(2, 25, generator=generator(seed), dtype=torch.float64)

        def ratio(rows: Tensor, top: Tensor = top, bottom: Tensor = bottom + 1) -> Tensor:
            return top[rows].sum(1) / bottom[rows].sum(1)

        found = statistics.jackknife(ratio, 25)
        inside += found.low <= 1 / 3 <= found.high
    assert inside >= 184


def test_the_bootstrap_needs_some_units_and_gives_the_same_again() -> None:
    sample = torch.rand(30, generator=generator())

    def mean(rows: Tensor) -> Tensor:
        return sample[rows].mean(1)

    found = statistics.bootstrap(mean, 30, seed=4)
    assert found == statistics.bootstrap(mean, 30, seed=4)
    assert found != statistics.bootstrap(mean, 30, seed=5)
    assert found.low < found.value < found.high
    assert statistics.bootstrap(mean, 9).low == -math.inf


# --- ranks and tests ------------------------------------------------------------------------------


def test_rank_correlations_are_scipys_ties_included() -> None:
    chance = random.Random(2)
    x = torch.tensor([[float(chance.randint(0, 9)) for _ in range(50)] for _ in range(3)])
    y = x + torch.tensor([float(chance.randint(0, 9)) for _ in range(50)])
    for ours, theirs in (
        (statistics.spearman(x, y), stats.spearmanr),
        (statistics.kendall(x, y), stats.kendalltau),
    ):
        expected = [
            float(theirs(a.numpy(), b.numpy()).statistic) for a, b in zip(x, y, strict=True)
        ]
        assert ours.tolist() == pytest.approx(expected, abs=1e-12)


def test_there_is_one_kendall_and_it_is_tau_b() -> None:
    """Four of six pairs agree, two are tied on one side: tau-a is 0.667."""
    x, y = torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 1, 2, 2])
    assert float(statistics.kendall(x, y)) == pytest.approx(4 / math.sqrt(6 * 4))


def test_a_constant_has_no_rank_correlation() -> None:
    line = torch.arange(5.0)
    assert statistics.spearman(torch.ones(5), line).isnan()
    assert statistics.kendall(torch.ones(5), line).isnan()
    assert statistics.ranks(torch.tensor([3.0, 1, 3])).tolist() == [2.5, 1, 2.5]


def test_a_split_of_fair_coins() -> None:
    assert statistics.sign_test(0, 5) == pytest.approx(2 / 32)
    assert statistics.sign_test(3, 3) == 1
    assert statistics.sign_test(0, 0) == 1


def test_holm_by_hand() -> None:
    """Holm's own step-down: .01 x 3, .02 x 2, .03 x 1, each at least as large as the one before."""
    found = statistics.holm([0.03, 0.01, math.nan, 0.02])
    assert [found[n] for n in (0, 1, 3)] == pytest.approx([0.04, 0.03, 0.04])
    assert math.isnan(found[2])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([0.01, 0.02], family=10) == pytest.approx([0.1, 0.18])


def test_an_interval_as_text() -> None:
    assert str(Interval(-0.0001, -0.2, 0.25, 9)) == "0.000 [-0.200, 0.250]"


@pytest.mark.parametrize("line", ["import heatproof", "import heatproof.cli.main"])
def test_scipy_is_not_imported_before_it_is_needed(line: str) -> None:
    code = f"import sys; {line}; raise SystemExit('scipy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_a_value_that_rounding_took_beyond_its_bounds_is_at_the_bound() -> None:
    """Break: no clamp: the interval of cosines of 1.0000001 has the root of a negative number."""
    found = statistics.mean(torch.tensor([1.0000001] * 8), bounds=(-1, 1))
    assert (found.value, found.high) == (1, 1)
    assert found.low < 1
