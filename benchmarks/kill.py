"""Interrupt `heatproof run` in every way that can be had, go on, and compare the rows bit by bit.

    kills   kill -9 of the whole process group at random moments, many times in a row
    disk    a full disk (a small tmpfs, which needs root), then a larger one
    ray     kill -9 of a Ray worker that holds the model, then of a whole node (two raylets here)

Each is compared with one run that nothing interrupted: all columns but `seconds`, and the failures.
A tenth of the kills come before the run has begun. Some images are broken on purpose.

    python benchmarks/kill.py [kills] [disk] [ray] [--images 2000] [--kills 20] [--results FILE]
"""

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from heatproof.store.store import open_store

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "kill.json"
PROMPTS = ("a red circle", "a blue square")
BROKEN_EVERY = 37


def write_images(folder: Path, count: int) -> None:
    """Write small images; every 37th cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06d}.png"
        if not path.exists():
            small = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize((64, 64)).save(path)
            if number % BROKEN_EVERY == 0:
                path.write_bytes(path.read_bytes()[: number % 3 * 60])


def command(images: Path, store: Path, asked: argparse.Namespace, *more: str) -> list[str]:
    prompts = [word for prompt in PROMPTS for word in ("-p", prompt)]
    sizes = ["--part", str(asked.part), "--workers", str(asked.workers)]
    return [sys.executable, "-m", "heatproof", "run", str(images), *prompts, "-o", str(store),
            *sizes, *asked.more, *more]  # fmt: skip


def start(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a run in a process group of its own, with one thread: others wait for the processor."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    process = subprocess.Popen(
        list(arguments), env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    atexit.register(_end, process)
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def finish(arguments: Sequence[str], codes: Sequence[int] = (0, 3)) -> str:
    """Run a command to its end; returns what it said."""
    process = start(arguments)
    said, _ = process.communicate()
    if process.returncode not in codes:
        raise SystemExit(f"exit code {process.returncode}, expected {codes}:\n{said}")
    return said


def kill_group(process: "subprocess.Popen[str]") -> None:
    """Kill -9 of the whole group, by its id."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def same(store: Path, expected: Path) -> dict[str, Any]:
    """Compare two stores: rows and failures, bit by bit.

    Raises:
        SystemExit: they differ.
    """
    ours, theirs = open_store(store), open_store(expected)
    columns = [name for name in theirs.schema.names if name != "seconds"]
    tables = {
        "rows": (ours.table(columns), theirs.table(columns)),
        "failures": (ours.failures(), theirs.failures()),
    }
    for name, (one, other) in tables.items():
        if not one.combine_chunks().equals(other.combine_chunks()):
            raise SystemExit(f"{store}: the {name} differ from those of {expected}")
    return {name: one.num_rows for name, (one, _) in tables.items()}


def events(store: Path, kind: str) -> int:
    """Count the events of a kind in a store's log."""
    log = store / "log.jsonl"
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return sum(f'"event": "{kind}"' in line for line in lines)


def wait_for(process: "subprocess.Popen[str]", store: Path, kind: str, more_than: int) -> bool:
    """Wait for an event; returns whether the process still runs."""
    while process.poll() is None:
        if events(store, kind) > more_than:
            return True
        time.sleep(0.02)
    return False


# --- the three ways ---------------------------------------------------------------------------


def kills(asked: argparse.Namespace, images: Path, folder: Path, expected: Path) -> dict[str, Any]:
    """Kill the whole group again and again, then finish."""
    store, chance = folder / "killed", random.Random(asked.seed)
    line = command(images, store, asked)
    landed, early, done_at = 0, 0, list[int]()
    for number in range(asked.kills):
        before = events(store, "start")
        process = start(line)
        if number % 10 == 9:
            time.sleep(chance.uniform(0, asked.startup))
            early += 1
        elif wait_for(process, store, "start", before):
            time.sleep(chance.uniform(0, asked.span))
        if process.poll() is not None:
            said, _ = process.communicate()
            print(f"the run ended before kill {number + 1}: {said[-200:]}")
            break
        kill_group(process)
        landed += 1
        done = open_store(store).parts() if (store / "manifest.json").exists() else []
        done_at.append(sum(part.stop - part.first for part in done))
        print(f"kill {landed}: {done_at[-1]} images done", flush=True)
    finish(line)
    print("nothing to do" if "nothing to do" in finish(line) else "SOMETHING WAS LEFT")
    return {"kills": landed, "before the start": early, "done at each": done_at,
            **same(store, expected)}  # fmt: skip


