"""Weights come back exactly, whatever was done to them."""

from typing import Literal

import pytest
import torch
from torch import nn

from heatproof.reading.weight_edits import fingerprint, temporary_weights, tensors_of, write


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


def edit_and_fail(module: nn.Module) -> None:
    before = fingerprint(module)
    for tensor in tensors_of(module):
        write(tensor, tensor.data + 1)
    assert fingerprint(module) != before
    raise ZeroDivisionError


@pytest.mark.parametrize("restore", ["swap", "copy"])
def test_edits_in_new_memory_are_undone_after_errors(restore: Literal["swap", "copy"]) -> None:
    module = small()
    before, places = fingerprint(module), [tensor.data_ptr() for tensor in tensors_of(module)]
    with pytest.raises(ZeroDivisionError), temporary_weights(module, restore=restore):
        edit_and_fail(module)
    assert fingerprint(module) == before
    assert [tensor.data_ptr() for tensor in tensors_of(module)] == places


def test_writes_into_the_weights_own_memory_need_a_copy() -> None:
    """Break: `copy` that remembers references: the weight stays at 7."""
    module = small()
    before = fingerprint(module)
    with temporary_weights(module, restore="copy"), torch.no_grad():
        module[0].weight.fill_(7)
    assert fingerprint(module) == before


def test_given_values_reach_views_and_leave_other_weights_alone() -> None:
    module = small()
    view, before = module[0].weight.detach()[1], fingerprint(module)
    values = {"0.weight": torch.arange(15.0).view(5, 3)}
    with temporary_weights(module, values, restore="copy"):
        assert view.tolist() == [3, 4, 5]
        assert fingerprint(module) != before
    assert fingerprint(module) == before
