"""Measure all metrics from one pass over the images: each method's maps are computed once."""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.benchmarking.request import MethodEntry, MetricEntry, plain
from heatproof.benchmarking.store import SCHEMAS, ResultStore
from heatproof.benchmarking.trial import LACKS, MapMaker, attempt, shared, words_of
from heatproof.errors import HeatproofError, InputError
from heatproof.evaluation.task import EvaluationTask, TaskBatch
from heatproof.metrics.base import Curve, Metric, Trial
from heatproof.metrics.perturbation_curves import First, PerturbationCurve


@dataclass(frozen=True)
class BenchmarkProgress:
    """How far a run is: images done of a `total`, and the seconds that are left, if known."""

    doing: str
    done: int
    total: int
    left: float | None = None

    def __str__(self) -> str:
        text = f"{self.doing} · {self.done} of {self.total} pictures"
        return text if self.left is None else f"{text} · about {format_duration(self.left)} left"


Watch = Callable[[BenchmarkProgress], None]


def format_duration(seconds: float) -> str:
    """Return seconds in words: 90 -> "2 min"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchmarkRun:
    """Methods times metrics on the first `count` images of a task, in chunks of `task.batch_size`.

    What is measured goes to `store` chunk by chunk, so that a run that was stopped resumes.
    """

    task: EvaluationTask
    methods: Sequence[MethodEntry]
    metrics: Sequence[MetricEntry]
    count: int
    store: ResultStore
    watch: Watch = field(default=lambda _: None)

    def run(self, spread: Callable[[Sequence[int]], None] | None = None) -> None:
        """Measure all chunks that are not yet in the store, or have `spread` measure them."""
        if "left_out" not in self.store.notes:
            self.store.note(**self._tried())
        chunks = range(-(-self.count // self.task.batch_size))
        left = [chunk for chunk in chunks if not self.store.has(chunk)]
        if left:
            (spread or self.measure)(left)

    def measure(self, chunks: Sequence[int]) -> None:
        """Measure these chunks in this process."""
        clock = _Clock(self.store.notes["cost"], self.count, self.watch)
        clock.skip(self.count - sum(map(self.images, chunks)))
        for chunk in chunks:
            start = chunk * self.task.batch_size
            self._chunk(chunk, start, start + self.images(chunk), clock)

    def images(self, chunk: int) -> int:
        """Return how many images a chunk has: the last one may have fewer."""
        size = self.task.batch_size
        return min(size, self.count - chunk * size)

    # --- before the first chunk ---------------------------------------------------------------

    def _tried(self) -> dict[str, Any]:
        """Try every method and metric on one item.

        Returns which of them this model and these data refuse, and why, and what each costs.
        """
        batch = self._first()
        left_out: dict[str, dict[str, str]] = {}
        cost: dict[str, float] = {}
        for number, entry in enumerate(self.methods, 1):
            doing = f"trying {entry.label} ({number} of {len(self.methods)})"
            self.watch(BenchmarkProgress(doing, 0, self.count))
            started = time.perf_counter()
            try:
                trial = self._trial(batch, entry, shared(batch, self._seed(batch)))
            except HeatproofError as error:
                if entry.method.foreign:
                    raise  # the user's own code: better an error now than a gap in the table
                left_out[entry.label] = {"": str(error)}
                continue
            left_out[entry.label] = {
                metric.label: reason
                for metric in self.metrics
                if (reason := _refused(metric.metric, trial)) is not None
            }
            cost[entry.label] = time.perf_counter() - started
        own = [entry for entry in self.methods if not entry.control] or self.methods
        if all("" in left_out[entry.label] for entry in own):
            raise InputError(f"{own[0].label}: {left_out[own[0].label]['']}")
        if all(len(left_out[label]) == len(self.metrics) for label in cost):
            label, reason = next(iter(left_out[next(iter(cost))].items()))
            raise InputError(f"no metric can be measured here; {label}: {reason}")
        return {"left_out": left_out, "cost": cost}

    def _first(self) -> TaskBatch:
        """Return the first image that can be asked something."""
        for n in range(self.count):
            if len(batch := self.task.batch(n, n + 1)):
                return batch
        raise InputError(
            f"{self.task.data.name}: none of {self.count} pictures shows an object that a prompt "
            "names while another prompt names none of its objects"
        )

    # --- a chunk ------------------------------------------------------------------------------

    def _chunk(self, number: int, start: int, stop: int, clock: "_Clock") -> None:
        batch = self.task.batch(start, stop)
        values: dict[str, list[Any]] = {f.name: [] for f in SCHEMAS["values"]}
        curves: dict[str, list[Any]] = {f.name: [] for f in SCHEMAS["curves"]}
        seconds: dict[str, float] = {}
        shared_curves = SharedCurves()
        left_out = self.store.notes["left_out"]
        ground = shared(batch, self._seed(batch)) if len(batch) else None
        for entry in self.methods:
            refused: Mapping[str, str] = left_out[entry.label]
            if "" in refused or ground is None:
                continue
            clock.say(entry.label, start)
            began = time.perf_counter()
            # Maps are computed once for all metrics: they are what costs.
            trial = self._trial(batch, entry, ground)
            seconds[f"method {entry.label}"] = time.perf_counter() - began
            for metric in self.metrics:
                if metric.label in refused:
                    continue
                since = time.perf_counter()
                result = measure(shared_curves.share(metric.metric), trial)
                took = seconds.get(f"metric {metric.label}", 0.0) + time.perf_counter() - since
                seconds[f"metric {metric.label}"] = took
                _append(values, batch, entry, metric, value=result.values.double().tolist())
                if result.heights is not None and result.fractions is not None:
                    # Fractions stand in every row, so that each part of the file can be read alone.
                    at = [result.fractions.tolist()] * len(batch)
                    heights = result.heights.tolist()
                    _append(curves, batch, entry, metric, fractions=at, heights=heights)
            clock.took(entry.label, time.perf_counter() - began, stop - start)
        self.store.add(number, values, curves, seconds)
        clock.finish(stop - start)
        clock.say("measured", stop)

    def _trial(self, batch: TaskBatch, entry: MethodEntry, ground: Trial) -> Trial:
        maker, name = MapMaker(batch, entry.method), entry.label
        needs = {need for metric in self.metrics for need in metric.metric.needs}
        total: Tensor | None = None
        if "total" in needs:
            maps, total = attempt(maker.maps_and_totals, name)
        else:
            maps = attempt(lambda: maker.maps(torch.arange(len(batch))), name)
        words = words_of(batch, entry.method) if "words" in needs else {}
        return replace(ground, maps=maps, explain=_GuardedMaps(maker, name), total=total, **words)

    def _seed(self, batch: TaskBatch) -> int:
        """Return the chunk's own seed, the same for all methods."""
        return self.task.seed * 1_000_003 + int(batch.index[0])


