"""What deletion costs: throughput over bare `encode_image` of as many pictures, and its memory.

Both sides run alternately in one process, as in `explain_cost`. Token removal (imputer=tokens) is
measured as it is, dropping tokens, and with their keys masked alone. Memory: how far the resident
set of a fresh process grows over what the first two batches took, by steps and by pictures.
Random weights: cost is the same.

    python benchmarks/metrics_cost.py [--model open_clip:ViT-B-16] [--items 1] [--runs 5]
"""

import argparse
import dataclasses
import json
import platform
import resource
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

import heatproof
from explain_cost import ratio
from heatproof import metrics
from heatproof.metrics import Trial
from heatproof.models import Model
from heatproof.reading import reading
from heatproof.reading.token_dropping import encode_visible

LIMIT = 0.9
STEPS = 20
RESULTS = Path(__file__).parent / "results" / "metrics_cost.json"


def trial_of(model: Model, items: int, batch: int) -> Trial:
    size = model.image.preprocess
    layout = model.image.layout(size.height, size.width)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(items, 3, size.height, size.width, generator=generator)
    pixels = pixels.to(model.device, model.dtype)
    with torch.inference_mode():
        width = model.image.encode(pixels[:1]).shape[1]
    prompts = torch.nn.functional.normalize(torch.randn(items, width, generator=generator), dim=1)
    prompts = prompts.to(pixels)

    def score(shown: Tensor, item: Tensor) -> Tensor:
        with torch.inference_mode():
            found = torch.nn.functional.normalize(model.image.encode(shown), dim=1)
            return (found * prompts[item]).sum(1)

    sites = model.attention_layers("image", pixels.shape[-2:])

    def tokens(keep: Tensor, item: Tensor) -> Tensor:
        with torch.inference_mode():
            made = encode_visible(model, sites, pixels, item, keep, batch)
            return (torch.nn.functional.normalize(made, dim=1) * prompts[item]).sum(1)

    maps = torch.randn(items, layout.rows, layout.cols, generator=generator)
    levels = torch.tensor([[-2.0] * 3, [2.0] * 3])
    return Trial(
        maps=maps,
        pixels=pixels,
        score=score,
        tokens=tokens,
        levels=levels,
        batch_size=batch,
    )


def masking(model: Model) -> AbstractContextManager[object]:
    """Under anybody's reading no token is dropped: keys are masked alone."""
    return reading(model.module, ())


def throughput(model: Model, items: int, batch: int, named: str, runs: int) -> dict[str, float]:
    """Bare time over deletion's: 1 is no overhead."""
    trial = trial_of(model, items, batch)
    metric = metrics.create("deletion", imputer=named.split(",")[0], steps=STEPS)
    shown = trial.pixels[:1].expand(batch, -1, -1, -1).contiguous()
    count = items * (STEPS + 1)

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, count, batch):
                model.image.encode(shown[: min(batch, count - start)])

    def run() -> None:
        with masking(model) if "masked" in named else nullcontext():
            metric.measure(trial)

    found = ratio(run, bare, runs)
    return {
        "median": 1 / found["median"],
        "lower quartile": 1 / found["upper quartile"],
        "upper quartile": 1 / found["lower quartile"],
    }


def grown(spec: str, items: int, steps: int, batch: int) -> float:
    """MiB by which a fresh process grows beyond what two batches of a deletion took."""
    told = subprocess.run(
        [sys.executable, __file__, "--model", spec, "--grow", f"{items},{steps},{batch}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(told.stdout.split()[-1])


def grow(spec: str, items: int, steps: int, batch: int) -> None:
    model = heatproof.load(spec)
    trial = trial_of(model, items, batch)
    score = trial.score
    seen: list[float] = []

    def watched(shown: Tensor, item: Tensor) -> Tensor:
        assert score is not None
        found = score(shown, item)
        seen.append(resident())
        return found

    trial = dataclasses.replace(trial, score=watched)
    metrics.create("deletion", steps=3).measure(trial.take(torch.arange(min(items, batch // 2))))
    before = max(seen)
    metrics.create("deletion", steps=steps).measure(trial)
    print(max(seen) - before)


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--items", type=int, default=1)
    parser.add_argument("--batch", type=int, default=7)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.grow:
        grow(asked.model, *map(int, asked.grow.split(",")))
        return
    model = heatproof.load(asked.model)
    rows = {
        imputer: throughput(model, asked.items, asked.batch, imputer, asked.runs)
        for imputer in ("zero", "mean", "blur", "noise", "tokens", "tokens, masked")
    }
    memory = {
        "by steps, 16 pictures": {n: grown("scenes", 16, n, 32) for n in (5, 20, 80, 320)},
        "by pictures, 20 steps": {n: grown("scenes", n, 20, 32) for n in (16, 64, 256)},
    }
    for name, row in rows.items():
        print(f"{name:12} {row['median']:.3f}")
    print(memory)
    kept = all(row["median"] >= LIMIT for row in rows.values())
    print(f"limit {LIMIT}: {'kept' if kept else 'MISSED'}")
    found = {
        "model": asked.model,
        "items": asked.items,
        "steps": STEPS,
        "batch": asked.batch,
        "runs": asked.runs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(model.device),
        "processor": platform.machine(),
        "throughput": rows,
        "memory": {"model": "scenes", "batch": 32, "MiB": memory},
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
