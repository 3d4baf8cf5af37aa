"""`benchmark`: measure values, say what they allow to be claimed, and write both to files."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from heatproof import checking, extras
from heatproof.benchmarking.files import write
from heatproof.benchmarking.request import (
    MethodEntry,
    MethodInputs,
    MetricEntry,
    method_entries,
    metric_entries,
    plain,
)
from heatproof.benchmarking.run import BenchmarkProgress, BenchmarkRun, Watch
from heatproof.benchmarking.spreading import BenchmarkRequest
from heatproof.benchmarking.store import KINDS, Table
from heatproof.benchmarking.tables import (
    SPLITS,
    Curves,
    Split,
    TableRow,
    Values,
    collect,
    comparisons,
    ranked,
    stability,
)
from heatproof.data.dataset import LabelledImages
from heatproof.data.opening import check as check_data
from heatproof.engine import inputs
from heatproof.engine.certify import environment
from heatproof.engine.inputs import ModelInput
from heatproof.errors import InputError
from heatproof.metrics.base import Metric
from heatproof.models import load as load_model
from heatproof.pages.folder import check_folder
from heatproof.parallel.pool import Pool
from heatproof.statistics import FEWEST
from heatproof.store.lock import locked


@dataclass(frozen=True, eq=False)
class Result:
    """The results of a benchmark.

    `summary` is what benchmark.json holds, in plain values. `folder` holds every single value; it
    is deleted with this object where none was asked for.
    """

    summary: dict[str, Any]
    folder: Path

    @property
    def values(self) -> Table:
        """A row per item, method and metric; columns as in `store.SCHEMAS`."""
        return pq.read_table(self.folder / "values.parquet")

    @property
    def curves(self) -> Table:
        """A row per item, method and metric that has a curve."""
        return pq.read_table(self.folder / "curves.parquet")

    def table(self, metric: str, split: str = "right") -> list[dict[str, Any]]:
        """Return a metric's rows, best first: mean with interval, and the paired differences.

        Raises:
            InputError: it was not measured.
        """
        for each in self.summary["metrics"]:
            if metric in (each["label"], each["name"]) and split in each["tables"]:
                return each["tables"][split]
        known = ", ".join(each["label"] for each in self.summary["metrics"])
        raise InputError(f"no metric {metric!r} was measured ({split}); known: {known}")

    def save(self, folder: str | Path) -> Path:
        """Write all files into `folder`; returns the path of the page."""
        out = checking.path("folder", folder)
        check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        for name in ("values.parquet", "curves.parquet"):
            shutil.copyfile(self.folder / name, out / name)
        return write(self.summary, out)


def benchmark(
    methods: MethodInputs = "all",
    model: ModelInput = "scenes",
    data: str | Path | LabelledImages | None = None,
    *,
    metrics: str | Metric | Sequence[str | Metric] = "main",
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "cpu",
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    options: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    progress: Watch | None = None,
) -> Result:
    """Measure how good the maps of several methods are, on one model and labelled images.

    Args:
        methods: "all", names ("gae,rollout"), a method object, a function (PIL image, prompt) ->
            map, a function of the model that returns one, a list of these, or a dict of them by the
            name that they get in the table. The controls are always there.
        model: a model, or what `load` takes; `device` is where that one goes.
        data: "scenes" (the default for the embedded model), a folder, KIND:PATH (see
            `heatproof.data`), or pictures with their objects.
        metrics: "main", "all", names ("deletion,pointing-game", options as NAME:OPTION=VALUE),
            metric objects, or a list of these.
        images: how many pictures at most; by default all of the data, and 500 scenes.
        batch_size: how many pictures go through together, and how many perturbed ones.
        engine, workers, address: who measures chunks of `batch_size` pictures: this process, so
            many processes, or so many actors of Ray (see `parallel.pool.Pool`); the values are
            the same.
        options: of methods that are named, as METHOD.OPTION -> value.
        out: a folder for the files. A run that was stopped goes on in it.
        progress: called with a `BenchmarkProgress` before each method of each chunk.

    Raises:
        InputError: something handed in is at fault. What this model or these data cannot serve is
            left out instead, and the result says why (`summary["left_out"]`).
    """
    if images is not None:
        checking.whole("images", images, least=1)
    checking.whole("batch_size", batch_size, least=1)
    checking.seed(seed)
    checking.device(device)
    checking.progress(progress, "doing")
    pool = Pool(engine=engine, workers=workers, address=address)
    chosen = method_entries(methods, checking.settings("options", options))
    wanted = metric_entries(metrics)
    if data is not None and not isinstance(data, LabelledImages):
        check_data(data)
    if out is not None:
        check_folder(checking.path("out", out))
        extras.require("benchmark")
    loaded = load_model(model, device=device) if isinstance(model, str) else inputs.model_of(model)
    folder = Path(tempfile.mkdtemp(prefix="heatproof-")) if out is None else Path(out)
    request = BenchmarkRequest(
        methods=chosen, metrics=wanted, data=data, images=images, seed=seed, batch_size=batch_size
    )
    try:
        check_folder(folder)
        parts = folder / "parts"
        with locked(parts):
            run = request.on(loaded, parts, progress or _unwatched)
            spread = partial(request.spread, run, pool)
            run.run(None if pool.alone else spread)
        result = Result(summarised(run), folder)
        for kind in KINDS:
            run.store.join(kind, folder / f"{kind}.parquet")
        if out is not None:
            write(result.summary, folder)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _unwatched(progress: BenchmarkProgress) -> None:
    del progress


def summarised(run: BenchmarkRun) -> dict[str, Any]:
    """Return what benchmark.json holds."""
    values = collect(run.store.tables("values"))
    task, seed = run.task, run.task.seed
    seconds = run.store.seconds()
    curves = Curves()
    for table in run.store.tables("curves"):
        curves.add(table)
    answers = next(iter(values.values())).answers
    asked = {split: int((answers == number).sum()) for split, number in SPLITS.items()}
    items = {"pictures": run.count, "items": len(answers), **asked}
    tables = {each.label: _tables(each, values[each.label]) for each in run.metrics
              if each.label in values}  # fmt: skip
    every = [rows for splits in tables.values() for rows in splits.values()]
    return {
        "model": task.model.spec,
        "data": task.data.name,
        **items,
        "seed": seed,
        "notices": [*task.model.notices, *task.data.notices],
        "methods": [_method(each, seconds, items["items"]) for each in run.methods],
        "metrics": [
            {
                **_metric(each, tables[each.label]),
                "curve": curves.of(each.label),
                "seconds": round(seconds.get(f"metric {each.label}", 0.0), 2),
            }
            for each in run.metrics
            if each.label in tables
        ],
        "comparisons": comparisons(every),
        "fewest": FEWEST,
        "left_out": _left_out(run),
        "stability": [each.plain for each in stability(values, _imputers(run), seed=seed)],
        "seconds": round(sum(seconds.values()), 1),
        "environment": environment(task.model, seed),
        "order": run.store.order,
        "schema": 2,
    }


def _method(entry: MethodEntry, seconds: dict[str, float], items: int) -> dict[str, Any]:
    took = seconds.get(f"method {entry.label}")
    return {
        "label": entry.label,
        "name": entry.method.card.name,
        "settings": plain(entry.method.settings()),
        "control": entry.control,
        "changes": entry.method.card.changes,
        "seconds_per_map": None if took is None or not items else took / items,
    }


def _tables(entry: MetricEntry, values: Values) -> dict[Split, list[TableRow]]:
    card = entry.metric.card
    return {
        split: ranked(values, split, card.better, bounds=card.bounds) for split in values.splits
    }


def _metric(entry: MetricEntry, tables: Mapping[Split, list[TableRow]]) -> dict[str, Any]:
    card = entry.metric.card
    keys = ("name", "summary", "formula", "better", "chance", "source", "endpoints", "imputer",
            "steps", "space", "ties", "undefined", "differs")  # fmt: skip
    return {
        "label": entry.label,
        **{key: getattr(card, key) for key in keys},
        "settings": plain(entry.metric.settings()),
        "tables": {split: [row.plain for row in rows] for split, rows in tables.items()},
    }


def _left_out(run: BenchmarkRun) -> list[dict[str, Any]]:
    """Return what was not measured and why; a metric that no method has, once."""
    noted: dict[str, dict[str, str]] = run.store.notes["left_out"]
    there = {label: reasons for label, reasons in noted.items() if "" not in reasons}
    found: list[dict[str, Any]] = [
        {"method": label, "metric": None, "reason": reasons[""]}
        for label, reasons in noted.items()
        if "" in reasons
    ]
    for each in run.metrics:
        reasons = {label: r[each.label] for label, r in there.items() if each.label in r}
        if len(reasons) == len(there) and len(set(reasons.values())) == 1:
            reason = next(iter(reasons.values()))
            found.append({"method": None, "metric": each.label, "reason": reason})
            continue
        found += [
            {"method": label, "metric": each.label, "reason": reason}
            for label, reason in reasons.items()
        ]
    return found


def _imputers(run: BenchmarkRun) -> dict[str, tuple[str, str]]:
    """Return by label: the label without its imputer, and the imputer."""
    found: dict[str, tuple[str, str]] = {}
    for each in run.metrics:
        settings = plain(each.metric.settings())
        if "imputer" in settings:
            own = [part for part in each.label.split() if not part.startswith("imputer=")]
            found[each.label] = (" ".join(own), str(settings["imputer"]))
    return found
