"""What a certificate costs: explaining photos and tensors with and without it, over bare inference.

All sides run in turn in one process; each figure is the median of its ratios to bare
`encode_image` in inference mode in the same round. Random weights: cost is the same.

    python benchmarks/certificate_cost.py [--model open_clip:ViT-B-16] [--images 8] [--runs 5]
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
PROMPTS = ["a dog"]


def sides(model: heatproof.Model, count: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; "bare" is what the others are divided by."""
    size = model.image.preprocess
    drawn = np.random.default_rng(0).integers(0, 256, (count, size.height, size.width, 3), np.uint8)
    photos = [Image.fromarray(pixels) for pixels in drawn]
    pixels = torch.stack([size(photo) for photo in photos])

    def bare() -> None:
        with torch.inference_mode():
            model.image.encode(pixels)

    def explain(images: Any, certify: bool) -> Callable[[], Any]:
        return lambda: heatproof.explain(model, images, PROMPTS, certify=certify)

    return {
        "bare": bare,
        "tensors": explain(pixels, certify=False),
        "tensors, certified": explain(pixels, certify=True),
        "photos": explain(photos, certify=False),
        "photos, certified": explain(photos, certify=True),
    }


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    timed = sides(heatproof.load(asked.model), asked.images)
    rounds = [{name: seconds(run) for name, run in timed.items()} for _ in range(asked.runs + 1)]
    ratios = {
        name: statistics.median(times[name] / times["bare"] for times in rounds[1:])
        for name in timed
        if name != "bare"
    }
    found = {
        "model": asked.model,
        "images": asked.images,
        "runs": asked.runs,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": torch.__version__,
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }
    asked.results.write_text(json.dumps(found, indent=1) + "\n")
    for name, ratio in ratios.items():
        print(f"{name:<20} {ratio:.2f} times bare inference")


if __name__ == "__main__":
    main()
