"""Peak memory of explaining, as a ratio to bare `encode_image` of the same pixels.

Counted are the bytes of all tensors that are alive at once, beside weights and pixels
(`engine.memory.MemoryTracker`): a count, so it is the same in every run. Random weights.

    python benchmarks/explain_memory.py [--model open_clip:ViT-B-16] [--batch 8]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import heatproof
from heatproof import methods
from heatproof.engine.memory import MemoryTracker

LIMIT = 1.1
RESULTS = Path(__file__).parent / "results" / "explain_memory.json"
METHODS: dict[str, methods.Method] = {
    "attention-x-gradient": methods.create("attention-x-gradient"),
    "attention-eclip": methods.create("attention-eclip"),
    "attention-eclip, 4 layers": methods.create("attention-eclip", layers=4),
    "attention-grad-cam": methods.create("attention-grad-cam"),
    "raw-attention": methods.create("raw-attention"),
    "gae, 1 layer": methods.create("gae", layers=1),
    "gae": methods.create("gae"),
}


def peak(model: heatproof.Model, pixels: torch.Tensor, run: Callable[[], object]) -> int:
    """Bytes that are alive at once beside the model and the pixels."""
    present = [pixels, *model.module.parameters(), *model.module.buffers()]
    with MemoryTracker(present) as tracker:
        run()
    return tracker.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--certify", nargs="+", default=["without", "certified"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    model = heatproof.load(asked.model)
    size = model.image.preprocess
    pixels = torch.randn(asked.batch, 3, size.height, size.width)
    with torch.inference_mode():
        width = model.image.encode(pixels[:1]).shape[1]
    prompt = torch.randn(1, width)

    def bare() -> object:
        with torch.no_grad():
            return model.image.encode(pixels)

    def explain(method: methods.Method, certify: bool) -> Callable[[], object]:
        options: dict[str, Any] = {"certify": certify, "batch_size": asked.batch}
        return lambda: heatproof.explain(model, pixels, prompt, method=method, **options)

    least = peak(model, pixels, bare)
    rows = {
        f"{name}, {word}": peak(model, pixels, explain(METHODS[name], word != "without")) / least
        for name in asked.methods
        for word in asked.certify
    }
    print(
        f"{asked.model}, batch {asked.batch}, 1 prompt: {least / 2**20:.0f} MiB of bare inference"
    )
    for name, ratio in rows.items():
        print(f"  {name:40} {ratio:.2f}")
    asked.results.parent.mkdir(exist_ok=True)
    about = {"model": asked.model, "batch": asked.batch, "bare bytes": least, "ratios": rows}
    asked.results.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
