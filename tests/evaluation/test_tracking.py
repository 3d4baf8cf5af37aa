"""F of planted courses: 1 for the cause, 0 for what stays; gates where nothing can be said."""

import math

import pytest
import torch

from heatproof import statistics
from heatproof.evaluation.tracking import d_prime, track
from heatproof.statistics import Interval

IMAGES = 400
FALLING = (0.95, 0.85, 0.7, 0.55)


def course(shares: tuple[float, ...], seed: int) -> torch.Tensor:
    """Wins of 0 or 1 by rung and image, with these shares; images keep their luck over rungs."""
    luck = torch.rand(IMAGES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (luck[None] < torch.tensor(shares)[:, None]).double()


def test_the_cause_on_other_images_is_in_step_and_a_fixed_map_is_unmoved() -> None:
    """Break: divide by the last rung's d' in place of the first one's."""
    cause = course(FALLING, 0)
    step = track(cause, course(FALLING, 1))
    assert step.step == "follows"
    assert step.following.low < 1 < step.following.high
    assert step.following.value == pytest.approx(1, abs=0.25)
    fixed = track(cause, course((0.8,) * 4, 2))
    assert fixed.step == "unmoved"
    assert fixed.following.value == 0
    assert fixed.quality_kept == (1, 1, 1, 1)


def test_the_level_of_a_map_does_not_matter() -> None:
    """A map of half the cause's d' that falls in proportion has F = 1 (break: no division)."""
    half = [float(torch.special.ndtr(torch.special.ndtri(torch.tensor(s)) / 2)) for s in FALLING]
    found = track(course(FALLING, 0), course(tuple(half), 1))
    assert found.following.value == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize(
    ("cause", "quality", "why"),
    [
        (FALLING, (0.5,) * 4, "the map does not find"),
        ((0.5,) * 4, FALLING, "does not go by the named object"),
        ((0.95, 0.94, 0.93, 0.92), FALLING, "too much for a test"),
    ],
)
def test_what_cannot_be_asked_is_not(
    cause: tuple[float, ...], quality: tuple[float, ...], why: str
) -> None:
    found = track(course(cause, 0), course(quality, 1))
    assert found.step == "not asked"
    assert why in found.why_not
    assert math.isnan(found.following.value)


def test_few_images_give_no_verdict_and_images_without_a_pair_are_left_out() -> None:
    cause, quality = course(FALLING, 0), course((0.8,) * 4, 2)
    assert track(cause[:, :90], quality[:, :90]).step == "cannot tell"
    quality[2, :50] = torch.nan
    assert track(cause, quality).following.count == IMAGES - 50


def test_one_rung_that_makes_the_slope_is_shown() -> None:
    """All of the fall at the first rung: F without it is 0."""
    found = track(course(FALLING, 0), course((0.9, 0.6, 0.6, 0.6), 1))
    assert found.following.value > 0.5
    assert found.without_first.value == pytest.approx(0, abs=1e-9)


def test_d_prime_is_by_hand_and_clipped() -> None:
    values = d_prime(torch.tensor([0.5, 0.841344746, 1.0]), 100)
    assert values[:2].tolist() == pytest.approx([0, math.sqrt(2)], abs=1e-6)
    assert float(values[2]) == pytest.approx(math.sqrt(2) * 2.5758293, abs=1e-5)


def interval(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach, 100)


def test_models_are_combined_by_random_effects() -> None:
    """Equal estimates: t of k - 1, no narrower than the weights say; far ones widen it."""
    equal = statistics.combined([interval(1.0, 0.2)] * 3)
    own = 0.2 / 1.959964
    assert equal.value == pytest.approx(1)
    assert equal.high - 1 == pytest.approx(4.302653 * own / math.sqrt(3), rel=1e-5)
    apart = statistics.combined([interval(v, 0.2) for v in (0.0, 1.0, 2.0)])
    # Between 0, 1 and 2 the standard deviation is 1, whatever each one's own.
    assert apart.high - apart.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-3)
    assert statistics.combined([interval(1.0, 0.2)]).low == 0.8
    assert statistics.combined([]).count == 0
