"""Simpler, counted: all ways are one map, counters agree with formulas, verdicts follow rules."""

import pytest
import torch

from heatproof.recipes.grad_eclip_paper import simplicity as s

SIZES = (7, 12, 3)


@pytest.mark.parametrize("rows", ["all", "readout"])
@pytest.mark.parametrize("heads", [1, 3])
def test_all_ways_are_one_map(rows, heads):
    """Break: any way's map with another factor, or a leaf that is not added to the output."""
    layer = s.random_layer((7, 12, heads), seed=2)
    maps = [way.compute(layer, rows) for way in s.WAYS.values()]
    assert maps[0].shape == (7,)
    assert maps[0].abs().max() > 1e-3
    for other in maps[1:]:
        assert torch.allclose(other, maps[0], atol=1e-14)


def test_the_map_is_the_gradient_by_hand():
    """u_i times dS/dA_i by central differences of a weight of the readout's row."""
    layer = s.random_layer((4, 6, 2), seed=1)
    query, key, value = layer.project("readout")
    weights = (query @ key.transpose(1, 2) / 3**0.5).softmax(-1)
    found = s.attention_eclip_zero_leaf(layer, "readout")
    for token in range(4):
        slopes = 0.0
        for head in range(2):
            ends = []
            for step in (1e-5, -1e-5):
                moved = weights.clone()
                moved[head, 0, token] += step
                ends.append(float(layer.score(moved @ value)))
            slopes += (ends[0] - ends[1]) / 2e-5
        wanted = float(layer.spatial(query, key)[token]) * slopes
        assert float(found[token]) == pytest.approx(wanted, abs=1e-8)


def test_the_counter_agrees_with_the_formula_for_every_way():
    """Break: a product of matrices that the formula leaves out."""
    found = s.counted(SIZES, seed=0, repeats=3)
    assert found["largest difference"] < 1e-12
    for name, way in found["ways"].items():
        for rows in ("all", "readout"):
            counts = way[rows]
            assert counts["multiply-adds, counted"] == counts["multiply-adds, by formula"], name
            assert counts["peak bytes"] > 0
    assert found["verdicts"]["quantities and code"] == "shown"


def planted(work=(100, 100), peak=(100, 100), taken=(4, 3), lines=(3, 2)):
    ways = {
        name: {
            "captured": ["x"] * taken[n],
            "statements": lines[n],
            "readout": {},
        }
        for n, name in enumerate(s.PUBLISHED)
    }
    for n, name in enumerate(s.CHEAPEST):
        counts = {"multiply-adds, counted": work[n], "peak bytes": peak[n]}
        ways.setdefault(name, {})["readout"] = counts
    return ways


EVEN = {"value": 1.0, "low": 0.9, "high": 1.1}
FASTER = {"value": 0.8, "low": 0.7, "high": 0.9}


@pytest.mark.parametrize(
    ("given", "ratio", "wanted"),
    [
        ({}, EVEN, ("shown", "not shown", "not shown")),
        ({"taken": (4, 4)}, EVEN, ("not shown", "not shown", "not shown")),
        ({"taken": (3, 4)}, EVEN, ("contradicted", "not shown", "not shown")),
        ({"lines": (2, 3)}, EVEN, ("not shown", "not shown", "not shown")),
        ({"work": (100, 98)}, EVEN, ("shown", "shown", "not shown")),
        ({"work": (1000, 1009)}, EVEN, ("shown", "not shown", "not shown")),
        ({"work": (100, 102)}, EVEN, ("shown", "contradicted", "not shown")),
        ({"peak": (100, 102)}, EVEN, ("shown", "not shown", "contradicted")),
        ({"peak": (100, 102)}, FASTER, ("shown", "not shown", "not shown")),
        ({}, FASTER, ("shown", "not shown", "shown")),
    ],
)
def test_verdicts_follow_the_rules_and_nothing_else(given, ratio, wanted):
    assert tuple(s.verdicts(planted(**given), ratio).values()) == wanted
