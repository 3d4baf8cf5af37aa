"""Plan a run of a million or a billion images, and check the plan by simulation.

The plan is a formula: the slowest of decoding, model and store sets the rate; a worker that dies
costs its start and half a part, on average. The simulation plays the run part by part: workers
take parts from a queue, parts take a little longer or shorter, workers die at random moments,
start again and do the part again. The rates are options: measure yours with benchmarks/run.py.

    python benchmarks/scale.py [--images 1e6 1e9] [--devices 1 8 64] [--model-rate 400] ...
"""

import argparse
import heapq
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from heatproof.runs.watching import duration

RESULTS = Path(__file__).parent / "results" / "scale.json"
LISTING_BYTES = 120
"""Memory per item of the list of images, path and id of 40 characters."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one machine was measured to do.

    Attributes:
        decode: images per second that one core decodes.
        model: images per second that one device explains.
        store: bytes per second that the file system takes from all workers.
        map_bytes: of one row of the store.
        start: seconds from a dead worker to its first image.
        failure_hours: mean time between the failures of one worker.
    """

    decode: float
    model: float
    store: float
    map_bytes: float
    start: float
    failure_hours: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes.

    Attributes:
        rate: images per second of all workers, without failures.
        bottleneck: what sets it.
        seconds: with failures.
        lost: share of the time that failures cost.
        files: parts of the store, before `heatproof store compact`.
        store_bytes, listing_bytes: on disk; in memory of each process.
    """

    images: float
    devices: int
    rate: float
    bottleneck: str
    seconds: float
    lost: float
    files: int
    store_bytes: float
    listing_bytes: float


def plan(images: float, devices: int, asked: argparse.Namespace, rates: Rates) -> Plan:
    """Return the plan by formula."""
    limits = {
        "decode": devices * asked.cores * rates.decode,
        "model": devices * rates.model,
        "store": rates.store / (rates.map_bytes * asked.prompts),
    }
    bottleneck = min(limits, key=lambda name: limits[name])
    rate = limits[bottleneck]
    part = asked.part * devices / rate
    cost = (rates.start + part / 2) / (rates.failure_hours * 3600)
    # The last parts end one after the other: half a part, on average, waits for them.
    seconds = rates.start + images / rate * (1 + cost) + part / 2
    return Plan(
        images=images,
        devices=devices,
        rate=rate,
        bottleneck=bottleneck,
        seconds=seconds,
        lost=cost / (1 + cost),
        files=int(images // asked.part),
        store_bytes=images * asked.prompts * rates.map_bytes,
        listing_bytes=images * LISTING_BYTES,
    )


def simulate(expected: Plan, asked: argparse.Namespace, rates: Rates, seed: int = 0) -> float:
    """Return the seconds of one simulated run; at most `asked.most_parts` parts are played."""
    chance = random.Random(seed)
    part = asked.part * expected.devices / expected.rate
    parts = int(expected.images // asked.part) or 1
    played = min(parts, asked.most_parts * expected.devices)
    left, now = played, 0.0
    # When each worker is free, and when it dies next.
    mean = rates.failure_hours * 3600
    workers = [(rates.start, chance.expovariate(1 / mean), n) for n in range(expected.devices)]
    heapq.heapify(workers)
    while left:
        free, dies, number = heapq.heappop(workers)
        end = free + part * chance.lognormvariate(0, 0.1) / 1.005
        if dies < end:
            again = max(dies, free) + rates.start
            heapq.heappush(workers, (again, again + chance.expovariate(1 / mean), number))
            continue
        left -= 1
        now = max(now, end)
        heapq.heappush(workers, (end, dies, number))
    # What was not played takes as long, part by part.
    return rates.start + (now - rates.start) * parts / played


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=float, nargs="+", default=[1e6, 1e9])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--cores", type=int, default=8, help="cores that decode, per device")
    parser.add_argument("--prompts", type=int, default=1, help="maps per image")
    parser.add_argument("--part", type=int, default=512, help="images per part")
    parser.add_argument("--decode", type=float, default=120, help="images per second and core")
    parser.add_argument("--model-rate", type=float, default=400, help="images per second, device")
    parser.add_argument("--store", type=float, default=200e6, help="bytes per second, all workers")
    parser.add_argument("--map-bytes", type=float, default=900)
    parser.add_argument("--start", type=float, default=30, help="seconds to start a worker")
    parser.add_argument("--failure-hours", type=float, default=24, help="per worker, on average")
    parser.add_argument("--most-parts", type=int, default=2000, help="played per device")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    rates = Rates(
        decode=asked.decode,
        model=asked.model_rate,
        store=asked.store,
        map_bytes=asked.map_bytes,
        start=asked.start,
        failure_hours=asked.failure_hours,
    )
    print("| images | devices | images per second | bottleneck | time | simulated | lost | store |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    began = time.perf_counter()
    for images in asked.images:
        for devices in asked.devices:
            own = plan(images, devices, asked, rates)
            played = simulate(own, asked, rates)
            rows.append({**asdict(own), "simulated_seconds": played})
            print(
                f"| {images:,.0f} | {devices} | {own.rate:,.0f} | {own.bottleneck} | "
                f"{duration(own.seconds)} | {duration(played)} | {own.lost:.2%} | "
                f"{own.store_bytes / 1e9:,.1f} GB |"
            )
    found = {"rates": asdict(rates), "part": asked.part, "prompts": asked.prompts, "rows": rows}
    asked.results.write_text(json.dumps(found, indent=2) + "\n")
    print(f"simulated in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
