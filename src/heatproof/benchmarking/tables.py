"""From single values to what may be said of them: means, paired differences, ranks, stability.

Items where the model is right and those where it is wrong are never put together: a map of a
wrong answer is good where it shows what the model saw, not where the object is. A method is
"better" than another only where the interval of their paired difference lies on the better side of
0. Intervals are of one comparison each: of twenty, one misses by chance.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float64, Int8
from torch import Tensor

from heatproof.benchmarking.order import CONTROLS
from heatproof.benchmarking.store import Table
from heatproof.metrics import intervals
from heatproof.metrics.base import Better
from heatproof.metrics.intervals import Interval

Split = Literal["right", "wrong", "unknown"]
SPLITS: dict[Split, int] = {"right": 1, "wrong": 0, "unknown": -1}
"""The model's answer to the item's prompt, and the number that stands for it; unknown where the
data do not say which prompts are absent."""
Verdict = Literal["better", "worse", "no difference", "not ranked"]
FEWEST = 2  # of fewer units there is no interval


@dataclass(frozen=True)
class Difference:
    """A method's values minus those of `against`, item by item."""

    against: str
    interval: Interval
    verdict: Verdict

    @property
    def plain(self) -> dict[str, Any]:
        return {"against": self.against, **self.interval.plain, "verdict": self.verdict}


@dataclass(frozen=True)
class Row:
    """A method in a metric's table. `missing` counts the items without a value.

    over_control: against the control that is best in this metric; of the best control itself,
    and of other controls, likewise (None for itself). over_next: against the method below.
    """

    method: str
    mean: Interval
    missing: int
    over_control: Difference | None
    over_next: Difference | None

    @property
    def plain(self) -> dict[str, Any]:
        pairs = {"over_control": self.over_control, "over_next": self.over_next}
        differences = {k: None if d is None else d.plain for k, d in pairs.items()}
        return {
            "method": self.method,
            "mean": self.mean.plain,
            "nan": self.missing,
            **differences,
        }


@dataclass(frozen=True, eq=False)
class Values:
    """One metric's values: a column a method, a row an item, and the answers as in `SPLITS`."""

    methods: tuple[str, ...]
    values: Float64[Tensor, "item method"]
    answers: Int8[Tensor, " item"]

    def part(self, split: Split) -> Float64[Tensor, "item method"]:
        return self.values[self.answers == SPLITS[split]]

    @property
    def splits(self) -> list[Split]:
        """Right and wrong, however many there are of each; or unknown, if any."""
        if bool((self.answers >= 0).any()) or not len(self.answers):
            return ["right", "wrong"]
        return ["unknown"]


