"""How fast and how lean `heatproof run` is: against the bare model, and on two actors.

    rate     images per second of a run into a store against the bare model's (encode_image in
             inference mode) on the same loader, and against certified runs; in alternation
    memory   resident memory of the run's process while it goes through all images
    actors   two Ray actors against one, one thread each

Images are small rendered PNG files, written once. Bytes per map are those of the finished store.

    python benchmarks/run.py [rate] [memory] [actors] [--images 20000] [--model scenes]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import heatproof
from heatproof.engine.streaming import ImageLoader, load_batches
from heatproof.models.model import Model
from heatproof.runs import run as running
from heatproof.runs.cluster import RayEngine
from heatproof.runs.job import PromptPlan
from heatproof.runs.local import LocalEngine
from heatproof.runs.run import RunRequest, RunResult
from heatproof.runs.sources import list_items
from heatproof.runs.watching import Tally
from heatproof.store.items import Items, open_item
from speed import machine

RESULTS = Path(__file__).parent / "results" / "run.json"
Times = dict[str, list[float]]


def write_images(folder: Path, count: int, side: int) -> None:
    """Write small images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side)).save(folder / f"{number:07d}.png")


class Bench:
    """A model, images, and runs of them into stores that are thrown away."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.model: Model = heatproof.load(asked.model, device=asked.device)
        self.batch = asked.batch or running.batch_size_for(self.model)

    def items(self, count: int) -> Items:
        return list_items([str(self.folder / "images")], most=count)

    def run(
        self, items: Items, engine: Any = None, tell: Callable[[Tally], None] | None = None,
        **more: Any,
    ) -> tuple[RunResult, Path]:  # fmt: skip
        """Run the items into a new store."""
        store = self.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        plain: dict[str, Any] = {
            "store": str(store),
            "items": items,
            "methods": ((self.asked.method, {}),),
            "prompts": PromptPlan(shared=tuple(self.asked.prompts)),
            "batch_size": self.batch,
            "part_items": self.asked.part,
        }
        job, manifest = running.plan(self.model, RunRequest(**plain | more))
        engine = engine or LocalEngine(
            devices=(self.asked.device,), loaders=self.asked.workers, model=self.model, items=items
        )
        return running.run(job, manifest, items, engine, tell=tell or (lambda _: None)), store

    def bare(self, items: Items) -> None:
        """Encode the items' images, read by the same loader."""
        loader = ImageLoader(
            self.model, items, self.batch, strict=False, compared=0, opener=open_item
        )
        with closing(load_batches(loader, self.model, self.asked.workers)) as batches:
            for batch in batches:
                for shown in batch.inputs(self.model):
                    with torch.inference_mode():
                        self.model.image.encode(shown.pixels).cpu()


def rate(bench: Bench) -> dict[str, Any]:
    """Time the bare model and runs in alternation; ratios are of medians."""
    asked = bench.asked
    items = bench.items(asked.rate_images)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: bench.bare(items),
        "uncertified": lambda: bench.run(items, certified=0),
        "certified": lambda: bench.run(items, certified=1),
        f"certified, 1 batch of {asked.every}": lambda: bench.run(items, certified=asked.every),
    }
    warm = bench.items(4 * bench.batch)
    bench.bare(warm)
    bench.run(warm)
    clock: Times = {name: [] for name in ways}
    processor: Times = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, way in ways.items():
            began, used = time.perf_counter(), _processor()
            way()
            clock[name].append(time.perf_counter() - began)
            processor[name].append(_processor() - used)
    found = {
        name: {
            "images per second": round(len(items) / statistics.median(clock[name]), 1),
            "ratio to bare": round(_ratio(clock, name), 3),
            "ratio in processor time": round(_ratio(processor, name), 3),
        }
        for name in ways
    }
    _, store = bench.run(items, certified=1)
    rows = len(heatproof.open_store(store))
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    return {"images": len(items), "ways": found, "bytes per map": round(size / rows, 1)}


def _ratio(times: Times, name: str) -> float:
    pairs = zip(times["bare"], times[name], strict=True)
    return statistics.median(bare / own for bare, own in pairs)


def _processor() -> float:
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def memory(bench: Bench) -> dict[str, Any]:
    """Run all images; note the resident memory at every part."""
    seen: list[tuple[int, float]] = []
    items = bench.items(bench.asked.images)
    began = time.perf_counter()
    bench.run(items, tell=lambda tally: seen.append((tally.done, _resident())), certified=0)
    # The first quarter fills caches.
    late = [own for done, own in seen if done > len(items) / 4] or [own for _, own in seen]
    return {
        "images": len(items),
        "seconds": round(time.perf_counter() - began, 1),
        "MiB at the start": round(seen[0][1], 1),
        "MiB after a quarter": round(late[0], 1),
        "MiB at the end": round(late[-1], 1),
        "growth since a quarter, MiB": round(late[-1] - late[0], 1),
        "curve": [(done, round(own, 1)) for done, own in seen[:: max(1, len(seen) // 40)]],
    }


def _resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def actors(bench: Bench) -> dict[str, Any]:
    """Time one and two actors, one thread each, after the model is loaded in both."""
    import ray

    found: dict[str, Any] = {}
    items = bench.items(bench.asked.actor_images)
    root = Path(__file__).parents[1]
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "src")}
    for count in (1, 2, 1, 2):
        ray.init(num_cpus=count + 1, include_dashboard=False, log_to_driver=False,
                 runtime_env={"env_vars": variables})  # fmt: skip
        ends: list[tuple[float, int]] = []
        engine = RayEngine(model=bench.model, items=items, least=count, most=count)
        bench.run(
            items, engine, lambda tally, ends=ends: ends.append((time.perf_counter(), tally.done)),
            certified=1, part_items=bench.batch * 4,
        )  # fmt: skip
        ray.shutdown()
        # From the first quarter on: until then actors load their models.
        ends = [own for own in ends if own[1] >= len(items) / 4]
        (first, before), (last, done) = ends[0], ends[-1]
        found.setdefault(f"{count} actors", []).append(round((done - before) / (last - first), 1))
    one, two = (statistics.median(found[f"{count} actors"]) for count in (1, 2))
    return {"images": len(items), **found, "ratio": round(two / one, 2)}


WAYS = {"rate": rate, "memory": memory, "actors": actors}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ways", nargs="*", metavar="rate|memory|actors", default=[])
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--method", default="attention-x-gradient")
    parser.add_argument("--prompts", nargs="+", default=["a red circle"])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rate-images", type=int, default=2_000)
    parser.add_argument("--actor-images", type=int, default=2_000)
    parser.add_argument("--side", type=int, default=64, help="pixels of an image's side")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--part", type=int, default=512)
    parser.add_argument("--every", type=int, default=8, help="certify one of so many batches")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    ways = asked.ways or list(WAYS)
    folder = Path(tempfile.mkdtemp(prefix="heatproof-run-"))
    found: dict[str, Any] = {"model": asked.model, "workers": asked.workers}
    try:
        most = {"rate": asked.rate_images, "memory": asked.images, "actors": asked.actor_images}
        write_images(folder / "images", max(most[way] for way in ways), asked.side)
        bench = Bench(asked, folder)
        for way in ways:
            found[way] = WAYS[way](bench)
            print(f"{way}: {json.dumps(found[way])}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["machine"] = machine(asked)
    asked.results.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
