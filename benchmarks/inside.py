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
        "reliability": pairs.reliability.plain,
        "choice": {
            "trained": mean(pairs.choice[trained]).plain,
            "held out": mean(pairs.choice[~trained]).plain,
        },
        "cause": {
            "trained": mean(pairs.cause[trained]).plain,
            "held out": mean(pairs.cause[~trained]).plain,
        },
        "accuracy": {
            "trained": mean(pairs.accuracy[trained]).plain,
            "held out": mean(pairs.accuracy[~trained]).plain,
        },
        "right is first": {key: right_is_first(v).plain for key, v in graded.items()},
        "likeness": {
            key: dict(zip(LIKENESS, (m.plain for m in map(mean, v.T)), strict=True))
            for key, v in graded.items()
        },
    }


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
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = {n: pool.submit(measured, n, asked.each_pair, asked.likeness) for n in names}
        for name, job in jobs.items():
            found[name] = job.result()
            print(name, json.dumps(found[name].get("with the cause")), flush=True)
    result = {
        "images": asked.each_pair * PAIRS,
        "graded": asked.likeness,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "methods": found,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
