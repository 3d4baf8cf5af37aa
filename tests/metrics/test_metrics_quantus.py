"""Parity with Quantus where its definition is ours, on the patch grid: a patch is its pixel."""

import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam.metrics.road
import sklearn.metrics
import torch
from torch import Tensor, nn

from heatproof.metrics import SRG, Trial, registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quantus: Any = pytest.importorskip("quantus")

ITEMS, ROWS, COLS = 7, 5, 11


class Unasked(nn.Module):
    """Quantus wants a model even for metrics that never ask one."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)[:, :2]


def trial(signed: bool) -> Trial:
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn if signed else torch.rand
    maps = draw(ITEMS, ROWS, COLS, generator=generator)
    mask = (torch.rand(ITEMS, ROWS, COLS, generator=generator) < 0.4).float()
    mask[:, 0, 0] = 1
    return Trial(maps=maps, pixels=torch.rand(ITEMS, 3, ROWS, COLS, generator=generator), mask=mask)


@pytest.mark.parametrize(
    ("own", "theirs", "signed", "how"),
    [
        ("pointing", "PointingGame", True, {"abs": False}),
        ("energy-pointing", "RelevanceMassAccuracy", False, {"abs": False}),
        ("sparseness", "Sparseness", True, {"abs": True}),
        ("entropy", "Complexity", True, {"abs": True}),
    ],
)
def test_values_are_quantus(own: str, theirs: str, signed: bool, how: dict[str, bool]) -> None:
    """Breaks: the coldest patch; squared heat; ranks from 0; logarithm to base 2."""
    given = trial(signed)
    assert given.mask is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = getattr(quantus, theirs)(normalise=False, disable_warnings=True, **how)
        found = peer(
            model=Unasked().eval(),
            x_batch=given.pixels.numpy(),
            y_batch=np.zeros(ITEMS, dtype=int),
            a_batch=given.maps[:, None].numpy(),
            s_batch=given.mask[:, None].bool().numpy(),
            channel_first=True,
        )
    expected = torch.tensor([float(each) for each in found])
    mine = registry.create(own).measure(given).float()
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01


# --- what the cards say of others --------------------------------------------------------------


class Sum(nn.Module):
    """Scores are sums of all numbers; keeps the pictures that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.given.append(pixels.clone())
        return pixels.flatten(1).sum(1, keepdim=True).expand(-1, 2)


def asked(metric: Any, model: nn.Module, given: Trial, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=model.eval(),
            x_batch=given.pixels.numpy().copy(),
            y_batch=np.zeros(ITEMS, dtype=int),
            a_batch=given.maps[:, None].numpy().copy(),
            channel_first=True,
            **more,
        )


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_quantus_fills_all_channels_with_one_number_and_leaves_out_the_whole_picture(
    baseline: str,
) -> None:
    given, model = trial(signed=True), Sum()
    metric = quantus.PixelFlipping(
        features_in_step=ROWS * COLS, perturb_baseline=baseline, disable_warnings=True
    )
    curves = np.array(asked(metric, model, given, softmax=False))
    last = model.given[-1]
    steps = 3  # of 3 x 55 numbers, 55 a step: one number fills all of a step's
    assert all(len(picture.unique()) <= (1 if baseline == "black" else steps) for picture in last)
    assert curves.shape == (ITEMS, steps)
    whole = given.pixels.flatten(1).sum(1).numpy()
    assert not np.isclose(curves[:, 0], whole, rtol=1e-3).any()
    if baseline == "black":
        least = given.pixels.flatten(1).amin(1)
        assert last.flatten(1).equal(least[:, None].expand(-1, 3 * ROWS * COLS))


def test_what_quantus_calls_auc_is_the_roc_s() -> None:
    given = trial(signed=True)
    assert given.mask is not None
    metric = quantus.AUC(normalise=False, abs=False, disable_warnings=True)
    found = asked(metric, Unasked(), given, s_batch=given.mask[:, None].bool().numpy())
    expected = [
        sklearn.metrics.roc_auc_score(mask.flatten() > 0, heat.flatten())
        for mask, heat in zip(given.mask, given.maps, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "lost"), [(1e-5, 0.01), (1e-6, 0.09), (1e-7, 0.5)])
def test_quantus_sparseness_falls_with_the_map_s_scale(mean: float, lost: float) -> None:
    given = trial(signed=False)
    scaled = given.maps * (mean / given.maps.mean((1, 2), keepdim=True))
    small = Trial(maps=scaled, pixels=given.pixels)
    own = registry.create("sparseness").measure(small).numpy()
    raw = quantus.Sparseness(normalise=False, abs=True, disable_warnings=True)
    np.testing.assert_allclose(1 - np.array(asked(raw, Unasked(), small)) / own, lost, rtol=0.05)
    scaled = quantus.Sparseness(abs=True, disable_warnings=True)
    np.testing.assert_allclose(asked(scaled, Unasked(), small), own, rtol=1e-5)


def test_road_combined_is_ten_ninths_of_half_of_srg() -> None:
    """pytorch-grad-cam averages 10, 20, ... 90 %, with no ends; here of scores that are made up."""
    generator = torch.Generator().manual_seed(3)
    least, most = torch.rand(2, 11, generator=generator, dtype=torch.float64)
    most[0], most[-1] = least[0], least[-1]  # the ends are one and the same picture
    combined = pytorch_grad_cam.metrics.road.ROADCombined()
    assert combined.percentiles == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    combined.lerf_averager = lambda *_: least[1:-1].mean()
    combined.morf_averager = lambda *_: most[1:-1].mean()
    theirs = combined(*[None] * 4)

    class Known(SRG):
        def heights(self, trial: Trial, first: Any) -> Tensor:
            del trial
            return (least if first == "least" else most)[None]

    own = Known(steps=10).values(trial(signed=True))
    torch.testing.assert_close(theirs, own[0].to(theirs) / 2 * 10 / 9)
