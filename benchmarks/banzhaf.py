"""Measure `banzhaf`: against every other method, what its intervals cover, and what it costs.

    python benchmarks/banzhaf.py compare [--scenes 500] [--seed 4242] [--workers 4] [--device cuda]
    python benchmarks/banzhaf.py variants [--scenes 200] [--seed 71] [--workers 4]
    python benchmarks/banzhaf.py coverage [--scenes 100] [--seed 5151] [--workers 4]
    python benchmarks/banzhaf.py speed [--model open_clip:ViT-B-32]

Each writes one file into `-o` (default: benchmarks/results). Killed, the same command goes on where
it was: finished chunks lie in the folder `--work`.

Rules, written before the numbers:

- `variants` chooses on its own scenes, `compare` reports on others; no scene is in both.
- A variant (another start of the regression, more samples, a combination with occlusion) replaces
  the default only if it is above it in SRG under every imputer, or above it in multi-object
  pointing and not below it in SRG under any. Above and below: the 95 % interval of the paired
  difference lies on one side of 0.
- `banzhaf` is above a method in a column if the interval of the paired difference lies above 0, and
  not below the best in average precision if the interval of its difference from the method of
  the highest mean does not lie below 0.
- Coverage: the share of patches whose interval (value +- 1.96 errors) holds the value that least
  squares gives of 16,384 scores of coalitions that have nothing to do with the method's. It
  should be 92 to 98 %. The hottest tenth of the patches is told apart.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import heatproof
from explain_cost import ratio, seconds
from heatproof import methods, metrics, statistics
from heatproof.benchmarking.trial import MapMaker, attempt, shared
from heatproof.data import opening
from heatproof.errors import HeatproofError
from heatproof.evaluation.task import EvaluationTask
from heatproof.image_maps import ESTABLISHED
from heatproof.methods import Method

RESULTS = Path(__file__).parent / "results"
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "SRG, mean": ("srg", {}),
    "SRG, blur": ("srg", {"imputer": "blur"}),
    "SRG, tokens": ("srg", {"imputer": "tokens"}),
    "average precision": ("average-precision", {}),
    "pointing": ("pointing", {}),
    "multi-object pointing": ("multi-object-pointing", {}),
    "hottest object": ("multi-object-pointing", {"of": "hottest"}),
}
SRG = tuple(name for name in METRICS if name.startswith("SRG"))
# Methods of thousands of passes get several times the evaluations of banzhaf, not their default.
FEWER: dict[str, dict[str, Any]] = {"kernel-shap": {"samples": 256}, "rise": {"masks": 512}}
# What the choice is between: the start of the regression, its length, and combinations.
VARIANTS: dict[str, dict[str, Any]] = {
    "banzhaf": {},
    "banzhaf, start: none": {"gradient": "none"},
    "banzhaf, 32 samples": {"samples": 32},
    "banzhaf, 128 samples": {"samples": 128},
    "banzhaf, 256 samples": {"samples": 256},
    "shapley": {"value": "shapley"},
    "shapley, 256 samples": {"value": "shapley", "samples": 256},
}
SAMPLES = (32, 64, 128, 256)
REFERENCE = 16384


@dataclass(frozen=True)
class Job:
    """One chunk of scenes, for one process."""

    kind: str
    spec: str
    device: str
    data: str
    seed: int
    scenes: int
    start: int
    stop: int
    methods: tuple[str, ...]
    reference: int
    path: Path


def job_done(job: Job) -> Path:
    """Run a job, unless its file is there."""
    if not job.path.exists():
        torch.set_num_threads(1)
        model = heatproof.load(job.spec, device=job.device)
        size = 64 if job.device == "cpu" else 2048
        data = opening.open(job.data, most=job.scenes, seed=job.seed)
        task = EvaluationTask(model, data, batch_size=size)
        rows = covered(task, job) if job.kind == "coverage" else measured(task, job)
        unfinished = job.path.with_suffix(".part")
        unfinished.write_text(json.dumps(rows))
        unfinished.rename(job.path)
    return job.path


# --- methods ------------------------------------------------------------------------------------


def measured(task: EvaluationTask, job: Job) -> dict[str, Any]:
    """Return every metric's value of every scene, and each method's seconds."""
    batch = task.batch(job.start, job.stop)
    ground = shared(batch, job.seed)
    everything = torch.arange(len(batch))
    values: dict[str, Any] = {}
    took: dict[str, float] = {}
    maps: dict[str, Tensor] = {}
    for name in job.methods:
        began = time.perf_counter()
        try:
            # One method's fault must not take the others' results with it.
            made = MapMaker(batch, created(name))
            maps[name] = attempt(lambda made=made: made.maps(everything), name)
        except HeatproofError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        took[name] = time.perf_counter() - began
    if job.kind == "variants":
        unit = {
            name: rows / rows.flatten(1).norm(dim=1)[:, None, None] for name, rows in maps.items()
        }
        maps["banzhaf + occlusion"] = unit["banzhaf"] + unit["occlusion"]
        maps["banzhaf x occlusion"] = unit["banzhaf"].clamp(min=0) * unit["occlusion"].clamp(min=0)
    for name, rows in maps.items():
        trial = replace(ground, maps=rows)
        values[name] = {
            label: metrics.create(metric, **settings).measure(trial).double().tolist()
            for label, (metric, settings) in METRICS.items()
        }
    return {"values": values, "seconds": took, "right": batch.right.tolist()}


def created(name: str) -> Method:
    """Return the method behind a row's name."""
    if name in VARIANTS:
        return methods.create("banzhaf", **VARIANTS[name])
    if name == "occlusion, tokens":
        return methods.create("occlusion", remove="tokens")
    return methods.create(name, **FEWER.get(name, {}))


