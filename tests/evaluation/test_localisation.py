"""Localisation metrics: planted truths, slow twins, peers."""

import itertools

import pytest
import torch
from torch import Tensor

from heatproof.evaluation import localisation
from heatproof.evaluation.localisation import (
    average_precision,
    chance_of_choice,
    choice,
    coverage,
    energy,
    pointing,
)
from heatproof.models.geometry import PhotoView

METRICS = [pointing, energy, average_precision]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def case(images: int = 3, prompts: int = 2) -> tuple[Tensor, Tensor]:
    """Maps with ties and negative values, masks that cover patches in part, on a grid of 5 x 7."""
    maps = torch.randn(images, prompts, 5, 7, generator=generator()).mul(2).round() / 2
    cover = torch.rand(images, prompts, 5, 7, generator=generator())
    return maps, cover * (cover > 0.6)


# --- masks on the grid ------------------------------------------------------------------------


def test_coverage_is_the_mean_of_the_mask_under_each_patch() -> None:
    mask = torch.rand(3, 10, 21, generator=generator()) > 0.5
    found = coverage(
        mask, PhotoView(width=21, height=10, left=0.0, top=0.0, right=21.0, bottom=10.0), (5, 7)
    )
    slow = mask.float().unflatten(1, (5, 2)).unflatten(3, (7, 3)).mean((2, 4))
    torch.testing.assert_close(found, slow)


def test_coverage_knows_the_crop_and_fractions_of_pixels() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :, 1] = True
    found = coverage(
        mask, PhotoView(width=4, height=4, left=0.5, top=0.0, right=3.5, bottom=4.0), (1, 2)
    )
    torch.testing.assert_close(found[0], torch.tensor([[1 / 1.5, 0.0]]))


def test_what_lies_beyond_the_photograph_is_covered_by_nothing() -> None:
    found = coverage(
        torch.ones(1, 4, 4, dtype=torch.bool),
        PhotoView(width=4, height=4, left=-4.0, top=0.0, right=4.0, bottom=4.0),
        (1, 2),
    )
    assert found[0].tolist() == [[0.0, 1.0]]


# --- planted best, worst and chance -----------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_the_mask_itself_is_the_best_map_and_its_negative_the_worst(metric) -> None:
    cover = (torch.rand(4, 2, 5, 7, generator=generator()) > 0.7).float()
    assert metric(cover, cover).tolist() == [[1.0, 1.0]] * 4
    if metric is average_precision:
        assert (metric(-cover, cover) < cover.mean((2, 3)) + 1e-6).all()
    else:
        assert (metric(1 - cover, cover) == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_map_gets_the_share_of_the_mask(metric) -> None:
    _, cover = case()
    found = metric(torch.full_like(cover, 3.0), cover)
    torch.testing.assert_close(found, cover.mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_the_scale_of_a_map_does_not_count(metric) -> None:
    maps, cover = case()
    torch.testing.assert_close(metric(maps * 4, cover), metric(maps, cover), equal_nan=True)


@pytest.mark.parametrize("metric", METRICS)
def test_each_pair_is_judged_by_itself(metric) -> None:
    maps, cover = case()
    together = metric(maps, cover)
    for i, p in itertools.product(range(3), range(2)):
        alone = metric(maps[i : i + 1, p : p + 1], cover[i : i + 1, p : p + 1])
        torch.testing.assert_close(alone[0, 0], together[i, p], equal_nan=True)


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_mask_or_a_broken_map_gives_no_number(metric) -> None:
    maps, cover = case(2, 1)
    cover[0] = 0
    maps[1, 0, 2, 2] = torch.nan
    assert metric(maps, cover).isnan().all()


def test_no_positive_heat_gives_no_energy() -> None:
    assert energy(-torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).isnan().all()


# --- slow twins -------------------------------------------------------------------------------


def slow_pointing(heat: list[float], cover: list[float]) -> float:
    hits = [c for h, c in zip(heat, cover, strict=True) if h == max(heat)]
    return sum(hits) / len(hits)


def slow_energy(heat: list[float], cover: list[float]) -> float:
    return sum(max(h, 0) * c for h, c in zip(heat, cover, strict=True)) / sum(
        max(h, 0) for h in heat
    )


def slow_average_precision(heat: list[float], cover: list[float]) -> float:
    area = recall = 0.0
    for threshold in sorted(set(heat), reverse=True):
        chosen = [c for h, c in zip(heat, cover, strict=True) if h >= threshold]
        now = sum(chosen) / sum(cover)
        area += (now - recall) * sum(chosen) / len(chosen)
        recall = now
    return area


SLOW = {pointing: slow_pointing, energy: slow_energy, average_precision: slow_average_precision}


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_their_slow_twins(metric) -> None:
    maps, cover = case(20)
    found = metric(maps, cover)
    for i, p in itertools.product(range(20), range(2)):
        slow = SLOW[metric](maps[i, p].flatten().tolist(), cover[i, p].flatten().tolist())
        assert float(found[i, p]) == pytest.approx(slow, abs=1e-6)


# --- choice -----------------------------------------------------------------------------------


def three_objects() -> tuple[Tensor, Tensor]:
    """Objects in three rows of a grid of 4 x 2, the third one covered from sight."""
    objects = torch.zeros(1, 4, 4, 2)
    for k in (0, 1, 3):
        objects[0, k, k] = 1.0
    named = torch.eye(4, dtype=torch.bool)[None]
    return objects, named


def test_choice_goes_to_the_object_of_highest_mean_heat() -> None:
    objects, named = three_objects()
    objects[0, 1, 1, 1] = 0  # a smaller object, less heat in all, more on average
    maps = torch.zeros(1, 4, 4, 2)
    maps[0, :, 0], maps[0, :, 1, 0] = 2.0, 3.0
    assert choice(maps, objects, named)[0].nan_to_num(-1).tolist() == [0, 1, -1, 0]


def test_objects_that_tie_share() -> None:
    objects, named = three_objects()
    found = choice(torch.ones(1, 4, 4, 2), objects, named)
    torch.testing.assert_close(found, chance_of_choice(objects, named), equal_nan=True)
    assert found[0, 0] == pytest.approx(1 / 3)


def test_two_named_objects_count_both() -> None:
    objects, named = three_objects()
    named[0, 0, 1] = True
    maps = torch.zeros(1, 4, 4, 2)
    maps[0, 0, 1] = 1.0
    assert choice(maps, objects, named)[0, 0] == 1
    assert chance_of_choice(objects, named)[0, 0] == pytest.approx(2 / 3)


def test_a_map_that_knows_no_prompt_has_chance_in_choice() -> None:
    """Over all namings of the same objects, whatever the map: exactly."""
    objects, named = three_objects()
    maps = torch.randn(1, 1, 4, 2, generator=generator()).expand(1, 4, 4, 2)
    gain = choice(maps, objects, named) - chance_of_choice(objects, named)
    assert float(gain.nansum()) == pytest.approx(0, abs=1e-6)


def test_a_map_without_numbers_chooses_nothing() -> None:
    objects, named = three_objects()
    assert choice(torch.full((1, 4, 4, 2), torch.inf), objects, named).isnan().all()


def test_every_metric_is_in_the_card() -> None:
    assert localisation.__doc__
    for metric in (*METRICS, choice):
        assert f"`{metric.__name__}`" in localisation.__doc__
