"""What a map costs, as a ratio to bare `encode_image` of the same model on the same pixels.

Both sides run alternately in one process; the figure is the median of the ratios of neighbouring
runs, so that what else the machine does falls on both. Random weights: cost is the same.

    python benchmarks/explain_cost.py [--model open_clip:ViT-B-16] [--batch 8] [--runs 15]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import heatproof

LIMIT = 1.1
METHODS = ("attention-x-gradient", "attention-eclip", "grad-eclip", "gae")
RESULTS = Path(__file__).parent / "results" / "explain_cost.json"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(run: Callable[[], object], bare: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and quartiles of run / bare over alternating runs, after one warm-up of each."""
    run(), bare()
    found: list[float] = []
    for _ in range(runs):
        before, here, after = seconds(bare), seconds(run), seconds(bare)
        found.append(2 * here / (before + after))
    low, middle, high = statistics.quantiles(found, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    asked = parser.parse_args()
    model = heatproof.load(asked.model)
    size = model.image.preprocess
    pixels = torch.randn(asked.batch, 3, size.height, size.width)
    with torch.inference_mode():
        width = model.image.encode(pixels[:1]).shape[1]
    prompt = torch.randn(1, width)

    def bare() -> torch.Tensor:
        with torch.inference_mode():
            return model.image.encode(pixels)

    def explain(method: str, certify: bool) -> Callable[[], object]:
        return lambda: heatproof.explain(model, pixels, prompt, method=method, certify=certify)

    rows = {
        f"{method}{', certified' if certify else ''}": ratio(
            explain(method, certify), bare, asked.runs
        )
        for method in asked.methods
        for certify in (False, True)
    }
    print(f"{asked.model}, batch {asked.batch}, 1 prompt, times bare encode_image")
    for name, row in rows.items():
        print(f"  {name:35} {row['median']:.2f}  ({row['lower quartile']:.2f} to "
              f"{row['upper quartile']:.2f})")  # fmt: skip
    if METHODS[0] in rows:
        kept = rows[METHODS[0]]["median"] <= LIMIT
        print(f"limit {LIMIT} for {METHODS[0]}: {'kept' if kept else 'MISSED'}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                "model": asked.model,
                "batch": asked.batch,
                "runs": asked.runs,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "processor": platform.machine(),
                "ratios": rows,
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
