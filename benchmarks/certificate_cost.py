"""What a certificate costs: explaining with and without it, over bare inference in the same run.

All sides run in turn in one process. A figure is the median of its ratios to bare `encode_image` in
inference mode, run just before and just after it, by the processor time of one thread: what else
the machine does counts little. Pixels are tensors and prompts are embeddings, so that neither
decoding nor the text tower counts; "photos" go through the preprocessing and through the library's
own as well. "certified" is the default: null prompts, and one image in eight compared with the
untouched model; "full" compares all. Random weights: cost is the same.

    python benchmarks/certificate_cost.py [--model open_clip:ViT-B-16] [--images 8 32] [--runs 5]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import heatproof

RESULTS = Path(__file__).parent / "results" / "certificate_cost.json"
LIMITS = {1: 1.3, 100: 1.35}  # certified, by the number of prompts
CERTIFY: dict[str, Any] = {"without": False, "certified": True, "full": "full"}
Run = Callable[[], object]


def sides(model: heatproof.Model, images: int, prompts: list[int]) -> tuple[Run, dict[str, Run]]:
    """Return bare inference, and what is compared with it by name."""
    size = model.image.preprocess
    drawn = np.random.default_rng(0).integers(
        0, 256, (images, size.height, size.width, 3), np.uint8
    )
    photos = [Image.fromarray(pixels) for pixels in drawn]
    pixels = torch.stack([size(photo) for photo in photos])
    with torch.inference_mode():
        width = model.image.encode(pixels[:1]).shape[1]
    texts = torch.randn(max(prompts), width, generator=torch.Generator().manual_seed(0))

    def bare() -> object:
        with torch.inference_mode():
            return model.image.encode(pixels)

    def explain(shown: Any, count: int, certify: Any) -> Run:
        return lambda: heatproof.explain(
            model, shown, texts[:count], certify=certify, batch_size=images
        )

    timed = {
        f"{count} prompt(s), {name}": explain(pixels, count, certify)
        for count in prompts
        for name, certify in CERTIFY.items()
    }
    timed |= {f"photos, {name}": explain(photos, 1, CERTIFY[name]) for name in CERTIFY}
    return bare, timed


def seconds(run: Run) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def ratios(bare: Run, timed: dict[str, Run], runs: int) -> dict[str, dict[str, float]]:
    """Return the median ratio of each side, and the lowest and highest."""
    for run in (bare, *timed.values()):
        run()  # hashes and null prompts are computed once
    rows: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(runs):
        before = seconds(bare)
        for name, run in timed.items():
            here, after = seconds(run), seconds(bare)
            rows[name].append(2 * here / (before + after))
            before = after
    return {
        name: {"median": statistics.median(row), "from": min(row), "to": max(row)}
        for name, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sides", nargs="+", help="Names that a side must hold one of.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = heatproof.load(asked.model)
    measured: dict[str, Any] = {}
    for images in asked.images:
        bare, timed = sides(model, images, asked.prompts)
        chosen = asked.sides or list(timed)
        timed = {name: run for name, run in timed.items() if any(part in name for part in chosen)}
        rows = ratios(bare, timed, asked.runs)
        measured[str(images)] = rows
        print(f"{asked.model}, batch {images}, times bare encode_image")
        for name, row in rows.items():
            print(f"  {name:<26} {row['median']:.2f}  ({row['from']:.2f} to {row['to']:.2f})")
        for count, limit in LIMITS.items():
            row = rows.get(f"{count} prompt(s), certified")
            if row is not None:
                kept = "kept" if row["median"] <= limit else "MISSED"
                print(f"  limit {limit} for {count} prompt(s), certified: {kept}")
    asked.results.parent.mkdir(exist_ok=True)
    about = {
        "model": asked.model,
        "runs": asked.runs,
        "clock": "processor time, one thread",
        "processor": platform.machine(),
        "torch": torch.__version__,
        "images": measured,
    }
    asked.results.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
