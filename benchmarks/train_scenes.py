"""Train the embedded model, two more seeds and its siblings with known shortcuts, side by side.

Each run is a process of `heatproof scenes train`, resumed where it was stopped; runs share the
device. `--install` copies the weights into the package; `heatproof scenes card` measures them. A
run takes about 16 minutes of two cores. On one H100, eight runs side by side make 5 steps a second
each: no faster than two cores a run, since their many small operations take turns.

    python benchmarks/train_scenes.py FOLDER [--device cuda] [--runs seed-0 shortcut-mark ...]
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heatproof.recipes.scenes.release import release, release_sibling

STEPS = 4000
FAMILY = (0, 200, 400, 700, 1600, 2600)
RUNS: dict[str, list[str]] = {
    "seed-0": [],
    "seed-1": ["--seed", "1"],
    "seed-2": ["--seed", "2"],
    "shortcut-colour": ["--cue", "colour", "--seed", "10"],
    "shortcut-place": ["--cue", "place", "--seed", "11"],
    "shortcut-background": ["--cue", "background", "--seed", "12"],
    "shortcut-mark": ["--cue", "mark", "--seed", "13"],
    "swapped": ["--cue", "swapped"],
}
SHORT = 2500
"""Steps of the siblings: a planted cue is learnt sooner than shapes."""
TUNED = 400
"""Steps by which `seed-0` is tuned to the exchanged words."""


def training(root: Path, name: str, device: str, scale: float) -> float:
    """Run one training in its folder; return its seconds. `scale` shortens it for a rehearsal."""
    steps = SHORT if name.startswith("shortcut") else STEPS
    if name == "swapped":
        steps += TUNED
    steps = max(int(steps * scale), 30)
    alone = ["--workers", "1", "--batch", "64"] if device != "cpu" else []
    start = ["--start", str(root / "seed-0")] if name == "swapped" else []
    command = [sys.executable, "-m", "heatproof.recipes.scenes", "train", str(root / name)]
    command += ["--steps", str(steps), "--decay", str(min(1200, steps // 3)), "--device", device]
    began = time.monotonic()
    with (root / f"{name}.log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        full = [*command, *alone, *start, *RUNS[name]]
        subprocess.run(full, check=True, stdout=log, stderr=log, env=environment)
    return time.monotonic() - began


def install(root: Path, names: list[str], hardware: str) -> None:
    """Copy the weights into the package."""
    if "seed-0" in names:
        known = {int(f.stem[5:]) for f in (root / "seed-0" / "snapshots").iterdir()}
        release([root / "seed-0"], [s for s in FAMILY if s in known], hardware)
    for name in names:
        if name != "seed-0":
            release_sibling(root / name, name, hardware)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps, for a rehearsal")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--install", help="hardware in words; copies the weights into the package")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    def one(name: str) -> str:
        if name == "swapped":
            return name
        took = training(options.folder, name, options.device, options.scale)
        print(f"{name}: trained in {took:.0f} s", flush=True)
        if name == "seed-0" and "swapped" in options.runs:
            training(options.folder, "swapped", options.device, options.scale)
        return name

    with ThreadPoolExecutor(options.parallel) as pool:
        names = list(pool.map(one, options.runs))
    if options.install:
        install(options.folder, names, options.install)


if __name__ == "__main__":
    main()
