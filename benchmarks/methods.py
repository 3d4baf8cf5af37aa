"""Every method of the catalogue: how near it comes to its by-hand twin, where it runs, what its
certificate says.

The tests' own cases are run (`tests/methods/test_methods.py`), and what they compare is measured
rather than asserted; then each method is run on every two-block family of the tests. Killed, it
goes on with the next method.

    python benchmarks/methods.py [--only grad-eclip]      into benchmarks/results/methods.json
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

import heatproof
from heatproof.errors import HeatproofError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "methods")]

import test_methods as cases  # noqa: E402  # pyright: ignore

import families  # noqa: E402  # pyright: ignore
import tiny  # noqa: E402  # pyright: ignore


def by_hand(name: str) -> dict[str, Any]:
    """The largest difference from the twin over all settings, relative to the largest value."""
    gaps: list[float] = []

    def measure(found: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
        del tolerance
        expected = expected.to(found.dtype)
        largest = float(expected.abs().max())
        gaps.append(float((found - expected).abs().max()) / (largest or 1.0))

    asserted, cases.close = cases.close, measure
    model = families.worded(tiny.open_clip_vit())
    tests: list[Callable[..., None]] = [cases.test_image_values_equal_by_hand]
    if "text" in heatproof.methods.catalogue()[name].sides:
        tests.append(cases.test_text_values_equal_by_hand)
    try:
        for settings in cases.settings_of(name):
            for test in tests[: 1 if settings.get("of") == "grad-cam" else 2]:
                test(model, name, settings)
    finally:
        cases.close = asserted
    return {"largest difference": max(gaps), "cases": len(gaps)}


def on_families(name: str) -> dict[str, Any]:
    """Which families it ran on, by side, which refused it, and what certificates said."""
    entry = heatproof.methods.catalogue()[name]
    row: dict[str, Any] = {"ran": {}, "refused": {}, "held": 0, "violated": {}}
    for family in families.FAMILIES:
        model = families.worded_model_of(family)
        for side in entry.sides:
            if side == "text" and model.text is None:
                continue
            try:
                found = explained(model, family, name, side)
            except HeatproofError as error:
                row["refused"].setdefault(side, {})[family] = str(error)
                continue
            row["ran"].setdefault(side, []).append(family)
            row["held"] += found.certificate.holds is True
            for check in found.certificate.checks:
                if check.verdict == "violated":
                    row["violated"][check.name] = row["violated"].get(check.name, 0) + 1
    return row


def explained(model: Any, family: str, name: str, side: str) -> Any:
    pixels, method = families.picture(model), cases.quick(name)
    if side == "image":
        return heatproof.explain(model, pixels, families.prompts_for(family), method=method)
    return heatproof.explain_words(model, pixels, families.ids_for(family), method=method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    for name in heatproof.methods.catalogue():
        if name in done or asked.only not in name:
            continue
        start = time.perf_counter()
        done[name] = {"by hand": by_hand(name), "families": on_families(name)}
        RESULTS.write_text(json.dumps(dict(sorted(done.items())), indent=2) + "\n")
        gap, ran = done[name]["by hand"]["largest difference"], done[name]["families"]["ran"]
        counts = ", ".join(f"{side} {len(each)}" for side, each in ran.items())
        took = time.perf_counter() - start
        print(f"{name}: by hand {gap:.1g}; ran on {counts}; {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
