"""One pass over the pictures: maps are made once, and all metrics measured from them."""

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

from heatproof.benchmarking.request import Entrant, Measure, plain
from heatproof.benchmarking.store import SCHEMAS, Store
from heatproof.benchmarking.trial import LACKS, Maker, attempt, shared, words_of
from heatproof.errors import HeatproofError, InputError
from heatproof.evaluation.task import EvaluationTask, TaskBatch
from heatproof.metrics.base import Curve, Metric, Trial
from heatproof.metrics.perturbation_curves import First, PerturbationCurve


@dataclass(frozen=True)
class Progress:
    """How far a run is: what it does, pictures done, and the seconds that are left, if known."""

    doing: str
    done: int
    of: int
    left: float | None = None

    def __str__(self) -> str:
        told = f"{self.doing} · {self.done} of {self.of} pictures"
        return told if self.left is None else f"{told} · about {spoken(self.left)} left"


Watch = Callable[[Progress], None]


def spoken(seconds: float) -> str:
    """90 -> "2 min"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, eq=False)
class Job:
    """All that is measured. `count` pictures are asked, `bench.batch_size` of them at a time."""

    bench: EvaluationTask
    entrants: Sequence[Entrant]
    measures: Sequence[Measure]
    count: int
    store: Store
    watch: Watch = field(default=lambda _: None)

    def run(self) -> None:
        """Measure what is not yet in the store."""
        if "left_out" not in self.store.notes:
            self.store.note(**self._tried())
        size = self.bench.batch_size
        starts = range(0, self.count, size)
        open_chunks = [n for n in range(len(starts)) if not self.store.has(n)]
        clock = _Clock(self.store.notes["cost"], self.count, self.watch)
        clock.skip(self.count - sum(min(size, self.count - starts[n]) for n in open_chunks))
        for n in open_chunks:
            start, stop = starts[n], min(starts[n] + size, self.count)
            self._chunk(n, start, stop, clock)

    # --- before the first chunk ---------------------------------------------------------------

    def _tried(self) -> dict[str, Any]:
        """Every method and metric on one item: which of them this model and these data refuse, why,
        and what each method costs."""
        asked = self._first()
        left_out: dict[str, dict[str, str]] = {}
        cost: dict[str, float] = {}
        for number, entrant in enumerate(self.entrants, 1):
            self.watch(Progress(f"trying {entrant.label} ({number} of {len(self.entrants)})",
                                0, self.count))  # fmt: skip
            started = time.perf_counter()
            try:
                trial = self._trial(asked, entrant, shared(asked, self._seed(asked)))
            except HeatproofError as error:
                if entrant.method.foreign:
                    raise  # the user's own code: he wants to know now
                left_out[entrant.label] = {"": str(error)}
                continue
            left_out[entrant.label] = {
                each.label: reason
                for each in self.measures
                if (reason := _refused(each.metric, trial)) is not None
            }
            cost[entrant.label] = time.perf_counter() - started
        own = [entrant for entrant in self.entrants if not entrant.control] or self.entrants
        if all("" in left_out[entrant.label] for entrant in own):
            raise InputError(f"{own[0].label}: {left_out[own[0].label]['']}")
        if all(len(left_out[label]) == len(self.measures) for label in cost):
            label, reason = next(iter(left_out[next(iter(cost))].items()))
            raise InputError(f"no metric can be measured here; {label}: {reason}")
        return {"left_out": left_out, "cost": cost}

    def _first(self) -> TaskBatch:
        """The first picture that can be asked something."""
        for n in range(self.count):
            if len(asked := self.bench.batch(n, n + 1)):
                return asked
        raise InputError(
            f"{self.bench.data.name}: none of {self.count} pictures shows an object that a prompt "
            "names while another prompt names none of its objects"
        )

    # --- a chunk ------------------------------------------------------------------------------

    def _chunk(self, number: int, start: int, stop: int, clock: "_Clock") -> None:
        asked = self.bench.batch(start, stop)
        values: dict[str, list[Any]] = {f.name: [] for f in SCHEMAS["values"]}
        curves: dict[str, list[Any]] = {f.name: [] for f in SCHEMAS["curves"]}
        seconds: dict[str, float] = {}
        removals = Removals()
        left_out = self.store.notes["left_out"]
        ground = shared(asked, self._seed(asked)) if len(asked) else None
        for entrant in self.entrants:
            refused: Mapping[str, str] = left_out[entrant.label]
            if "" in refused or ground is None:
                continue
            clock.say(entrant.label, start)
            began = time.perf_counter()
            trial = self._trial(asked, entrant, ground)
            seconds[f"method {entrant.label}"] = time.perf_counter() - began
            for each in self.measures:
                if each.label in refused:
                    continue
                since = time.perf_counter()
                found = measured(removals.share(each.metric), trial)
                took = seconds.get(f"metric {each.label}", 0.0) + time.perf_counter() - since
                seconds[f"metric {each.label}"] = took
                _append(values, asked, entrant, each, value=found.values.double().tolist())
                if found.heights is not None and found.fractions is not None:
                    at = [found.fractions.tolist()] * len(asked)
                    heights = found.heights.tolist()
                    _append(curves, asked, entrant, each, fractions=at, heights=heights)
            clock.took(entrant.label, time.perf_counter() - began, stop - start)
        self.store.add(number, values, curves, seconds)
        clock.finish(stop - start)
        clock.say("measured", stop)

    def _trial(self, asked: TaskBatch, entrant: Entrant, ground: Trial) -> Trial:
        maker, name = Maker(asked, entrant.method), entrant.label
        needs = {need for each in self.measures for need in each.metric.needs}
        total: Tensor | None = None
        if "total" in needs:
            maps, total = attempt(maker.promising, name)
        else:
            maps = attempt(lambda: maker.maps(torch.arange(len(asked))), name)
        words = words_of(asked, entrant.method) if "words" in needs else {}
        return replace(ground, maps=maps, explain=_Told(maker, name), total=total, **words)

    def _seed(self, asked: TaskBatch) -> int:
        """A chunk's own, and the same for all methods."""
        return self.bench.seed * 1_000_003 + int(asked.index[0])