def collect(tables: Iterable[Table]) -> dict[str, Values]:
    """Values by metric, in the order in which they were measured; a part is read at a time."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    for table in tables:
        value = table.column("value").to_numpy(zero_copy_only=False)
        answer = _answers(table)
        for key, rows in _groups(table):
            found.setdefault(key, []).append(value[rows])
            right.setdefault(key, []).append(answer[rows])
    made: dict[str, Values] = {}
    for metric in dict.fromkeys(metric for metric, _ in found):
        methods = tuple(method for m, method in found if m == metric)
        columns = [np.concatenate(found[metric, method]) for method in methods]
        answers = np.concatenate(right[metric, methods[0]])
        made[metric] = Values(
            methods, torch.from_numpy(np.stack(columns, 1)), torch.from_numpy(answers)
        )
    return made


def _groups(table: Table) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """(metric, method) and the rows of a part that are about them, in their order."""
    columns = [table.column(name).combine_chunks() for name in ("metric", "method")]
    metrics, methods = (column.dictionary.to_pylist() for column in columns)
    metric, method = (column.indices.to_numpy() for column in columns)
    joint = metric.astype(np.int64) * max(1, len(methods)) + method
    for code in dict.fromkeys(joint.tolist()):
        names = metrics[code // len(methods)], methods[code % len(methods)]
        yield names, np.flatnonzero(joint == code)


def _answers(table: Table) -> np.ndarray:
    return table.column("right").cast(pa.int8()).fill_null(-1).to_numpy()


def ranked(values: Values, split: Split, better: Better, *, seed: int = 0) -> list[Row]:
    """The methods by their mean, best first; where no direction is better, in the given order."""
    part = values.part(split)
    means = intervals_of(part, seed=seed)
    order = _order([each.value for each in means], better)
    best = _best_control(values.methods, order)
    nexts = dict(itertools.pairwise(order))
    rows: list[Row] = []
    against_best = _minus(part, [best] * part.shape[1], seed) if best is not None else None
    against_next = _minus(part, [nexts.get(n, n) for n in range(part.shape[1])], seed)
    for n in order:
        over = None
        if best is not None and against_best is not None and n != best:
            found = against_best[n]
            over = Difference(values.methods[best], found, verdict(found, better))
        after = None
        if n in nexts and better != "neither":
            found = against_next[n]
            after = Difference(values.methods[nexts[n]], found, verdict(found, better))
        missing = int(part[:, n].isnan().sum())
        rows.append(Row(values.methods[n], means[n], missing, over, after))
    return rows


def verdict(difference: Interval, better: Better) -> Verdict:
    """What the interval of a paired difference allows to be said."""
    if better == "neither":
        return "not ranked"
    low, high = difference.low, difference.high
    if math.isnan(low) or difference.count < FEWEST or low <= 0 <= high:
        return "no difference"
    return "better" if (low > 0) == (better == "higher") else "worse"


def intervals_of(columns: Float64[Tensor, "item column"], *, seed: int = 0) -> list[Interval]:
    """`intervals.mean` of each column, NaN left out; columns with the same gaps go together."""
    made: list[Interval | None] = [None] * columns.shape[1]
    groups: dict[bytes, list[int]] = {}
    for n in range(columns.shape[1]):
        groups.setdefault(columns[:, n].isnan().numpy().tobytes(), []).append(n)
    for where in groups.values():
        kept = columns[:, where]
        kept = kept[~kept[:, 0].isnan()]
        if not len(kept):
            found = [Interval(math.nan, math.nan, math.nan, 0)] * len(where)
        else:
            found = _bootstrapped(kept, seed)
        for n, each in zip(where, found, strict=True):
            made[n] = each
    return [each for each in made if each is not None]


def _bootstrapped(values: Float64[Tensor, "item column"], seed: int) -> list[Interval]:
    """A draw is told by how often it takes each item, so that all columns share one product."""
    count = len(values)
    level = (1 - intervals.LEVEL) / 2
    ends = torch.tensor([level, 1 - level], dtype=torch.float64)
    parts: list[Tensor] = []
    for rows in intervals.draws(count, seed).split(200):
        taken = torch.zeros(len(rows), count, dtype=torch.float64)
        taken.scatter_add_(1, rows, torch.ones(rows.shape, dtype=torch.float64))
        parts.append(taken @ values / count)
    low, high = torch.quantile(torch.cat(parts), ends, dim=0)
    means = values.mean(0)
    return [
        Interval(float(mean), float(a), float(b), count)
        for mean, a, b in zip(means, low, high, strict=True)
    ]


def _minus(
    part: Float64[Tensor, "item method"], others: Sequence[int], seed: int
) -> list[Interval]:
    return intervals_of(part - part[:, list(others)], seed=seed)


def _order(means: Sequence[float], better: Better) -> list[int]:
    if better == "neither":
        return list(range(len(means)))
    sign = -1 if better == "higher" else 1
    return sorted(
        range(len(means)),
        key=lambda n: (math.isnan(means[n]), 0.0 if math.isnan(means[n]) else sign * means[n]),
    )


def _best_control(methods: Sequence[str], order: Sequence[int]) -> int | None:
    return next((n for n in order if methods[n] in CONTROLS), None)


# --- curves -------------------------------------------------------------------------------------


class Curves:
    """Mean curves by metric, answer and method, from parts that are added one by one; curves that
    hold a NaN are left out."""

    def __init__(self) -> None:
        self._at: dict[str, list[float]] = {}
        self._sums: dict[tuple[str, int, str], tuple[np.ndarray, int]] = {}

    def add(self, table: Table) -> None:
        answers = _answers(table)
        heights, at = (table.column(name).combine_chunks() for name in ("heights", "fractions"))
        for (metric, method), rows in _groups(table):
            self._at[metric] = at[int(rows[0])].as_py()
            points = len(self._at[metric])
            lines = heights.take(pa.array(rows)).flatten().to_numpy().astype(np.float64)
            lines = lines.reshape(len(rows), points)
            whole = ~np.isnan(lines).any(1)
            for answer in SPLITS.values():
                chosen = lines[whole & (answers[rows] == answer)]
                total, count = self._sums.get((metric, answer, method), (np.zeros(points), 0))
                self._sums[metric, answer, method] = total + chosen.sum(0), count + len(chosen)

    def of(self, metric: str) -> dict[str, Any] | None:
        """{"fractions": ..., "right": {method: heights}, ...}; None where there is no curve."""
        if metric not in self._at:
            return None
        found: dict[str, Any] = {"fractions": [round(f, 5) for f in self._at[metric]]}
        for split, number in SPLITS.items():
            found[split] = {
                method: [round(float(h), 6) for h in total / count]
                for (name, answer, method), (total, count) in self._sums.items()
                if (name, answer) == (metric, number) and count
            }
        return found


# --- do rankings hold across imputers? ----------------------------------------------------------


@dataclass(frozen=True)
class Stability:
    """Kendall's tau between the rankings of methods under two imputers of one metric."""

    metric: str
    one: str
    other: str
    split: Split
    methods: int
    tau: Interval

    @property
    def plain(self) -> dict[str, Any]:
        names = ("metric", "one", "other", "split", "methods")
        return {**{name: getattr(self, name) for name in names}, **self.tau.plain}


