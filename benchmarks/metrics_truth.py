"""Which metrics to trust: metrics ranked by their agreement with what objects really do.

The truth is exact on rendered scenes: the same scene is drawn again without each of its objects,
and the fall of the named prompt's score is that object's effect. No imputer enters.

Rule, written before any figure: a method's truth is the share of pairs of objects of one image that
its map (summed over each object's patches) orders as their effects do, ties counted half, averaged
over images; 1/2 is chance. A metric is as good as its ranking of the methods (mean over the same
images, higher is better) agrees with the ranking by truth: Kendall's tau-b over methods. Intervals
are of images: a bootstrap that draws images anew for the metric and the truth alike. Controls that
know no model take part: a metric that prefers them is found out. A metric is trusted when the lower
end of its interval is above that of every metric outside the first three, or when no more than
three remain whose interval reaches the best value; otherwise the page names all that reach it.

    python benchmarks/metrics_truth.py [--images 100] [--methods a,b] [--metrics x,y] [--workers 2]
"""

import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.benchmarking.request import CONTROLS, main_metrics
from heatproof.data.scenes.single_attribute import asked
from heatproof.errors import HeatproofError
from heatproof.evaluation.counterfactual import removal_costs, removals
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask
from heatproof.statistics import bootstrap, kendall

RESULTS = Path(__file__).parent / "results" / "metrics_truth.json"
SEED = 3500
FEWER = {
    "rise.masks": "200",
    "integrated-gradients.steps": "10",
    "second-order.steps": "5",
    "m2ib.batch": "2",
}
MORE = (
    "lif:steps=5",
    "positive-perturbation",
    "negative-perturbation",
    "drop",
    "increase",
    "infidelity:samples=20",
    "attribution-error",
    "completeness",
    "mean-iou",
    "sparseness",
    "entropy",
    "sensitivity-max:samples=2",
    "prompt-sensitivity",
    "efficient-randomisation",
)


def task_of(images: int) -> EvaluationTask:
    return EvaluationTask(heatproof.load("scenes"), asked(images, "shape", seed=SEED))


def truth(label: str, images: int) -> list[float]:
    """For each image, the share of pairs of objects that the method's map orders as they act."""
    torch.set_num_threads(1)
    task = task_of(images)
    batch = task.batch(0, images)
    shown = removals(task.data)
    prompts = batch.named[torch.tensor(shown.image)]
    after = task.paired(task.encode(task.preprocessed(shown.photos)), prompts).cpu()
    before = task.paired(task.encode(batch.pixels), batch.named).cpu()
    effect = removal_costs(before, after, shown, batch.labels.shape[1])
    heat = torch.einsum("irc,iorc->io", maps_of(label, batch), batch.objects.double())
    return [ordered_alike(one, other) for one, other in zip(heat, effect, strict=True)]


def maps_of(label: str, batch: Any) -> Tensor:
    settings = {k.split(".")[1]: v for k, v in FEWER.items() if k.split(".")[0] == label}
    subject = Subject.of(label, **{k: int(v) for k, v in settings.items()})
    out = torch.zeros(len(batch), *batch.task.grid, dtype=torch.float64)
    for prompt in batch.named.unique().tolist():
        rows = (batch.named == prompt).nonzero()[:, 0]
        text = [batch.task.data.prompts[prompt]]
        out[rows] = subject.maps(batch.task.model, batch.pixels[rows], text)[:, 0].double().cpu()
    return out


def ordered_alike(heat: Tensor, effect: Tensor) -> float:
    """The share of pairs that two lists order alike, ties half; NaN with fewer than two."""
    known = ~effect.isnan()
    heat, effect = heat[known], effect[known]
    first, second = torch.triu_indices(len(heat), len(heat), 1)
    if not len(first):
        return float("nan")
    same = (heat[first] - heat[second]).sign() * (effect[first] - effect[second]).sign()
    return float((same.double().mean() + 1) / 2)


def benchmark(label: str, images: int, metrics: list[str], folder: str) -> dict[str, list[float]]:
    """Every metric of every image for one method, higher is better."""
    torch.set_num_threads(1)
    options = {k: v for k, v in FEWER.items() if k.split(".")[0] == label}
    result = heatproof.benchmark(
        label,
        "scenes",
        asked(images, "shape", seed=SEED),
        metrics=metrics,
        batch_size=64,
        options=options,
        out=Path(folder) / label,
    )
    rows = result.values.to_pylist()
    found: dict[str, list[float]] = {}
    for metric in result.summary["metrics"]:
        sign = 1.0 if metric["better"] == "higher" else -1.0
        values = np.full(images, np.nan)
        settings = json.dumps(metric["settings"], sort_keys=True)
        for row in rows:
            same = json.dumps(json.loads(row["metric_settings"]), sort_keys=True) == settings
            if row["metric"] == metric["name"] and row["method"] == label and same:
                values[row["item"]] = sign * row["value"]
        found[metric["label"]] = values.tolist()
    return found


def one(label: str, images: int, metrics: list[str], folder: str) -> dict[str, Any]:
    try:
        return {
            "truth": truth(label, images),
            "metrics": benchmark(label, images, metrics, folder),
        }
    except HeatproofError as error:
        return {"reason": str(error)}


def agreement(metric: Tensor, true: Tensor) -> Any:
    """Kendall's tau-b over methods of the two means, with its bootstrap over images.

    metric, true: (method, image); NaN are left out of a mean.
    """
    usable = ~metric.isnan().all(1)
    values, truths = metric[usable], true[usable]

    def tau(rows: Tensor) -> Tensor:
        means = [part[:, rows].nanmean(-1).T for part in (values, truths)]
        return kendall(*means)

    return bootstrap(tau, metric.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--metrics", default=",".join((*main_metrics(5), *MORE)))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/metrics_truth"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    catalogue = methods.catalogue()
    every = [name for name in catalogue if "image" in catalogue[name].sides]
    names = every if given.methods == "all" else given.methods.split(",")
    names = [*names, *(name for name in CONTROLS if name not in names)]
    metrics = given.metrics.split(",")
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(given.workers) as pool:
        jobs = {n: pool.submit(one, n, given.images, metrics, str(given.work)) for n in names}
        for name, job in jobs.items():
            found[name] = job.result()
            print(name, found[name].get("reason", ""), flush=True)
    kept = [name for name in names if "truth" in found[name]]
    true = torch.tensor([found[name]["truth"] for name in kept], dtype=torch.float64)
    labels = list(found[kept[0]]["metrics"])
    ranked = {}
    for label in labels:
        missing = [float("nan")] * given.images
        rows = [found[name]["metrics"].get(label, missing) for name in kept]
        ranked[label] = agreement(torch.tensor(rows, dtype=torch.float64), true).plain
    result = {
        "images": given.images,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "truth": {n: float(t) for n, t in zip(kept, true.nanmean(1), strict=True)},
        "metrics": dict(sorted(ranked.items(), key=lambda item: -(item[1]["value"] or -2))),
        "left_out": {n: found[n]["reason"] for n in names if n not in kept},
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
