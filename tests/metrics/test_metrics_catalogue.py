"""What every metric of the catalogue keeps to; registering one is what gets it tested."""

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from heatproof import metrics
from heatproof.errors import InputError, UnknownName
from heatproof.metrics import Curve, Metric, Trial
from heatproof.metrics.base import Need
from heatproof.metrics.registry import register
from planted_trials import blinded, mapped, planted, worst

NAMES = list(metrics.catalogue())
# Settings that make a metric quick.
QUICK: dict[str, dict[str, Any]] = {
    "infidelity": {"samples": 12},
    "smooth-randomisation": {"samples": 4},
    "sensitivity-max": {"samples": 3},
}
CHANGES: dict[str, Any] = {
    "scale": lambda maps: maps * 3.7,
    "shift": lambda maps: maps + 0.6,
    "sign": lambda maps: -maps,
}


def quick(name: str) -> Metric:
    return metrics.create(name, **QUICK.get(name, {}))


def measured(name: str, trial: Trial) -> Tensor:
    return quick(name).measure(trial)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def opposite(name: str, trial: Trial) -> Trial:
    """What the metric must find worse than the planted trial."""
    return blinded(trial) if "explain" in metrics.catalogue()[name].needs else worst(trial)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(name: str) -> None:
    """Break: a card without a source; "hit" on the card of `Deletion`."""
    card = metrics.catalogue()[name]
    assert all((card.summary, card.formula, card.source, card.chance))
    assert card.better in ("higher", "lower", "neither")
    assert set(card.needs) == set(quick(name).needs) <= set(get_args(Need))
    assert card.bounds[0] < card.bounds[1]
    if {"score", "hit"} & set(card.needs):
        assert card.endpoints
        assert card.imputer
        assert card.space


