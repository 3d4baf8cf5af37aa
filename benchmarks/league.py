"""The league table: every method of the catalogue, audited; verdicts and evidence in one file.

    python benchmarks/league.py                                   on `scenes`, both principles
    python benchmarks/league.py --model open_clip:ViT-B-16        principle 1, random weights

Killed, it goes on where it was (`heatproof audit all` keeps what is done in the working folder).
`python docs/generate.py` makes docs/league.md of the results.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

from heatproof import methods
from heatproof.cli import main as cli

RESULTS = Path(__file__).parent / "results"
# So that a method of thousands of passes is audited in minutes on a large model.
FEWER = {"masks": 64, "samples": 25, "steps": 5}


def _fewer(names: str) -> list[str]:
    """Options for the options of `FEWER` that one of these methods has."""
    every = methods.catalogue()
    chosen = every if names == "all" else [n.strip() for n in names.split(",")]
    had = {option for name in chosen if name in every for option in every[name].options}
    return [part for k, v in FEWER.items() if k in had for part in ("--set", f"{k}={v}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--pictures", type=int, default=150)
    parser.add_argument("--work", type=Path, default=Path("out/league"))
    asked = parser.parse_args()
    name = asked.model.replace(":", "-").replace("/", "-")
    folder = asked.work / name
    own = asked.model.split(":")[0] == "scenes"
    principles = ["--principle", "1", *(["--principle", "2"] if own else [])]
    fewer = [] if own else _fewer(asked.methods)
    started = time.monotonic()
    options = ["--pictures", str(asked.pictures), "--budget", "50000", "-o", str(folder)]
    cli.run(["audit", asked.methods, "--model", asked.model, *principles, *fewer, *options])
    found = {}
    for path in sorted(folder.glob("*/audit.json")):
        audit = json.loads(path.read_text())
        found[audit["method"]] = {
            "settings": {k: v for k, v in audit["settings"].items() if v is not None},
            "seconds": audit["seconds"],
            "notices": audit["notices"],
            "unmeasured": audit["unmeasured"],
            "findings": [
                {k: f[k] for k in ("check", "principle", "verdict", "evidence")}
                for f in audit["findings"]
            ],
        }
    result = {
        "model": asked.model,
        "pictures": asked.pictures,
        "seconds": round(time.monotonic() - started),
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}",
        "methods": found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"league_{name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
