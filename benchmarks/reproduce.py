"""The paper's claims at full size: what docs/reproduced.md shows.

    python benchmarks/reproduce.py [--work out/reproduce]

Runs `heatproof reproduce` (killed, it goes on where it was), then keeps the conclusions and the
figures. `python docs/generate.py` makes the page of them.
"""

import argparse
import json
import os
import platform
import shutil
import time
from pathlib import Path

import torch

from heatproof.cli import main as cli

ROOT = Path(__file__).parent.parent
KEPT = ("command", "conclusions", "data", "notices", "settings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out/reproduce"))
    work = parser.parse_args().work
    fresh, started = not (work / "parts").exists(), time.monotonic()
    cli.run(["reproduce", "-o", str(work)])
    found = json.loads((work / "reproduce.json").read_text())
    result = {key: found[key] for key in KEPT} | {
        "seconds": round(time.monotonic() - started) if fresh else None,
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}",
    }
    results, figures = ROOT / "benchmarks" / "results", ROOT / "docs" / "reproduced"
    results.mkdir(exist_ok=True)
    (results / "reproduce.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(figures, ignore_errors=True)
    shutil.copytree(work / "figures", figures)


if __name__ == "__main__":
    main()
