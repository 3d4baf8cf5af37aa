"""Which method should be the default? Quality against cost, for every method of the catalogue.

    python benchmarks/default.py [--images 500] [--workers 2] [--work out/default]

What each method gave is kept in the working folder (`--work`): a run that was stopped goes on.
Results go to `benchmarks/results/which_method.json`, and what the package shows of them to
`src/heatproof/method_study.json`. `python docs/generate.py` makes docs/which_method.md.

The rule below was committed before any number of this study was looked at. Known by then was the
older table of all methods (docs/benchmark_scenes.md), which was measured on other weights of
`scenes` and on other scenes.

**Measured.** Every method with its own default options, on `scenes` and its two other seeds, on
scenes that no other table uses. Columns of the image side, over the images where the model is
right: SRG and MIF under mean, blur and token removal; pointing, multi-object pointing, average
precision. Columns of the text side, on prompts "a X and a Y" of which one shape is in the image and
the other is not, in drawn order: how often the present shape's word is the higher one (pairs), and
the mean score while words are deleted, highest first (word deletion). Cost: the time of `explain`
without a certificate over that of a bare forward pass of the same inputs, for 1, 10, 100 and 1,000
prompts, on a ViT-B/32 of true size with random weights, in time of one processor core.

**Gates**, for both names below:

1. certificate: it holds on `scenes`, and on every family of specimens where the method runs;
2. blind: on a model whose readout sees no patch, the map is constant;
3. shortcuts: the AUC of `benchmarks/shortcuts.py`, the lower end of its interval, is at least .95
   for every cue that was measured;
4. controls: on `scenes`, every column is better than the best control (the benchmark's rule of
   claims). On the text side: pairs, lower end above the best control's upper end; the controls are
   a random map, and maps that prefer the first word or the last one;
5. level: SRG (mean) on `scenes` is at least .47 (image side).

**default** of a side: costs at most 100 bare passes for 1 prompt and at most 1,000 for 100 prompts.
Of those that pass, the best mean rank over the columns and the three models. A cheaper one (for 1
prompt) is taken instead where its mean rank is worse by less than half a rank.

**fast** of a side: costs at most 2 bare passes for 1 prompt, and at most 3 for 100 prompts; the
best mean rank, as above. Where nothing keeps the price, `fast` stands for the default.

Either may refuse families of models, because its mathematics does not apply to them. For a model
that refuses it, the best one that refuses no family comes next, chosen in the same way.

**If none passes**, gates are dropped one at a time, from the last to the second, until one does;
the page names the gates that the chosen method does not pass. The certificate is never dropped. A
gate that was not measured is passed, and the page says "not measured".

Ranks are among the methods that are left for the name in question; equal values share a rank.

One change was made later, still before any number of this study was looked at: the default, too,
may refuse families. Token removal, which two methods rest on, is not defined for attention pools.
"""

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import default_measures as measures
import default_rule as rule
import heatproof
from heatproof import methods, statistics
from heatproof.benchmarking.request import CONTROLS, metric_entries
from heatproof.benchmarking.store import ResultStore, Table
from heatproof.benchmarking.tables import collect, ranked
from heatproof.evaluation.store import write_whole

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGE = ROOT / "src" / "heatproof" / "method_study.json"
MODELS = ("scenes", "scenes:seed-1", "scenes:seed-2")
PARTS = ("image", "text", "blind", "certificates", "cost")
COSTED = "open_clip:ViT-B-32"
TEXT_CONTROLS = ("random", *measures.PLACES)
Study = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="all")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=500, help="of the first model")
    parser.add_argument("--others", type=int, default=200, help="images of the other models")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the quality on the image side")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--work", type=Path, default=Path("out/default"))
    parser.add_argument("--out", type=Path, default=RESULTS / "which_method.json")
    parser.add_argument("--package", type=Path, help="where to write what the package shows")
    asked = parser.parse_args()
    everything = list(methods.catalogue())
    names = everything if asked.methods == "all" else asked.methods.split(",")
    names += [name for name in CONTROLS if name not in names]
    counts = {spec: asked.images if n == 0 else asked.others for n, spec in enumerate(asked.models)}
    done = Done(asked.work)
    # First, for a process that forks must not have started threads of its own.
    if "cost" in asked.parts:
        _time_all(names, done, asked.workers)
    jobs = [job for job in _measuring(names, counts, asked.device, asked.work)
            if job[0].split()[0] in asked.parts]  # fmt: skip
    with ProcessPoolExecutor(asked.workers) as pool:
        _run(pool, done, jobs)
    study = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {asked.device}, "
        f"torch {torch.__version__}",
        "images": counts,
        "costed": COSTED,
        "image": _image_side(names, counts, done, asked.work),
        "text": _text_side(names, counts, done),
    }
    study["chosen"] = {side: rule.chosen(study[side], side) for side in ("image", "text")}
    _write(asked.out, study)
    if asked.package is not None:
        _write(asked.package, shown(study))
    print(json.dumps(study["chosen"], indent=1))


