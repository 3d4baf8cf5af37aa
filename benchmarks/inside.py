"""Does a map follow the model within one model? By pair of colour and shape, and by wrong prompts.

Definitions and rules are in `evaluation/inside_one_model.py`; nothing is changed in the model.

    python benchmarks/inside.py [--methods all] [--each-pair 12] [--likeness 128] [--workers 2]

`python docs/generate.py` makes docs/inside.md of the results.
"""

import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import heatproof
from heatproof import methods
from heatproof.data.scenes.pairs import PAIRS, pair_images
from heatproof.data.scenes.vocabulary import HELD_OUT, SHAPES
from heatproof.errors import HeatproofError
from heatproof.evaluation.inside_one_model import (
    LIKENESS,
    likeness_figures,
    pair_figures,
    right_is_first,
)
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask
from heatproof.statistics import mean

RESULTS = Path(__file__).parent / "results" / "inside.json"
FEWER = {"rise": {"masks": 200}, "integrated-gradients": {"steps": 10}, "m2ib": {"batch": 2}}
TRAINED = [p for p in range(PAIRS) if (p % len(SHAPES), p // len(SHAPES)) not in HELD_OUT]


def measured(method: str, each_pair: int, likeness: int) -> dict[str, Any]:
    """Both questions, for one method."""
    torch.set_num_threads(1)
    model = heatproof.load("scenes")
    subject = Subject.of(method, **FEWER.get(method, {}))
    data = pair_images(each_pair)
    try:
        pairs = pair_figures(EvaluationTask(model, data), subject)
        graded = likeness_figures(EvaluationTask(model, data.first(likeness)), subject)
    except HeatproofError as error:
        return {"reason": str(error)}
    trained = torch.isin(pairs.pair, torch.tensor(TRAINED))
    return {
        "with the cause": pairs.correlation("cause").plain,
        "with accuracy": pairs.correlation("accuracy").plain,
        "choice": split(pairs.choice, trained),
        "right is first": right_is_first(graded["contrast"]).plain,
        "likeness": by_grade(graded["contrast"]),
    }


def of_the_model(each_pair: int, likeness: int) -> dict[str, Any]:
    """What the model itself does on the same images; no map enters."""
    model, data, any_method = heatproof.load("scenes"), pair_images(each_pair), Subject.of("center")
    pairs = pair_figures(EvaluationTask(model, data), any_method)
    graded = likeness_figures(EvaluationTask(model, data.first(likeness)), any_method)["score"]
    trained = torch.isin(pairs.pair, torch.tensor(TRAINED))
    return {
        "reliability": pairs.reliability.plain,
        "cause": split(pairs.cause, trained),
        "accuracy": split(pairs.accuracy, trained, (0, 1)),
        "right is first": right_is_first(graded).plain,
        "likeness": by_grade(graded),
    }


def split(
    values: torch.Tensor, trained: torch.Tensor, bounds: tuple[float, float] | None = None
) -> dict[str, Any]:
    parts = {"trained": trained, "held out": ~trained}
    return {name: mean(values[rows], bounds=bounds).plain for name, rows in parts.items()}


def by_grade(values: torch.Tensor) -> dict[str, Any]:
    return dict(zip(LIKENESS, (mean(column).plain for column in values.T), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="all")
    parser.add_argument("--each-pair", type=int, default=12)
    parser.add_argument("--likeness", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    catalogue = methods.catalogue()
    every = [name for name in catalogue if "image" in catalogue[name].sides]
    names = every if asked.methods == "all" else asked.methods.split(",")
    # Methods that were measured on the same images are kept.
    old = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    same = (old.get("images"), old.get("graded")) == (asked.each_pair * PAIRS, asked.likeness)
    found: dict[str, Any] = old["methods"] if same else {}
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = {n: pool.submit(measured, n, asked.each_pair, asked.likeness) for n in names}
        for name, job in jobs.items():
            found[name] = job.result()
            print(name, json.dumps(found[name].get("with the cause")), flush=True)
    result = {
        "images": asked.each_pair * PAIRS,
        "graded": asked.likeness,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "model": of_the_model(asked.each_pair, asked.likeness),
        "methods": found,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