def stability(
    values: Mapping[str, Values],
    imputers: Mapping[str, tuple[str, str]],
    *,
    seed: int = 0,
) -> list[Stability]:
    """All pairs of imputers, of each metric that was measured under several.

    Args:
        imputers: for a metric's label, what it is but for the imputer, and its imputer.

    Controls are ranked too. The interval is over items, drawn anew for both rankings together.
    """
    found: list[Stability] = []
    labels = [label for label in imputers if label in values]
    for one, other in itertools.combinations(labels, 2):
        if imputers[one][0] != imputers[other][0]:
            continue
        for split in values[one].splits:
            both, tau = _tau(values[one], values[other], split, seed)
            names = (imputers[one][1], imputers[other][1])
            found.append(Stability(imputers[one][0], *names, split, both, tau))
    return found


def _tau(one: Values, other: Values, split: Split, seed: int) -> tuple[int, Interval]:
    methods = [name for name in one.methods if name in other.methods]
    x, y = (
        each.part(split)[:, [each.methods.index(name) for name in methods]] for each in (one, other)
    )
    kept = ~(x.isnan().any(1) | y.isnan().any(1))
    x, y = x[kept], y[kept]
    if len(x) < FEWEST or len(methods) < FEWEST:
        return len(methods), Interval(math.nan, math.nan, math.nan, len(x))

    def statistic(rows: Tensor) -> Tensor:
        parts = [kendall(x[part].mean(1), y[part].mean(1)) for part in rows.split(20)]
        return torch.cat(parts)

    return len(methods), intervals.resampled(statistic, len(x), seed=seed)


def kendall(
    x: Float64[Tensor, "*batch unit"], y: Float64[Tensor, "*batch unit"]
) -> Float64[Tensor, "*batch"]:
    """Kendall's tau-b along the last axis: pairs in the same order less pairs in the opposite one,
    over the geometric mean of the untied pairs; 0 where all are tied."""
    a, b = ((t.unsqueeze(-1) - t.unsqueeze(-2)).sign() for t in (x, y))
    scale = (a.square().sum((-1, -2)) * b.square().sum((-1, -2))).sqrt()
    return (a * b).sum((-1, -2)) / scale.masked_fill(scale == 0, 1)
