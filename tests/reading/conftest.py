"""Every test of reading must leave torch as it was."""

from collections.abc import Iterator

import pytest
import torch

from reading_cases import tidy


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    tidy()
    assert torch.is_grad_enabled()
