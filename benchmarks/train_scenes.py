"""Train the embedded model, two more seeds and its siblings with known shortcuts, side by side.

Each run is a process of `heatproof scenes train`; runs share the device. Then every model is
measured, and its weights are copied into the package (`--install`). On one H100 with 16 cores all
of it takes about six minutes; on two cores, 16 minutes a run.

    python benchmarks/train_scenes.py FOLDER [--device cuda] [--runs seed-0 shortcut-mark ...]
"""

import argparse
import json
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


def scoring(root: Path, name: str, device: str, count: int) -> None:
    """Measure one finished run, in a process of its own, into NAME.json."""
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from heatproof.recipes.scenes.scoring import Judge, graded, plain, scores\n"
        "from heatproof.recipes.scenes import seeds\n"
        "root, name, device, count = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])\n"
        "files = sorted((root / name / 'snapshots').glob('*.safetensors'))\n"
        "if name.startswith('seed'):\n"
        "    judge = lambda file: Judge(seeds._model(file), device=device)\n"
        "    found = {k: plain(v) for k, v in scores(judge(files[-1]), count).items()}\n"
        f"    steps = [f'step-{{s:06d}}' for s in {FAMILY}]\n"
        "    found['family'] = {f.stem: plain(graded(judge(f), count // 2))\n"
        "                       for f in files if f.stem in steps}\n"
        "else:\n"
        "    cue = name.removeprefix('shortcut-')\n"
        "    found = seeds.measure_sibling(files[-1], cue, count, device=device)\n"
        "(root / f'{name}.json').write_text(json.dumps(found, indent=1))\n"
    )
    with (root / f"{name}.log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, str(root), name, device, str(count)]
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)


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
    parser.add_argument("--count", type=int, default=2000, help="scenes per measured number")
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
        list(pool.map(lambda n: scoring(options.folder, n, options.device, options.count), names))
    if options.install:
        install(options.folder, names, options.install)
    summary = {n: json.loads((options.folder / f"{n}.json").read_text()) for n in names}
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
