"""Turn single values into claims: means, paired differences, ranks, stability.

Items where the model is right and those where it is wrong are never pooled: a map of a wrong answer
is good where it shows what the model saw, not where the object is. The rule of claims, which
docs/benchmark.md states:

- fewer than `statistics.FEWEST` items bear no claim;
- "better than the controls" is claimed where the paired test says so of every control, "worse"
  where it says so of one of them, corrected for their number (Holm). These claims are of one method
  each: of twenty methods that are no better and no worse, one is marked by chance;
- "better than the next one" is corrected for all neighbours in the table, "first" and "worse than
  the first" for all pairs (Holm): at most one table in twenty holds a false one of a kind;
- a claim never stands on an interval that holds 0.
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

from heatproof import statistics
from heatproof.benchmarking.request import CONTROLS
from heatproof.benchmarking.store import Table
from heatproof.metrics.base import Better
from heatproof.statistics import FEWEST, Bounds, Interval

Split = Literal["right", "wrong", "unknown"]
SPLITS: dict[Split, int] = {"right": 1, "wrong": 0, "unknown": -1}
"""The model's answer to the item's prompt, and the number that stands for it; unknown where the
data do not say which prompts are absent."""
Verdict = Literal["better", "worse", "no difference", "too few", "not ranked"]
ERROR = 1 - statistics.LEVEL


@dataclass(frozen=True)
class PairedDifference:
    """A method's values minus those of `against`, paired by item.

    p: what the verdict goes by, adjusted where several comparisons share a claim.
    """

    against: str
    interval: Interval
    p: float
    verdict: Verdict

    @property
    def plain(self) -> dict[str, Any]:
        """The difference as JSON has it."""
        p = None if math.isnan(self.p) else float(f"{self.p:.3g}")
        return {"against": self.against, **self.interval.plain, "p": p, "verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A method in a metric's table. `missing` counts the items without a value.

    over_control: against the control that is best in this metric; the verdict is on all controls.
    None for the best control itself, and where a method or all controls have no value.
    over_next: against the method below. over_first: against the method at the top.
    """

    method: str
    mean: Interval
    missing: int
    over_control: PairedDifference | None
    over_next: PairedDifference | None
    over_first: PairedDifference | None

    @property
    def plain(self) -> dict[str, Any]:
        """The row as JSON has it."""
        pairs = {
            "over_control": self.over_control,
            "over_next": self.over_next,
            "over_first": self.over_first,
        }
        differences = {k: None if d is None else d.plain for k, d in pairs.items()}
        return {
            "method": self.method,
            "mean": self.mean.plain,
            "nan": self.missing,
            **differences,
        }


@dataclass(frozen=True, eq=False)
class Values:
    """One metric's values: a column per method, a row per item, and answers as in `SPLITS`."""

    methods: tuple[str, ...]
    values: Float64[Tensor, "item method"]
    answers: Int8[Tensor, " item"]

    def part(self, split: Split) -> Float64[Tensor, "item method"]:
        """Return the values of the items with this answer."""
        return self.values[self.answers == SPLITS[split]]

    @property
    def splits(self) -> list[Split]:
        """Right and wrong, even where one of them is empty; or unknown."""
        if bool((self.answers >= 0).any()) or not len(self.answers):
            return ["right", "wrong"]
        return ["unknown"]


def collect(tables: Iterable[Table]) -> dict[str, Values]:
    """Return values by metric, in the order of measurement; one part is in memory at a time."""
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    for table in tables:
        value = table.column("value").to_numpy(zero_copy_only=False)
        answer = _answers(table)
        for key, rows in _groups(table):
            # Items come in the same order for every method, so that columns pair by position.
            parts.setdefault(key, []).append(value[rows])
            right.setdefault(key, []).append(answer[rows])
    by_metric: dict[str, Values] = {}
    for metric in dict.fromkeys(metric for metric, _ in parts):
        methods = tuple(method for m, method in parts if m == metric)
        columns = [np.concatenate(parts[metric, method]) for method in methods]
        answers = np.concatenate(right[metric, methods[0]])
        by_metric[metric] = Values(
            methods, torch.from_numpy(np.stack(columns, 1)), torch.from_numpy(answers)
        )
    return by_metric


