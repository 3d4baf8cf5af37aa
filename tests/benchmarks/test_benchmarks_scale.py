"""The plan of a large run agrees with a run that is played part by part."""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    spec = importlib.util.spec_from_file_location("scale", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("hours", [0.5, 24.0])
@pytest.mark.parametrize("limit", ["decode", "model", "store"])
def test_the_plan_is_what_is_simulated(hours: float, limit: str) -> None:
    """Break: leave the restart, or half a part, out of the cost of a failure."""
    scale = load()
    rates = {"decode": 100.0, "model": 800.0, "store": 1e9} | (
        {"store": 2e5} if limit == "store" else {"decode": 1e3} if limit == "model" else {}
    )
    asked = argparse.Namespace(cores=4, prompts=1, part=20_000, most_parts=500)
    own = scale.Rates(**rates, map_bytes=500, start=60, failure_hours=hours)
    plan = scale.plan(5e7, 4, asked, own)
    assert plan.bottleneck == limit
    played = [scale.simulate(plan, asked, own, seed) for seed in range(3)]
    assert sum(played) / len(played) == pytest.approx(plan.seconds, rel=0.03)
    assert plan.lost > 0.01 or hours == 24.0
