"""Causes, order-free: shares add up, follow planted games, and the two ends are known maps."""

import pytest
import torch

import heatproof
from heatproof import methods
from heatproof.models.geometry import PhotoView
from heatproof.recipes.grad_eclip_paper import gap, gap_text
from heatproof.recipes.grad_eclip_paper.last_calls import image_calls, text_calls
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    image_maps,
    text_maps,
)

CAUSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def scenes():
    return heatproof.load("scenes")


def played(game):
    return torch.tensor([[game(c)] for c in gap.coalitions(CAUSES)], dtype=torch.float64)


def test_shares_of_an_additive_game_are_its_parts():
    parts = {"a": 0.5, "b": -0.25, "c": 0.0}
    found = gap.shapley(played(lambda c: sum(parts[x] for x in c)), CAUSES)
    assert found[:, 0].tolist() == pytest.approx([0.5, -0.25, 0.0])


def test_two_causes_that_only_work_together_share_alike():
    """Break: a weight of the orders that is not symmetric."""
    found = gap.shapley(played(lambda c: float({"a", "b"} <= c)), CAUSES)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_shares_add_up_to_the_gap():
    values = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gap.shapley(values, CAUSES).sum(0)
    assert torch.allclose(found, values[-1] - values[0])


# --- the two ends --------------------------------------------------------------------------------


def test_no_cause_is_the_models_own_map_and_all_are_the_published_one(scenes):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    targets = encode_texts(scenes, ["a red ring", "a star"])
    for causes, name in ((frozenset(), "attention-x-gradient"), (gap.IMAGE_CAUSES, "grad-eclip")):
        chosen = frozenset(causes)
        call = image_calls(scenes, pixels, targets, gap.change_of(chosen))
        wanted, _ = image_maps(scenes, methods.create(name), pixels, targets, seed=0)
        found = gap.eclip_map(call, chosen)[:, call.content].unflatten(1, wanted.shape[1:])
        assert torch.allclose(found, wanted, atol=1e-6)
        assert wanted.abs().max() > 1e-4


def test_the_published_text_map_is_the_sum_of_eight_layers(scenes):
    tokens = scenes.text.tokenize(["a large red ring", "a star"])
    images = encode_pictures(scenes, torch.randn(2, 3, 64, 64))
    wanted, _ = text_maps(scenes, methods.create("grad-eclip"), tokens, images, seed=0)
    chosen = frozenset(gap.TEXT_CAUSES) - {gap.RELU}
    count = min(8, len(scenes.attention_layers("text", tokens.ids.shape[-1:])))
    calls = text_calls(scenes, tokens, images, count, gap.change_of(chosen))
    assert torch.allclose(gap_text._total(calls, chosen, tokens), wanted, atol=1e-6)


def test_a_recorded_call_holds_one_number_by_two_routes(scenes):
    """dS/dA is g . v, and A dS/dA adds up to g . o."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    call = image_calls(scenes, pixels, encode_texts(scenes, ["a ring", "a star"]))
    by_values = torch.einsum("ihc,ihkc->ihk", call.gradient, call.value)
    assert torch.allclose(by_values, call.slope, atol=1e-6)
    total = (call.weights * call.slope).sum((1, 2))
    assert torch.allclose(total, (call.gradient * call.output).sum((1, 2)), atol=1e-6)


# --- geometry ------------------------------------------------------------------------------------


def test_a_map_of_the_whole_photo_is_cut_to_the_crop():
    whole = PhotoView(width=80, height=40, left=0.0, top=0.0, right=80.0, bottom=40.0)
    crop = PhotoView(width=80, height=40, left=20.0, top=0.0, right=60.0, bottom=40.0)
    values = torch.arange(8.0).unflatten(0, (2, 4))
    assert gap.brought(values, whole, crop, (2, 2)).tolist() == [[1, 2], [5, 6]]
    assert gap.brought(values, whole, whole, (2, 4)).tolist() == values.tolist()
    wide = gap.brought(values[:, :2], crop, whole, (2, 4))
    assert wide.tolist() == [[0, 0, 1, 0], [0, 4, 5, 0]]
