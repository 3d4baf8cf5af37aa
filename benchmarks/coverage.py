"""What the benchmark's intervals cover, and how many false claims its tables make.

    python benchmarks/coverage.py [--draws 1000] [--tables 120]

Values are drawn whose mean is known, from 2 units to 500: alone, and as differences of two methods
that do not differ. `coverage` is the share of 95 % intervals that hold the true mean, `marks` the
share of comparisons in which a verdict would be false. Tables are drawn of methods and controls
that do not differ: how many of the marks against the controls are false, and how many tables hold
a false "better than the next one" or "first". `before` is the percentile bootstrap that was here
earlier. Some minutes on one core; `python docs/generate.py` makes the tables of
docs/coverage.md of the results.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heatproof import statistics
from heatproof.benchmarking.request import CONTROLS
from heatproof.benchmarking.tables import Values, ranked, verdict
from heatproof.statistics import SHARE, Bounds

COUNTS = (2, 3, 5, 8, 12, 20, 50, 100, 200, 500)
BEFORE = 300  # samples for the percentile bootstrap
RESULTS = Path(__file__).parent / "results" / "coverage.json"
Draw = Callable[[torch.Generator, int, int], Tensor]


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def exponential(generator: torch.Generator, *shape: int) -> Tensor:
    return -uniform(generator, *shape).clamp(min=1e-12).log()


def lognormal(generator: torch.Generator, *shape: int) -> Tensor:
    return normal(generator, *shape).exp()


def beta(generator: torch.Generator, *shape: int) -> Tensor:
    """Beta(1/2, 2): shares, most of them near 0."""
    one, *others = (normal(generator, *shape).square() for _ in range(5))
    return one / (one + sum(others))


def binary(share: float) -> Draw:
    return lambda generator, *shape: (uniform(generator, *shape) < share).double()


def mixed(share: float) -> Draw:
    """Zeros, and a share of values anywhere up to 1."""
    return lambda g, *shape: uniform(g, *shape) * (uniform(g, *shape) < share)


def tied(generator: torch.Generator, *shape: int) -> Tensor:
    """0, 1/2 and 1, as `choice` has them where objects tie."""
    return (3 * uniform(generator, *shape)).floor() / 2


@dataclass(frozen=True)
class Kind:
    """Values: how they are drawn, their true mean, and the bounds that a metric's card would say.

    promised: False for values that are more skewed than the intervals are meant for.
    """

    name: str
    draw: Draw
    mean: float
    bounds: Bounds | None = None
    promised: bool = True


KINDS = (
    Kind("normal", normal, 0.0),
    Kind("uniform", uniform, 0.5, SHARE),
    Kind("skewed (exponential)", exponential, 1.0),
    Kind("skewed shares (beta 1/2, 2)", beta, 0.2, SHARE),
    Kind("0/1, a half", binary(0.5), 0.5, SHARE),
    Kind("0/1, one in ten", binary(0.1), 0.1, SHARE),
    Kind("half zeros", mixed(0.5), 0.25, SHARE),
    Kind("four fifths zeros", mixed(0.2), 0.1, SHARE),
    Kind("half zeros, no bounds", mixed(0.5), 0.25),
    Kind("three values", tied, 0.5, SHARE),
    Kind("very skewed (lognormal)", lognormal, math.exp(0.5), None, promised=False),
)


def columns(kind: Kind, count: int, draws: int, seed: int) -> Tensor:
    return kind.draw(torch.Generator().manual_seed(seed), count, draws)


def percentiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """The bootstrap of the mean of each column, as it was."""
    rows = torch.randint(len(values), (2000, len(values)), generator=torch.Generator())
    taken = torch.zeros(2000, len(values), dtype=torch.float64)
    taken.scatter_add_(1, rows, torch.ones(rows.shape, dtype=torch.float64))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(taken @ values / len(values), ends, dim=0)
    return low, high


def alone(kind: Kind, count: int, draws: int) -> dict[str, float]:
    """Coverage of the mean of values."""
    values = columns(kind, count, draws, count)
    found = statistics.means(values, bounds=kind.bounds)
    inside = sum(each.low <= kind.mean <= each.high for each in found)
    width = sum(each.high - each.low for each in found) / len(found)
    low, high = percentiles(values[:, :BEFORE])
    before = float(((low <= kind.mean) & (kind.mean <= high)).double().mean())
    return {
        "coverage": inside / draws,
        "width": width if math.isfinite(width) else math.nan,
        "before": before,
    }


def paired(kind: Kind, count: int, draws: int) -> dict[str, float]:
    """Coverage and false claims where two methods have the same distribution."""
    one, other = (columns(kind, count, draws, 1000 * count + n) for n in (1, 2))
    found = statistics.means(one - other, bounds=statistics.of_differences(kind.bounds))
    inside = sum(each.low <= 0 <= each.high for each in found)
    false = sum(verdict(each, "higher", each.p) in ("better", "worse") for each in found)
    low, high = percentiles((one - other)[:, :BEFORE])
    before = float(((low > 0) | (high < 0)).double().mean())
    return {"coverage": inside / draws, "marks": false / draws, "before": before}


def tables(kind: Kind, count: int, number: int, methods: int = 8) -> dict[str, float]:
    """False claims in whole tables of methods that do not differ, pictures easy or hard alike."""
    marks = told = after = first = 0
    names = (*(f"method {n}" for n in range(methods)), *CONTROLS)
    answers = torch.ones(count, dtype=torch.int8)
    # Below the fewest units no claim is made, which some tables show as well as many.
    number = number if count >= statistics.FEWEST else min(number, 20)
    for seed in range(number):
        values = columns(kind, count, len(names), 7919 * count + seed)
        rows = ranked(Values(names, values, answers), "right", "higher", bounds=kind.bounds)
        mine = [row.over_control for row in rows if row.method not in CONTROLS]
        marks += sum(each is not None and each.verdict in ("better", "worse") for each in mine)
        told += len(mine)
        after += any(row.over_next and row.over_next.verdict == "better" for row in rows)
        others = [row.over_first for row in rows if row.over_first]
        first += any(each.verdict == "worse" for each in others)
    return {"marks": marks / told, "next": after / number, "first": first / number}


def measured(counts: tuple[int, ...], draws: int, number: int) -> dict[str, Any]:
    """Everything, by kind and number of units."""
    return {
        "alone": {k.name: {n: alone(k, n, draws) for n in counts} for k in KINDS},
        "paired": {k.name: {n: paired(k, n, draws) for n in counts} for k in KINDS},
        "tables": {
            k.name: {n: tables(k, n, number) for n in counts}
            for k in KINDS
            if k.name in ("normal", "skewed (exponential)", "0/1, a half", "half zeros")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=120)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    found = measured(COUNTS, asked.draws, asked.tables)
    promised = {kind.name: kind.promised for kind in KINDS}
    result = {
        "draws": asked.draws,
        "tables per cell": asked.tables,
        "samples before": BEFORE,
        "promised": promised,
        **found,
    }
    text = json.dumps(_rounded(result), indent=1)
    RESULTS.write_text(text + "\n")
    print(f"{time.monotonic() - started:.0f} s")


def _rounded(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, float):
        return round(found, 4) if math.isfinite(found) else None
    return found


if __name__ == "__main__":
    main()