# --- running --------------------------------------------------------------------------------------

Job = tuple[str, Any, tuple[Any, ...]]
"""What a result is called, the function that measures it, and its arguments."""


MISSING: Study = {"reason": "not measured"}


class Done:
    """Results of earlier runs and of this one, a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def __getitem__(self, key: str) -> Any:
        return json.loads(self._path(key).read_text()) if key in self else MISSING

    def add(self, key: str, result: Any) -> None:
        """Write a result down."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self._path(key), result)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace(':', '-').replace('/', '-').replace(' ', '-')}.json"


def _run(pool: ProcessPoolExecutor, done: Done, jobs: Sequence[Job]) -> None:
    running: dict[Future[Any], str] = {}
    for key, call, arguments in jobs:
        if key not in done:
            running[pool.submit(call, *arguments)] = key
    for number, future in enumerate(as_completed(running), 1):
        done.add(running[future], future.result())
        print(f"{number} of {len(running)}: {running[future]}", flush=True)


def _measuring(
    names: list[str], counts: Mapping[str, int], device: str, work: Path
) -> Iterator[Job]:
    # The slow ones first, so that no process is left alone with one of them at the end.
    for name in sorted(names, key=lambda name: name not in measures.FEWER):
        for spec, count in counts.items():
            folder = _folder(work, spec, name, count)
            arguments = (spec, name, count, device, folder)
            yield f"image {spec} {name} {count}", measures.image_quality, arguments
    for name in [*(n for n in names if _explains_text(n)), *measures.PLACES]:
        for spec, count in counts.items():
            yield (
                f"text {spec} {name} {count}",
                measures.text_quality,
                (spec, name, count),
            )
    for name in names:
        yield f"certificates {name}", measures.certificates, (name,)
        yield f"blind {name}", measures.blind_share, (name,)


def _time_all(names: list[str], done: Done, workers: int) -> None:
    """Time every method in a process of its own, which inherits the model and its memory."""
    jobs = [(name, side) for name in names for side in methods.catalogue()[name].sides]
    jobs = [job for job in jobs if f"cost {job[1]} {job[0]}" not in done]
    torch.set_num_threads(1)
    call = partial(measures.cost_of, heatproof.load(COSTED))
    with get_context("fork").Pool(workers, maxtasksperchild=1) as pool:
        for number, (job, result) in enumerate(pool.imap_unordered(call, jobs), 1):
            done.add(f"cost {job[1]} {job[0]}", result)
            print(f"{number} of {len(jobs)}: cost {job}", flush=True)


def _folder(work: Path, spec: str, name: str, count: int) -> Path:
    return work / spec.replace(":", "-") / f"{name}-{count}"


def _explains_text(name: str) -> bool:
    return "text" in methods.catalogue()[name].sides


# --- results --------------------------------------------------------------------------------------


