"""Parity with Quantus where its definition is ours, on the patch grid: a patch is its pixel."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatproof.metrics import Trial, registry

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
    return Trial(maps, torch.rand(ITEMS, 3, ROWS, COLS, generator=generator), mask=mask)


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
