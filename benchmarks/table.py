"""The full table on `scenes`: every method, the main metrics, intervals; into docs/.

    python benchmarks/table.py [--images 500]

Perturbation has five steps, and methods of thousands of passes get fewer (`FEWER`). Killed, it
goes on where it was.
"""

import argparse
import time
from pathlib import Path

import torch

import heatproof
from heatproof.benchmarking.request import main_metrics

DOCS = Path(__file__).parent.parent / "docs"
FEWER = {
    "rise.masks": "200",
    "integrated-gradients.steps": "10",
    "second-order.steps": "5",
    "m2ib.batch": "2",
}

HEAD = """# The full table on `scenes`

How good the maps of every method are, by the main [metrics](metrics.md), for readers who compare
methods. All numbers are of the embedded model on {images} scenes whose objects differ only in
shape; that model knows rendered scenes only. Made by `benchmarks/table.py` in {minutes:.0f} minutes
on one thread of a CPU, with five steps per curve and cheaper settings for methods of many passes:
{fewer}.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--work", type=Path, default=Path("out/table"))
    asked = parser.parse_args()
    torch.set_num_threads(1)  # two collapse where the cores are shared
    started, last = time.monotonic(), [0.0]

    def tell(progress: object) -> None:
        if time.monotonic() - last[0] > 15:
            last[0] = time.monotonic()
            print(progress, flush=True)

    result = heatproof.benchmark(
        "all",
        "scenes",
        metrics=main_metrics(steps=5),
        images=asked.images,
        batch_size=64,
        options=FEWER,
        out=asked.work,
        progress=tell,
    )
    for each in result.summary["methods"]:
        print(f"{each['label']:40} {1000 * (each['seconds_per_map'] or 0):8.1f} ms a map")
    took = time.monotonic() - started
    print(f"{asked.images} scenes: {took:.0f} s here, {result.summary['seconds']:.0f} s measuring")
    if asked.images >= 500:
        fewer = ", ".join(f"`{option}={value}`" for option, value in FEWER.items())
        text = HEAD.format(images=asked.images, minutes=result.summary["seconds"] / 60, fewer=fewer)
        (DOCS / "benchmark_scenes.md").write_text(text + (asked.work / "table.md").read_text())


if __name__ == "__main__":
    main()
