"""Metrics of maps and masks alone: where the answer is known, and scikit-learn's on pixels."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from heatproof import metrics
from heatproof.errors import InputError
from heatproof.metrics import Trial
from planted_trials import CELLS, COLS, PATCH, ROWS, SIZE, planted

MASKED = ("pointing", "energy-pointing", "pixel-accuracy", "mean-iou", "segmentation-ap",
          "average-precision")  # fmt: skip


def measured(name: str, trial: Trial, **settings: Any) -> Tensor:
    return metrics.create(name, **settings).measure(trial).double()


def with_maps(maps: Tensor, **changed: Any) -> Trial:
    return replace(planted(len(maps)), maps=maps, **changed)


def rough(items: int = 5, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, ROWS, COLS, generator=generator, dtype=torch.float64)


def pixels(maps: Tensor) -> np.ndarray:
    return np.kron(maps.numpy(), np.ones((PATCH, PATCH)))


@pytest.mark.parametrize("name", MASKED)
def test_the_mask_itself_is_best_and_its_opposite_worst(name: str) -> None:
    """Break: `1 - c` for c, in `pointing` and in `segmentation`."""
    mask = planted().mask
    assert mask is not None
    assert measured(name, with_maps(mask)).tolist() == [1.0] * 5
    worst = measured(name, with_maps(1 - mask))
    lowest = {"average-precision": 4 / CELLS, "segmentation-ap": 0.5}
    # With everything ranked wrongly, precision climbs to the share of the mask (or to a half).
    expected = lowest.get(name, 0.0)
    assert worst.tolist() == pytest.approx([expected] * 5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pointing", 0.2), ("energy-pointing", 0.2), ("average-precision", 0.2),
     ("segmentation-ap", 0.5), ("pixel-accuracy", 0.8), ("mean-iou", 0.4)],
)  # fmt: skip
def test_a_constant_map_gets_what_the_card_calls_chance(name: str, value: float) -> None:
    """Break: the first of equal patches taken; `>=` for `>` at the mean."""
    found = measured(name, with_maps(torch.full((5, ROWS, COLS), 0.7)))
    assert found.tolist() == pytest.approx([value] * 5)


@pytest.mark.parametrize("name", ["pointing", "average-precision"])
def test_random_maps_get_chance_on_average(name: str) -> None:
    """Break: precision over too few cells."""
    found = measured(name, with_maps(rough(400), **planted_masks(400)))
    more = 0.11 if name == "average-precision" else 0.0  # few patches: precision is above its limit
    assert float(found.mean()) == pytest.approx(0.2 + more, abs=0.05)


def planted_masks(items: int) -> dict[str, Tensor]:
    trial = planted(items)
    assert trial.mask is not None
    return {"mask": trial.mask}


@pytest.mark.parametrize("name", MASKED)
def test_an_object_that_is_not_to_be_seen_has_no_value(name: str) -> None:
    """Break: `meant` without the empty mask."""
    trial = planted()
    assert trial.mask is not None
    mask = trial.mask.clone()
    mask[3] = 0
    found = measured(name, replace(trial, mask=mask))
    assert found.isnan().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(("threshold", "level"), [("mean", 0.5), ("fixed", 0.5), ("fixed", 0.8)])
def test_accuracy_and_iou_are_those_of_all_pixels(threshold: str, level: float) -> None:
    """Break: the median for the mean; `level` ignored."""
    sk = pytest.importorskip("sklearn.metrics")
    maps, trial = rough(), planted()
    assert trial.mask is not None
    accuracy, iou = (
        measured(name, with_maps(maps), threshold=threshold, level=level).tolist()
        for name in ("pixel-accuracy", "mean-iou")
    )
    for item in range(5):
        heat, truth = pixels(maps[item]).ravel(), pixels(trial.mask[item]).ravel() > 0
        scaled = (heat - heat.min()) / (heat.max() - heat.min())
        said = heat > heat.mean() if threshold == "mean" else scaled > level
        assert accuracy[item] == pytest.approx(sk.accuracy_score(truth, said))
        assert iou[item] == pytest.approx(sk.jaccard_score(truth, said, average="macro"))


def test_average_precisions_are_scikit_learns_on_all_pixels() -> None:
    """Parity with `average_precision_score`, as Chefer et al. call it. Break: background alone."""
    sk = pytest.importorskip("sklearn.metrics")
    maps, trial = rough().mul(3).round().div(3), planted()  # with ties
    assert trial.mask is not None
    alone, both = (
        measured(name, with_maps(maps)).tolist()
        for name in ("average-precision", "segmentation-ap")
    )
    for item in range(5):
        heat, truth = pixels(maps[item]).ravel(), pixels(trial.mask[item]).ravel()
        scaled = (heat - heat.min()) / (heat.max() - heat.min())
        assert alone[item] == pytest.approx(sk.average_precision_score(truth, heat), abs=1e-6)
        stacked = sk.average_precision_score(
            np.concatenate([1 - truth, truth]), np.concatenate([1 - scaled, scaled]).round(12)
        )
        assert both[item] == pytest.approx(stacked, abs=1e-6)


def test_a_patch_that_is_covered_in_part_counts_in_part() -> None:
    """Break: masks rounded to whole patches."""
    maps = torch.zeros(1, ROWS, COLS)
    maps[0, 0, 0] = 1
    mask = torch.zeros(1, ROWS, COLS)
    mask[0, 0, 0], mask[0, 0, 1] = 0.75, 0.25
    trial = with_maps(maps, mask=mask)
    assert float(measured("pointing", trial)) == pytest.approx(0.75)
    assert float(measured("pixel-accuracy", trial)) == pytest.approx((CELLS - 0.5) / CELLS)
    iou = (0.75 / 1.25 + (CELLS - 1.25) / (CELLS - 0.75)) / 2
    assert float(measured("mean-iou", trial)) == pytest.approx(iou)


# --- several objects, points ------------------------------------------------------------------


def several(items: int = 4) -> Trial:
    """ImageInputs of 1, 2, 3 and 4 objects of one to four patches; the first is named."""
    objects = torch.zeros(items, 4, ROWS, COLS)
    for item in range(items):
        for k in range(item + 1):
            objects[item, k, k, : k + 1] = 1
    named = torch.tensor([[True, False, False, False]]).repeat(items, 1)
    return replace(planted(items), objects=objects, named=named)


def test_multi_object_pointing_of_a_constant_map_is_one_of_the_objects() -> None:
    """Break: heat summed over the objects' areas in place of its mean."""
    trial = replace(several(), maps=torch.ones(4, ROWS, COLS))
    for of in ("heat", "hottest"):
        found = measured("multi-object-pointing", trial, of=of)
        assert found.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_multi_object_pointing_is_the_share_of_mean_heat() -> None:
    """Break: negative heat counted; heat summed over areas."""
    trial = several()
    maps = torch.zeros(4, ROWS, COLS)
    maps[:, 0, 0], maps[:, 1, :2], maps[:, 2, :3] = 2, 1, -5
    trial = replace(trial, maps=maps)
    assert measured("multi-object-pointing", trial).tolist() == pytest.approx([1, *[2 / 3] * 3])
    assert measured("multi-object-pointing", trial, of="hottest").tolist() == [1] * 4
    for count in (1, 2, 3, 4):
        found = measured("multi-object-pointing", trial, count=count)
        assert found.isnan().tolist() == [n + 1 != count for n in range(4)]
    with pytest.raises(InputError, match="got count=0, expected 1 or more"):
        measured("multi-object-pointing", trial, count=0)
    cold = replace(trial, maps=-maps.abs())
    assert bool(measured("multi-object-pointing", cold).isnan().all())


