"""Shapes in signatures are checked while tests run."""

import jaxtyping
import pytest
import torch

from heatproof.evaluation.localisation import energy


def test_swapped_axes_fail_though_the_sizes_would_do() -> None:
    maps, cover = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 7, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="cover"):
        energy(maps, cover)