def _groups(table: Table) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield each (metric, method) with its rows of a part, in their order."""
    columns = [table.column(name).combine_chunks() for name in ("metric", "method")]
    metrics, methods = (column.dictionary.to_pylist() for column in columns)
    metric, method = (column.indices.to_numpy() for column in columns)
    # One number for each pair: numbers compare much faster than texts.
    joint = metric.astype(np.int64) * max(1, len(methods)) + method
    for code in dict.fromkeys(joint.tolist()):
        names = metrics[code // len(methods)], methods[code % len(methods)]
        yield names, np.flatnonzero(joint == code)


def _answers(table: Table) -> np.ndarray:
    # -1 where it is not known whether the model is right.
    return table.column("right").cast(pa.int8()).fill_null(-1).to_numpy()


def ranked(
    values: Values, split: Split, better: Better, *, bounds: Bounds | None = None
) -> list[TableRow]:
    """Rank the methods by their mean, best first; keep their order where no direction is better.

    bounds: the least and the largest value that an item can have.
    """
    part = values.part(split)
    means = statistics.means(part, bounds=bounds)
    order = _order([each.value for each in means], better)
    measured = [n for n in order if means[n].count]
    compared = _Compared(values.methods, part, better, bounds)
    over_control = compared.with_controls(measured)
    over_next = compared.together(list(itertools.pairwise(measured)))
    # Which method is first was read off the same items: any two could have been compared.
    pairs = len(measured) * (len(measured) - 1) // 2
    over_first = compared.together([(n, measured[0]) for n in measured[1:]], pairs)
    return [
        TableRow(
            method=values.methods[n],
            mean=means[n],
            missing=int(part[:, n].isnan().sum()),
            over_control=over_control.get(n),
            over_next=over_next.get(n) if better != "neither" else None,
            over_first=over_first.get(n) if better != "neither" else None,
        )
        for n in order
    ]


class _Compared:
    """Compare methods with methods, in one table."""

    def __init__(
        self,
        methods: Sequence[str],
        part: Float64[Tensor, "item method"],
        better: Better,
        bounds: Bounds | None,
    ) -> None:
        self.methods, self.part = methods, part
        self.better: Better = better
        self.bounds = statistics.of_differences(bounds)

    def _minus(self, pairs: Sequence[tuple[int, int]]) -> list[Interval]:
        if not pairs:
            return []
        ones, others = ([pair[side] for pair in pairs] for side in (0, 1))
        return statistics.means(self.part[:, ones] - self.part[:, others], bounds=self.bounds)

    def _difference(self, other: int, interval: Interval, p: float) -> PairedDifference:
        return PairedDifference(self.methods[other], interval, p, verdict(interval, self.better, p))

    def together(
        self, pairs: Sequence[tuple[int, int]], family: int = 0
    ) -> dict[int, PairedDifference]:
        """Compare pairs, corrected for all of them or a larger family; by the first of a pair."""
        found = self._minus(pairs)
        adjusted = statistics.holm([each.p for each in found], family)
        return {
            one: self._difference(other, difference, p)
            for (one, other), difference, p in zip(pairs, found, adjusted, strict=True)
        }

    def with_controls(self, order: Sequence[int]) -> dict[int, PairedDifference]:
        """Compare every method with the best control; the verdict is on all controls."""
        controls = [n for n in order if self.methods[n] in CONTROLS]
        return {
            n: self._with_controls(n, [c for c in controls if c != n])
            for n in order
            if controls and n != controls[0]
        }

    def _with_controls(self, one: int, controls: Sequence[int]) -> PairedDifference:
        found = self._minus([(one, control) for control in controls])
        best = self._difference(controls[0], found[0], found[0].p)
        # No claim can be made about any control either.
        if best.verdict in ("too few", "not ranked"):
            return best
        alone = [verdict(each, self.better, each.p) for each in found]
        # Better than all of them needs no correction: every single test has to succeed.
        if all(each == "better" for each in alone):
            p = max(each.p for each in found)
            return PairedDifference(best.against, found[0], p, "better")
        # Which control is the best was read off the same items: worse than one needs correction.
        adjusted = statistics.holm([each.p for each in found])
        worse = [
            p
            for each, p in zip(found, adjusted, strict=True)
            if verdict(each, self.better, p) == "worse"
        ]
        p = min(worse, default=max(each.p for each in found))
        return PairedDifference(best.against, found[0], p, "worse" if worse else "no difference")


def verdict(difference: Interval, better: Better, p: float) -> Verdict:
    """Return the claim that a paired difference allows; `p` is adjusted where it has to be."""
    if better == "neither":
        return "not ranked"
    low, high = difference.low, difference.high
    if difference.count < FEWEST:
        return "too few"
    # `not <=` in place of `>`: a p that is NaN allows no claim.
    if not p <= ERROR or not (low > 0 or high < 0):
        return "no difference"
    return "better" if (low > 0) == (better == "higher") else "worse"


def comparisons(tables: Iterable[Sequence[TableRow]]) -> dict[str, int]:
    """Count the comparisons of each kind in the tables."""
    found = {"over_control": 0, "over_next": 0, "over_first": 0}
    for row in itertools.chain.from_iterable(tables):
        for kind in found:
            difference: PairedDifference | None = getattr(row, kind)
            tested = difference is not None and difference.verdict not in ("too few", "not ranked")
            found[kind] += tested
    return found


def _order(means: Sequence[float], better: Better) -> list[int]:
    if better == "neither":
        return list(range(len(means)))
    # Methods without a value come last, whichever direction is better.
    sign = -1 if better == "higher" else 1
    return sorted(
        range(len(means)),
        key=lambda n: (math.isnan(means[n]), 0.0 if math.isnan(means[n]) else sign * means[n]),
    )


# --- curves -------------------------------------------------------------------------------------


class Curves:
    """Mean curves by metric, answer and method, from parts that are added one by one.

    Curves that hold a NaN are left out.
    """

    def __init__(self) -> None:
        self._at: dict[str, list[float]] = {}
        self._sums: dict[tuple[str, int, str], tuple[np.ndarray, int]] = {}

    def add(self, table: Table) -> None:
        """Add the curves of one part."""
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
        """Return {"fractions": ..., "right": {method: heights}, ...}; None without a curve."""
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


@dataclass(frozen=True, kw_only=True)
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
        """The comparison as JSON has it."""
        names = ("metric", "one", "other", "split", "methods")
        return {**{name: getattr(self, name) for name in names}, **self.tau.plain}


def stability(
    values: Mapping[str, Values],
    imputers: Mapping[str, tuple[str, str]],
    *,
    seed: int = 0,
) -> list[Stability]:
    """Compare the rankings under all pairs of imputers, of each metric with several.

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
            found.append(
                Stability(
                    metric=imputers[one][0],
                    one=imputers[one][1],
                    other=imputers[other][1],
                    split=split,
                    methods=both,
                    tau=tau,
                )
            )
    return found


def _tau(one: Values, other: Values, split: Split, seed: int) -> tuple[int, Interval]:
    methods = [name for name in one.methods if name in other.methods]
    x, y = (
        each.part(split)[:, [each.methods.index(name) for name in methods]] for each in (one, other)
    )
    known = ~(x.isnan().any(1) | y.isnan().any(1))
    x, y = x[known], y[known]
    if not len(x) or len(methods) < 2:
        return len(methods), Interval(math.nan, math.nan, math.nan, len(x))

    def statistic(rows: Tensor) -> Tensor:
        return statistics.kendall(x[rows].mean(1), y[rows].mean(1))

    return len(methods), statistics.bootstrap(statistic, len(x), seed=seed)
