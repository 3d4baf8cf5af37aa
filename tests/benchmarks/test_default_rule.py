"""The rule that chooses the default: gates, prices, ranks, and who stands in for a refusal."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import default_rule as rule

CONTROL = {"columns": {"scenes": {}}}


def method(srg, passes, *, blind=0.0, refused=(), fails=(), better="better"):
    figure = {"value": srg, "low": srg - 0.01, "high": srg + 0.01, "over controls": better}
    one, hundred = passes
    return {
        "columns": {"scenes": {"srg": figure}},
        "certificate": {"ran": 9, "refused": list(refused), "fails": list(fails)},
        "blind": {"share": blind},
        "shortcuts": {"mark": {"low": 0.99}},
        "cost": {"prompts": {"1": {"passes": one}, "100": {"passes": hundred}}},
    }


def chosen(**methods):
    side = {"columns": {"srg": "higher"}, "controls": ["noise"], "methods": methods}
    return rule.chosen(side, "image")


def test_the_best_that_passes_all_gates_is_the_default():
    """Break: leave a gate out."""
    found = chosen(
        good=method(0.5, (50, 50)),
        changed=method(0.9, (50, 50), fails=["open_clip vit"]),
        sees_nothing=method(0.8, (50, 50), blind=0.3),
        dear=method(0.7, (150, 150)),
        weak=method(0.48, (5, 5)),
    )["default"]
    assert found["methods"] == ["good"]
    assert found["dropped"] == []


def test_a_cheaper_one_as_good_is_taken():
    """Break: take the best mean rank whatever it costs."""
    two = {"dear": method(0.5, (80, 80)), "cheap": method(0.5, (8, 8))}
    assert chosen(**two)["default"]["methods"] == ["cheap"]


def test_gates_are_dropped_from_the_last_and_the_certificate_never():
    """Break: drop all gates at once, or the certificate with them."""
    low = chosen(low=method(0.3, (5, 5)), lower=method(0.2, (5, 5), better="worse"))["default"]
    assert low["methods"] == ["low"]
    assert low["dropped"] == ["level"]
    assert low["fails"] == {"low": ["level"]}
    assert chosen(changed=method(0.6, (5, 5), fails=["x"]))["default"]["methods"] == []


def test_fast_keeps_its_price_for_many_prompts():
    """Break: ask for the price of one prompt alone."""
    found = chosen(one=method(0.6, (1.5, 90)), many=method(0.5, (1.5, 2)))["fast"]
    assert found["methods"] == ["many"]
    # Where only one prompt was timed, a hundred cost at most a hundred times as much.
    row = method(0.6, (1.5, 90))
    del row["cost"]["prompts"]["100"]
    assert rule.price(row, 100) == 150


def test_a_method_that_refuses_families_is_followed_by_one_that_refuses_none():
    """Break: leave models without a default."""
    found = chosen(
        narrow=method(0.6, (5, 5), refused=["open_clip resnet"]),
        narrower=method(0.55, (5, 5), refused=["open_clip resnet"]),
        wide=method(0.3, (5, 5)),
    )["default"]
    assert found["methods"] == ["narrow", "wide"]
    assert found["fails"] == {"narrow": [], "wide": ["level"]}