@dataclass(frozen=True, eq=False)
class _Told:
    """`Maker.maps`, whose failures are told in one line."""

    maker: Maker
    name: str

    def __call__(self, item: Tensor, pixels: Tensor | None = None, **more: Any) -> Tensor:
        return attempt(lambda: self.maker.maps(item, pixels, **more), self.name)


@dataclass(frozen=True)
class Measured:
    """A value an item, and a curve an item where the metric is the area under one."""

    values: Float[Tensor, " item"]
    fractions: Float[Tensor, " point"] | None = None
    heights: Float[Tensor, "item point"] | None = None


def measured(metric: Metric, trial: Trial) -> Measured:
    """The metric's values; a curve is made once, and its area taken by the metric's own rule."""
    if not isinstance(metric, Curve):
        return Measured(metric.measure(trial).cpu())
    if lacking := trial.lacks(metric.needs):
        raise InputError(f"{metric.card.name} lacks {', '.join(lacking)}")
    fractions, heights = metric.fractions(trial).cpu(), metric.curves(trial).cpu()
    if type(metric).values is not Curve.values:
        return Measured(metric.values(trial).cpu(), fractions, heights)
    return Measured(_Made(fractions, heights).values(trial), fractions, heights)


class Removals:
    """Curves of what was removed, made once for all metrics that ask for the same ones of a trial:
    SRG's are those of MIF and of LIF."""

    def __init__(self) -> None:
        self._of: Trial | None = None
        self._made: dict[Any, Tensor] = {}

    def share(self, metric: Metric) -> Metric:
        """The same metric, its curves looked up here first."""
        if not isinstance(metric, PerturbationCurve):
            return metric
        shared = copy.copy(metric)
        # The copy's own `heights` stands before the class's.
        object.__setattr__(shared, "heights", partial(self._heights, metric))
        return shared

    def _heights(self, metric: PerturbationCurve, trial: Trial, first: First) -> Tensor:
        if trial is not self._of:
            self._of, self._made = trial, {}
        options = (metric.imputer, metric.unit, metric.of, metric.direction, metric.shares())
        if (*options, first) not in self._made:
            self._made[*options, first] = metric.heights(trial, first)
        return self._made[*options, first]


class _Made(Curve):
    """A curve that is there already, for `Curve`'s own rule."""

    def __init__(self, at: Tensor, heights: Tensor) -> None:
        self.at, self.heights = at, heights

    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        del trial
        return self.at

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        del trial
        return self.heights


def _refused(metric: Metric, trial: Trial) -> str | None:
    """Why the metric cannot be measured in this trial; None where it can."""
    if lacking := trial.lacks(metric.needs):
        return "; ".join(dict.fromkeys(LACKS[need] for need in lacking))
    try:
        measured(metric, trial)
    except HeatproofError as error:
        return str(error)
    return None


def _append(
    columns: dict[str, list[Any]],
    asked: TaskBatch,
    entrant: Entrant,
    each: Measure,
    **own: list[Any],
) -> None:
    count = len(asked)
    same = {
        "method": entrant.label,
        "settings": json.dumps(plain(entrant.method.settings())),
        "metric": each.label,
        "metric_settings": json.dumps(plain(each.metric.settings())),
    }
    columns["item"] += asked.index.tolist()
    columns["image"] += asked.names
    columns["prompt"] += asked.prompts
    columns["right"] += asked.answers
    for name, value in same.items():
        columns[name] += [value] * count
    for name, value in own.items():
        columns[name] += value


class _Clock:
    """What is left, by what each method took for a picture: first when tried, then as it went."""

    def __init__(self, cost: Mapping[str, float], pictures: int, watch: Watch) -> None:
        self.cost, self.pictures, self.watch = dict(cost), pictures, watch
        self.left, self.within, self.rate = float(pictures), 0.0, 0.0
        self.seen: set[str] = set()

    def skip(self, pictures: int) -> None:
        self.left -= pictures

    def took(self, label: str, seconds: float, pictures: int) -> None:
        self.cost[label] = seconds / pictures
        self.within += seconds

    def finish(self, pictures: int) -> None:
        self.left, self.within = self.left - pictures, 0.0

    def say(self, doing: str, done: int) -> None:
        left = max(0.0, self.left * sum(self.cost.values()) - self.within)
        self.watch(Progress(doing, done, self.pictures, left))
