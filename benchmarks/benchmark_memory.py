"""Peak memory of `heatproof benchmark` against pictures and steps, each run in its own process.

python benchmarks/benchmark_memory.py [--images 32 128 512] [--steps 5 20 80]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
RUN = """
import resource, tempfile, heatproof
with tempfile.TemporaryDirectory() as out:
    heatproof.benchmark("gae", "scenes", images={images}, batch_size=16,
                        metrics="srg:steps={steps}", out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(images: int, steps: int) -> float:
    """MiB."""
    code = RUN.format(images=images, steps=steps)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return float(found.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20, 80])
    asked = parser.parse_args()
    few, least = min(asked.images), min(asked.steps)
    found = {
        "images": {n: peak(n, least) for n in asked.images},
        "steps": {n: peak(few, n) for n in asked.steps},
    }
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "benchmark_memory.json").write_text(json.dumps(found, indent=1) + "\n")
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, 2), found.items(), strict=True):
        axes.plot(list(values), list(values.values()), "o-")
        axes.set_ylim(0, 1.2 * max(values.values()))
        axes.set_xlabel(name)
        axes.set_ylabel("peak memory, MiB")
    figure.savefig(RESULTS / "benchmark_memory.png", dpi=120)


if __name__ == "__main__":
    main()