@pytest.mark.parametrize("name", NAMES)
def test_one_value_an_item_within_the_bounds(name: str) -> None:
    """Break: `PixelAccuracy` without the division by the number of patches."""
    trial = planted()
    card = metrics.catalogue()[name]
    for each in (trial, opposite(name, trial)):
        found = measured(name, each)
        assert found.shape == (len(trial),)
        assert found.device.type == "cpu"
        assert found.is_floating_point()
        assert not found.isnan().any()
        assert bool(
            (found >= card.bounds[0] - 1e-9).all() and (found <= card.bounds[1] + 1e-9).all()
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_good_map_is_better_in_the_cards_direction(name: str) -> None:
    """Break: `better` of `SRG` turned round; `Insertion.direction` = "deletion"."""
    trial = planted()
    good, bad = measured(name, trial), measured(name, opposite(name, trial))
    match metrics.catalogue()[name].better:
        case "higher":
            assert bool((good > bad).all())
        case "lower":
            assert bool((good < bad).all())
        case "neither":
            assert name in ("entropy", "sparseness")


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_no_number_has_no_value_and_leaves_the_others_alone(name: str) -> None:
    """Break: `Removing.heights` without its `masked_fill`."""
    trial = planted()
    assert trial.words is not None
    assert trial.total is not None
    for wrong in (torch.nan, torch.inf):
        maps, words = trial.maps.clone(), trial.words.clone()
        maps[1, 2, 3] = wrong
        words[1, :] = wrong
        found = measured(name, replace(trial, maps=maps, words=words))
        expected = measured(name, trial)
        assert found[1].isnan()
        rest = [0, 2, 3, 4]
        close(found[rest], expected[rest])


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_change_a_value_and_bound_what_is_made(name: str) -> None:
    """Break: `rows.start` added to `within` twice; `scored` in one batch."""
    expected = measured(name, planted())
    for size in (1, 3, 7):
        trial = planted(batch_size=size)
        close(measured(name, trial), expected)
        assert trial.models is not None
        assert trial.models.most <= size  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_items_does_not_matter(name: str) -> None:
    """Break: `Trial.take` without `word_score`."""
    trial = planted()
    order = torch.tensor([3, 0, 4, 1])
    close(measured(name, trial.take(order)), measured(name, trial)[order])


CHANCE: dict[str, dict[str, Any]] = {
    "deletion": {"imputer": "noise"},
    "mif": {"imputer": "inpainting"},
    "infidelity": {"samples": 12},
    "sensitivity-max": {"samples": 3},
    "smooth-randomisation": {"samples": 4},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_again_and_others_of_another_seed_where_chance_enters(name: str) -> None:
    """Break: `noise`, or the sets of `Infidelity`, without their generator."""
    trial = planted()
    metric = metrics.create(name, **CHANCE.get(name, {}))
    torch.manual_seed(4)
    found = metric.measure(trial)
    torch.manual_seed(5)
    assert torch.equal(found, metric.measure(trial))
    if name in CHANCE:
        assert not torch.equal(found, metric.measure(replace(trial, seed=3)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", CHANGES)
def test_declared_invariances_hold_and_no_others(name: str, change: str) -> None:
    """Break: "shift" declared of `EnergyPointing`; or struck out of `Pointing`."""
    trial = planted()
    other = mapped(trial, CHANGES[change])
    found, expected = measured(name, other), measured(name, trial)
    if change in metrics.catalogue()[name].invariant:
        close(found, expected)
    else:
        assert not torch.allclose(found.double(), expected.double(), equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_that_lacks_a_need_is_refused_by_name(name: str) -> None:
    """Break: `Metric.measure` without its check."""
    trial = planted()
    for need in metrics.catalogue()[name].needs:
        with pytest.raises(InputError, match=rf"{name} needs {need}, which this trial does not"):
            measured(name, replace(trial, **{need: None}))


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_asks_for_no_more_than_it_says(name: str) -> None:
    """Break: `needs_of` without "levels"."""
    trial = planted()
    bare = {f.name: None for f in fields(Trial) if f.name in get_args(Need)}
    for setting in settings_of(name):
        metric = metrics.create(name, **{**QUICK.get(name, {}), **setting})
        had = {need: getattr(trial, need) for need in metric.needs}
        assert metric.measure(replace(trial, **{**bare, **had})).shape == (len(trial),)


def settings_of(name: str) -> list[dict[str, Any]]:
    """Each allowed value of each option on its own, where it can stand alone."""
    tried: list[dict[str, Any]] = [{}]
    for key, option in metrics.catalogue()[name].options.items():
        for value in option.allowed:
            setting = {key: value}
            if value == "tokens" and name not in ("completeness", "attribution-error"):
                setting |= {
                    k: v
                    for k, v in {"unit": "patches", "of": "score"}.items()
                    if name != "infidelity"
                }
            tried.append(setting)
    return tried


@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(quick(n), Curve)])
def test_a_curve_has_a_height_at_every_fraction(name: str) -> None:
    """Break: `Removing.fractions` without the first share."""
    metric, trial = quick(name), planted()
    assert isinstance(metric, Curve)
    at, heights = metric.fractions(trial), metric.curves(trial)
    assert heights.shape == (len(trial), len(at))
    assert 0 <= float(at[0]) < float(at[-1]) <= 1
    if name not in ("text-deletion", "model-randomisation", "smooth-randomisation"):
        area = torch.trapezoid(heights, at, dim=-1) / (at[-1] - at[0])
        close(metric.measure(trial), area)


def test_unknown_names_options_and_values_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean deletion"):
        metrics.create("delation")
    with pytest.raises(UnknownName, match="did you mean steps"):
        metrics.create("deletion", step=3)
    with pytest.raises(UnknownName, match="unknown value of deletion's imputer"):
        metrics.create("deletion", imputer="grey")
    with pytest.raises(InputError, match="got steps='many' for deletion, expected a whole number"):
        metrics.create("deletion", steps="many")
    with pytest.raises(InputError, match="metric pointing has no options"):
        metrics.create("pointing", steps=3)
    assert metrics.create("deletion", steps="5").settings()["steps"] == 5


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two metrics are called 'pointing'"):
        register(metrics.Pointing)