def _image_side(names: list[str], counts: Mapping[str, int], done: Done, work: Path) -> Study:
    rows = {name: _gates(name, "image", done) for name in names}
    columns: Study = {}
    for spec, count in counts.items():
        values = collect(_tables(names, spec, count, done, work))
        for entry in metric_entries(list(measures.METRICS)):
            if entry.label not in values:
                continue
            card = entry.metric.card
            columns[entry.label] = card.better
            for row in ranked(values[entry.label], "right", card.better, bounds=card.bounds):
                mark = row.over_control.verdict if row.over_control else None
                figure = {**row.mean.plain, "over controls": mark}
                rows[row.method]["columns"].setdefault(spec, {})[entry.label] = figure
    return {"columns": columns, "controls": list(CONTROLS), "methods": rows}


def _tables(names: list[str], spec: str, count: int, done: Done, work: Path) -> Iterator[Table]:
    for name in names:
        if done[f"image {spec} {name} {count}"] is None:
            parts = _folder(work, spec, name, count) / "parts"
            manifest = json.loads((parts / "manifest.json").read_text())
            yield from ResultStore(parts, manifest["order"]).tables("values")


def _text_side(names: list[str], counts: Mapping[str, int], done: Done) -> Study:
    named = [name for name in names if _explains_text(name)]
    rows = {name: _gates(name, "text", done) for name in named}
    rows |= {name: {"columns": {}} for name in measures.PLACES}
    columns = {"pairs": "higher", "word deletion": "lower"}
    for spec, count in counts.items():
        for name, row in rows.items():
            result = done[f"text {spec} {name} {count}"]
            if "reason" in result:
                row["refused"] = result["reason"]
                continue
            row["columns"][spec] = {
                column: statistics.mean(
                    torch.tensor(result[column]), bounds=(0, 1) if column == "pairs" else None
                ).plain
                for column in columns
            }
    return {"columns": columns, "controls": list(TEXT_CONTROLS), "methods": rows}


def _gates(name: str, side: str, done: Done) -> Study:
    """What is asked of a method beside its quality."""
    return {
        "columns": {},
        "certificate": done[f"certificates {name}"].get(side),
        "blind": done[f"blind {name}"] if side == "image" else None,
        "shortcuts": _shortcuts(name) if side == "image" else None,
        "cost": done[f"cost {side} {name}"],
    }


def _shortcuts(name: str) -> Study | None:
    path = RESULTS / "shortcuts.json"
    measured = json.loads(path.read_text())["methods"] if path.is_file() else {}
    return measured.get(name, {}).get("cues")


def shown(study: Study) -> Study:
    """Return the part of a study that the package shows: `heatproof methods`."""
    rows: dict[str, Study] = {}
    for side, column in (("image", measures_of_image()), ("text", "pairs")):
        for name, row in study[side]["methods"].items():
            if name not in methods.catalogue() or "certificate" not in row:
                continue
            figure = row["columns"].get(next(iter(study["images"])), {}).get(column, {})
            prompts = row["cost"].get("prompts", {})
            rows.setdefault(name, {})[side] = {
                "certificate": rule.certificate_holds(row),
                "quality": figure.get("value"),
                "passes": {n: round(cost["passes"], 2) for n, cost in prompts.items()},
            }
    return {
        "date": study["date"],
        "hardware": study["hardware"],
        "images": study["images"],
        "costed": study["costed"],
        "quality": {"image": "SRG", "text": "pairs"},
        "names": {
            side: {name: picked["methods"] for name, picked in of_side.items()}
            for side, of_side in study["chosen"].items()
        },
        "methods": rows,
    }


def measures_of_image() -> str:
    """Return the label of the column that `heatproof methods` shows: SRG, mean imputer."""
    return metric_entries(measures.METRICS[0])[0].label


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda aside: aside.write_text(text, "utf-8"))


if __name__ == "__main__":
    main()