def test_points_are_called_by_their_patch() -> None:
    """Break: -1 taken for in; all background points in the object's union."""
    maps = torch.zeros(1, ROWS, COLS)
    maps[0, 1, 2:4] = 1
    points = torch.zeros(1, *SIZE, dtype=torch.long)
    for row, col, sign in [(8, 16, 1), (15, 31, 1), (0, 0, 1), (12, 20, -1), (31, 39, -1)]:
        points[0, row, col] = sign
    trial = with_maps(maps, points=points)
    # Two of the three points inside are called so, and one of the two outside is too.
    assert float(measured("point-iou", trial)) == pytest.approx(2 / 4)
    assert float(measured("point-iou", trial, classes="both")) == pytest.approx((2 / 4 + 1 / 3) / 2)
    outside = replace(trial, points=-points.abs())
    assert bool(measured("point-iou", outside).isnan().all())
    with pytest.raises(InputError, match="got level=2, expected 0 to 1"):
        measured("point-iou", trial, level=2)


# --- spread -----------------------------------------------------------------------------------


def test_the_spread_of_one_patch_and_of_an_even_map() -> None:
    """Break: ranks from 0; a logarithm to the base 2."""
    one = torch.zeros(1, ROWS, COLS)
    one[0, 2, 1] = -4
    assert float(measured("sparseness", with_maps(one))) == pytest.approx(1 - 1 / CELLS)
    assert float(measured("entropy", with_maps(one))) == 0
    even = torch.full((1, ROWS, COLS), 0.3)
    assert float(measured("sparseness", with_maps(even))) == pytest.approx(0, abs=1e-12)
    assert float(measured("entropy", with_maps(even))) == pytest.approx(math.log(CELLS))
    for name in ("sparseness", "entropy"):
        assert bool(measured(name, with_maps(0 * even)).isnan().all())


def test_entropy_is_scipys_and_the_gini_index_is_the_mean_difference() -> None:
    """Break: signed heat; ranks from 0."""
    maps = rough()
    gini, entropy = (measured(n, with_maps(maps)).tolist() for n in ("sparseness", "entropy"))
    for item in range(5):
        heat = maps[item].abs().flatten().numpy()
        assert entropy[item] == pytest.approx(stats.entropy(heat))
        between = np.abs(heat[:, None] - heat[None]).mean() / (2 * heat.mean())
        assert gini[item] == pytest.approx(between)