@dataclass(frozen=True, eq=False)
class _GuardedMaps:
    """`MapMaker.maps`, whose failures become one line."""

    maker: MapMaker
    name: str

    def __call__(self, item: Tensor, pixels: Tensor | None = None, **more: Any) -> Tensor:
        return attempt(lambda: self.maker.maps(item, pixels, **more), self.name)


@dataclass(frozen=True)
class MetricValues:
    """A value per item, and a curve per item where the metric is the area under one."""

    values: Float[Tensor, " item"]
    fractions: Float[Tensor, " point"] | None = None
    heights: Float[Tensor, "item point"] | None = None


def measure(metric: Metric, trial: Trial) -> MetricValues:
    """Return the metric's values; a curve is computed once for both its points and its area."""
    if not isinstance(metric, Curve):
        return MetricValues(metric.measure(trial).cpu())
    if lacking := trial.lacks(metric.needs):
        raise InputError(f"{metric.card.name} lacks {', '.join(lacking)}")
    fractions, heights = metric.fractions(trial).cpu(), metric.curves(trial).cpu()
    if type(metric).values is not Curve.values:
        return MetricValues(metric.values(trial).cpu(), fractions, heights)
    return MetricValues(_ReadyCurve(fractions, heights).values(trial), fractions, heights)


class SharedCurves:
    """Perturbation curves, computed once for all metrics that need the same ones of a trial.

    SRG's are those of MIF and of LIF, which stand beside it in most tables.
    """

    def __init__(self) -> None:
        self._trial: Trial | None = None
        self._curves: dict[Any, Tensor] = {}

    def share(self, metric: Metric) -> Metric:
        """Return the same metric, its curves looked up here first."""
        if not isinstance(metric, PerturbationCurve):
            return metric
        shared = copy.copy(metric)
        # The copy's own `heights` stands before the class's.
        object.__setattr__(shared, "heights", partial(self._heights, metric))
        return shared

    def _heights(self, metric: PerturbationCurve, trial: Trial, first: First) -> Tensor:
        if trial is not self._trial:
            self._trial, self._curves = trial, {}
        options = (metric.imputer, metric.unit, metric.of, metric.direction, metric.shares())
        if (*options, first) not in self._curves:
            self._curves[*options, first] = metric.heights(trial, first)
        return self._curves[*options, first]


class _ReadyCurve(Curve):
    """A curve that is computed already, for `Curve`'s own rule of its area."""

    def __init__(self, at: Tensor, heights: Tensor) -> None:
        self.at, self.heights = at, heights

    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        del trial
        return self.at

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        del trial
        return self.heights


def _refused(metric: Metric, trial: Trial) -> str | None:
    """Return why the metric cannot be measured in this trial; None where it can."""
    if lacking := trial.lacks(metric.needs):
        return "; ".join(dict.fromkeys(LACKS[need] for need in lacking))
    try:
        measure(metric, trial)
    except HeatproofError as error:
        return str(error)
    return None


def _append(
    columns: dict[str, list[Any]],
    batch: TaskBatch,
    method: MethodEntry,
    metric: MetricEntry,
    **own: list[Any],
) -> None:
    count = len(batch)
    same = {
        "method": method.label,
        "settings": json.dumps(plain(method.method.settings())),
        "metric": metric.label,
        "metric_settings": json.dumps(plain(metric.metric.settings())),
    }
    columns["item"] += batch.index.tolist()
    columns["image"] += batch.names
    columns["prompt"] += batch.prompts
    columns["right"] += batch.answers
    for name, value in same.items():
        columns[name] += [value] * count
    for name, value in own.items():
        columns[name] += value


class _Clock:
    """Estimate the time that is left by what each method last took per image."""

    def __init__(self, cost: Mapping[str, float], count: int, watch: Watch) -> None:
        self.cost, self.count, self.watch = dict(cost), count, watch
        self.left, self.within = float(count), 0.0

    def skip(self, images: int) -> None:
        self.left -= images

    def took(self, label: str, seconds: float, images: int) -> None:
        self.cost[label] = seconds / images
        self.within += seconds

    def finish(self, images: int) -> None:
        self.left, self.within = self.left - images, 0.0

    def say(self, doing: str, done: int) -> None:
        left = max(0.0, self.left * sum(self.cost.values()) - self.within)
        self.watch(BenchmarkProgress(doing, done, self.count, left))