def disk(asked: argparse.Namespace, images: Path, folder: Path, expected: Path) -> dict[str, Any]:
    """Fill a small tmpfs, enlarge it, go on."""
    if os.geteuid() != 0:
        print("disk: skipped, mounting a tmpfs needs root")
        return {"skipped": "not root"}
    place = folder / "small"
    place.mkdir()
    written = sum(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    small = max(64, written // 1024 // 2)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}k", "tmpfs", place], check=True)
    try:
        store = place / "store"
        said = finish(command(images, store, asked), codes=(2,))
        lines = [line for line in said.splitlines() if "the disk is full" in line]
        if len(lines) != 1 or "Traceback" in said:
            raise SystemExit(f"expected one line that says so, got:\n{said}")
        done = sum(part.stop - part.first for part in open_store(store).parts())
        subprocess.run(["mount", "-o", f"remount,size={4 * written // 1024}k", place], check=True)
        finish(command(images, store, asked))
        return {"KiB": small, "done when full": done, "line": lines[0], **same(store, expected)}
    finally:
        subprocess.run(["umount", place], check=True)


def on_ray(asked: argparse.Namespace, images: Path, folder: Path, expected: Path) -> dict[str, Any]:
    """Kill a worker that holds the model, then a node, while a run goes on."""
    from ray.cluster_utils import Cluster

    store = folder / "on-ray"
    os.environ["OMP_NUM_THREADS"], os.environ["PYTHONPATH"] = "1", str(ROOT / "src")
    # The head runs no task: a node can then be lost.
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        more = ("--engine", "ray", "--address", cluster.address, "--actors", "1:2")
        process = start(command(images, store, asked, *more))
        if not wait_for(process, store, "part", 1):
            raise SystemExit(process.communicate()[0])
        pid = _actors(nodes)[0]
        os.kill(pid, signal.SIGKILL)
        print(f"worker {pid} killed", flush=True)
        wait_for(process, store, "part", events(store, "part") + 1)
        cluster.remove_node(nodes[-1], allow_graceful=False)
        print("node killed", flush=True)
        at = events(store, "part")
        said, _ = process.communicate()
        if process.returncode not in (0, 3):
            raise SystemExit(said)
        return {"parts when the node was lost": at, **same(store, expected)}
    finally:
        cluster.shutdown()


def _actors(nodes: Sequence[Any]) -> list[int]:
    """Return the process ids of the actors that explain, on these nodes."""
    raylets = {own.process.pid for node in nodes for own in node.all_processes["raylet"]}
    return [
        child.pid
        for raylet in raylets
        for child in psutil.Process(raylet).children(recursive=True)
        if any("PartExplainer" in word for word in child.cmdline())
    ]


WAYS = {"kills": kills, "disk": disk, "ray": on_ray}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ways", nargs="*", metavar="kills|disk|ray", default=[])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--part", type=int, default=32, help="images per part")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--span", type=float, default=2.0, help="a kill comes so late at most")
    parser.add_argument("--startup", type=float, default=5.0, help="seconds until a run begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", nargs="*", default=["--no-certify"], help="options of the run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    ways = asked.ways or list(WAYS)
    if unknown := set(ways) - set(WAYS):
        parser.error(f"got {min(unknown)!r}, expected some of {', '.join(WAYS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    folder = Path(tempfile.mkdtemp(prefix="heatproof-kill-"))
    found: dict[str, Any] = {"images": asked.images}
    try:
        write_images(folder / "images", asked.images)
        began = time.monotonic()
        finish(command(folder / "images", folder / "whole", asked))
        print(f"uninterrupted: {time.monotonic() - began:.1f} s", flush=True)
        for way in ways:
            began = time.monotonic()
            found[way] = WAYS[way](asked, folder / "images", folder, folder / "whole")
            found[way]["seconds"] = round(time.monotonic() - began, 1)
            print(f"{way}: {json.dumps(found[way])}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    asked.results.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