def compared(parts: list[dict[str, Any]], against: str = "banzhaf") -> dict[str, Any]:
    """Return every method's means, and the paired differences `against` less method."""
    columns = {
        name: {
            label: torch.tensor([v for part in parts for v in part["values"][name][label]]).double()
            for label in METRICS
        }
        for name in parts[0]["values"]
        if all(name in part["values"] for part in parts)
    }
    rows = {
        name: {
            label: {
                "mean": statistics.mean(column).plain,
                f"{against} less this": statistics.paired(columns[against][label], column).plain,
            }
            for label, column in own.items()
        }
        for name, own in columns.items()
    }
    seconds_of = {name: sum(part["seconds"].get(name, 0.0) for part in parts) for name in columns}
    verdicts = {
        label: {
            name: verdict(rows[name][label][f"{against} less this"])
            for name in rows
            if name != against
        }
        for label in METRICS
    }
    return {
        "scenes": len(columns[against][SRG[0]]),
        "right": sum(sum(part["right"]) for part in parts),
        "rows": rows,
        "verdicts": verdicts,
        "seconds of all scenes": seconds_of,
    }


def verdict(difference: dict[str, Any]) -> str:
    """Return on which side of zero an interval lies."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "cannot tell"
    return "above" if low > 0 else "below" if high < 0 else "cannot tell"


# --- errors -------------------------------------------------------------------------------------


def covered(task: EvaluationTask, job: Job) -> list[dict[str, Any]]:
    """Return for each scene and number of samples what the intervals cover."""
    batch = task.batch(job.start, job.stop)
    rows: list[dict[str, Any]] = []
    cells = task.grid[0] * task.grid[1]
    for item in range(len(batch)):
        number = int(batch.index[item])
        generator = torch.Generator().manual_seed(900_000 + number)
        first = torch.rand(job.reference // 2, cells, generator=generator) < 0.5
        keep = torch.cat([first, ~first])
        scores = batch.tokens(keep, torch.full((len(keep),), item)).double().cpu()
        difference = scores[: len(first)] - scores[len(first) :]
        solved = torch.linalg.lstsq(2 * first.double() - 1, difference[:, None]).solution[:, 0]
        for samples in SAMPLES:
            explained = heatproof.explain(
                task.model,
                batch.pixels[item, None],
                task.embeddings[int(batch.named[item]), None],
                method=methods.create("banzhaf", samples=samples),
                certify=False,
                seed=number,
            )
            assert explained.errors is not None
            value, error = (t[0, 0].flatten().double() for t in (explained.maps, explained.errors))
            holds = (value - solved).abs() <= ESTABLISHED * error
            hot = solved.abs() >= solved.abs().quantile(0.9)
            sure = value.abs() >= ESTABLISHED * error
            rows.append(
                {
                    "scene": number,
                    "samples": samples,
                    "coverage": float(holds.double().mean()),
                    "coverage, hottest tenth": float(holds[hot].double().mean()),
                    "error / largest": float(error.mean() / solved.abs().max()),
                    "miss / largest": float((value - solved).abs().mean() / solved.abs().max()),
                    "correlation": float(torch.corrcoef(torch.stack([value, solved]))[0, 1]),
                    "signs established": float(sure.double().mean()),
                    "of these wrong": float((value * solved < 0)[sure].double().sum()),
                    "patches": len(value),
                }
            )
    return rows


def summed(parts: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return means over scenes, by number of samples."""
    rows = [row for part in parts for row in part]
    table: dict[str, Any] = {}
    for samples in SAMPLES:
        own = [row for row in rows if row["samples"] == samples]
        table[str(samples)] = {
            key: statistics.mean(torch.tensor([row[key] for row in own]).double()).plain
            for key in own[0]
            if key not in ("scene", "samples", "patches", "of these wrong")
        }
        established = sum(row["signs established"] * row["patches"] for row in own)
        wrong = sum(row["of these wrong"] for row in own)
        table[str(samples)]["wrong signs, of the established"] = wrong / max(established, 1)
    return {"scenes": len(rows) // len(SAMPLES), "by samples": table}


# --- cost ---------------------------------------------------------------------------------------


def speed(spec: str, runs: int, device: str) -> dict[str, Any]:
    """Return seconds of one image, and the ratio to 64 bare passes in the same run."""
    model = heatproof.load(spec, device=device)
    size = model.image.preprocess
    pixels = torch.randn(1, 3, size.height, size.width, device=device)
    with torch.inference_mode():
        prompt = torch.randn(1, model.image.encode(pixels).shape[1], device=device)
    many = pixels.expand(8, -1, -1, -1).contiguous()

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(8):
                model.image.encode(many)

    def explain(certify: bool) -> None:
        heatproof.explain(model, pixels, prompt, method="banzhaf", certify=certify)

    rows = {
        name: {
            **ratio(lambda own=own: explain(own), bare, runs),
            "seconds": seconds(lambda own=own: explain(own)),
        }
        for name, own in (("uncertified", False), ("certified", True))
    }
    return {
        "model": spec,
        "threads": torch.get_num_threads(),
        "64 bare passes": seconds(bare),
        **rows,
    }


# --- all together -------------------------------------------------------------------------------


def names_of(kind: str, wanted: list[str] | None) -> tuple[str, ...]:
    """Return the rows of a comparison."""
    if kind == "variants":
        return (*VARIANTS, "occlusion", "libragrad", "attnlrp")
    every = [name for name, card in methods.catalogue().items() if "image" in card.sides]
    return ("banzhaf", *(n for n in wanted or [*every, "occlusion, tokens"] if n != "banzhaf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("compare", "variants", "coverage", "speed"))
    parser.add_argument("--scenes", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--model")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--reference", type=int, default=REFERENCE)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("out/banzhaf"))
    parser.add_argument("-o", type=Path, default=RESULTS)
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.kind == "speed":
        result = speed(asked.model or "open_clip:ViT-B-32", asked.runs, asked.device)
    else:
        result = run(asked)
    result |= {"device": asked.device, "torch": torch.__version__}
    result["seconds"] = round(time.monotonic() - began)
    asked.o.mkdir(parents=True, exist_ok=True)
    (asked.o / f"banzhaf_{asked.kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    report(asked.kind, result)


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Run all chunks, and put them together."""
    scenes = asked.scenes or {"compare": 500, "variants": 200, "coverage": 100}[asked.kind]
    seed = asked.seed or {"compare": 4242, "variants": 71, "coverage": 5151}[asked.kind]
    spec = asked.model or "scenes"
    # A model of other weights has another folder: results of earlier ones are not mixed in.
    weights = str(heatproof.load(spec).weights_hash)[:10]
    folder = asked.work / f"{asked.kind}-{asked.data.replace(':', '-')}-{seed}-{scenes}-{weights}"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(
            asked.kind, spec, asked.device, asked.data, seed, scenes, start,
            min(start + asked.chunk, scenes), names_of(asked.kind, asked.methods),
            asked.reference, folder / f"{start}-{asked.chunk}.json",
        )
        for start in range(0, scenes, asked.chunk)
    ]  # fmt: skip
    began = time.monotonic()
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(job_done, job) for job in jobs]
        for number, future in enumerate(as_completed(waiting), 1):
            future.result()
            left = (time.monotonic() - began) / number * (len(jobs) - number)
            print(f"{number} of {len(jobs)} chunks, about {left:.0f} s left", flush=True)
    parts = [json.loads(job.path.read_text()) for job in jobs]
    together = summed(parts) if asked.kind == "coverage" else compared(parts)
    return {"data": asked.data, "seed": seed, "weights": weights, **together}


def report(kind: str, result: dict[str, Any]) -> None:
    """Print what was measured."""
    if kind in ("speed", "coverage"):
        print(json.dumps(result, indent=1))
        return
    for name, row in result["rows"].items():
        cells = [f"{label} {shown(own['mean'])} ({shown(own['banzhaf less this'])})"
                 for label, own in row.items()]  # fmt: skip
        print(f"{name:24} {' | '.join(cells)}")


def shown(interval: dict[str, Any]) -> str:
    """Return a figure with its interval; of too few scenes it has none."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "no interval"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
