"""What maps cost against their limit, bare `encode_image` in inference mode, and against a script.

Everything alternates in one process on the same pixels in float32: a round times bare inference,
then every case; ratios are to the mean of the bare runs before and after; medians of the rounds.
Processor seconds are kept beside the clock's: other programs disturb them less. Scripts (told by
hand in `by_hand_peers`) and packages take one picture or a few at a time; what is compared is a
picture's cost to them with a picture's in bare inference of the batch. Peak memory is a process's
own, one process a case. Random weights.

    python benchmarks/speed.py [--parts prompts gae peers ...] [--batch 32] [--threads 2]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import heatproof
from by_hand_peers import gae, grad_eclip
from heatproof.foreign_packages import ScoreOf
from heatproof.models.compiling import compile_blocks

RESULTS = Path(__file__).parent / "results" / "speed.json"
LIMITS = {1: 1.05, 100: 1.10, 1000: 1.25}
AGAINST_SCRIPT = {1: 1.35, 100: 8, 1000: 50}
PEERS = (
    ("input-x-gradient", "captum's InputXGradient"),
    ("grad-cam", "pytorch-grad-cam's GradCAM"),
)
MEMORY = {1: 1.3, 1000: 1.5}
PROMPTS = (1, 10, 100, 1000)
Run = Callable[[], object]
Row = dict[str, Any]


def seconds(run: Run) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def alternating(
    bare: Run, cases: Mapping[str, Run], rounds: int, times_fewer: float = 1
) -> dict[str, Row]:
    """Ratios of every case to bare inference, a picture: median and extremes, by clock and by
    processor. `times_fewer` says how many times fewer pictures the cases take than bare does."""
    for run in (bare, *cases.values()):
        run()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        before = seconds(bare)
        for name, run in cases.items():
            here, after = seconds(run), seconds(bare)
            pairs = zip(here, before, after, strict=True)
            clock, processor = (
                2 * times_fewer * own / (left + right) for own, left, right in pairs
            )
            found[name].append((clock, processor))
            before = after
    return {name: _row(ratios) for name, ratios in found.items()}


def _row(ratios: list[tuple[float, float]]) -> Row:
    made: Row = {}
    for kind, values in zip(("clock", "processor"), zip(*ratios, strict=True), strict=True):
        made[kind] = statistics.median(values)
        made[f"{kind}, from"], made[f"{kind}, to"] = min(values), max(values)
    return made


class Bench:
    """One model, its pixels and prompts."""

    def __init__(self, asked: argparse.Namespace, side: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = heatproof.load(asked.model)
        if side is not None:
            assert self.model.resized is not None
            self.model = self.model.resized(side, side)
        size = self.model.image.preprocess
        self.pixels = torch.randn(asked.batch, 3, size.height, size.width)
        with torch.inference_mode():
            width = self.model.image.encode(self.pixels[:1]).shape[1]
        self.prompts = F.normalize(torch.randn(max(PROMPTS), width), dim=-1)

    def bare(self, batch: int | None = None) -> Run:
        def run() -> torch.Tensor:
            with torch.inference_mode():
                return self.model.image.encode(self.pixels[:batch])

        return run

    def explain(
        self,
        prompts: int,
        batch: int | None = None,
        method: Any = None,
        certify: bool = False,
        by_default: bool = False,
    ) -> Run:
        return lambda: heatproof.explain(
            self.model,
            self.pixels[:batch],
            self.prompts[:prompts],
            method=method or "attention-x-gradient",
            certify=certify,
            batch_size=None if by_default else len(self.pixels),
        )

    def script(self, prompts: int, pictures: int) -> Run:
        module: Any = self.model.module
        return lambda: [
            grad_eclip(module.visual, picture[None], self.prompts[:prompts])
            for picture in self.pixels[:pictures]
        ]


def prompts(asked: argparse.Namespace) -> Row:
    """Cost against prompts, and the script's on as many pictures as are bearable."""
    bench = Bench(asked)
    ours = {str(n): bench.explain(n) for n in PROMPTS}
    rows: Row = {"ours": alternating(bench.bare(), ours, asked.rounds)}
    usual = {str(n): bench.explain(n, by_default=True) for n in PROMPTS}
    rows["by default"] = alternating(bench.bare(), usual, asked.rounds)
    few = asked.script_pictures
    theirs = {str(n): bench.script(n, few) for n in PROMPTS[:-1]}
    rows["script"] = alternating(bench.bare(), theirs, asked.rounds, asked.batch / few)
    most = {str(PROMPTS[-1]): bench.script(PROMPTS[-1], 1)}
    rows["script"] |= alternating(bench.bare(), most, min(3, asked.rounds), asked.batch)
    return rows


def batch(asked: argparse.Namespace) -> Row:
    bench, rows = Bench(asked), {}
    for count in sorted({1, 4, asked.batch}):
        cases = {str(n): bench.explain(n, count) for n in (1, 100)}
        rows[str(count)] = alternating(bench.bare(count), cases, asked.rounds)
    return rows


def size(asked: argparse.Namespace) -> Row:
    rows: Row = {}
    for side in asked.sides:
        bench = Bench(asked, side)
        cases = {str(n): bench.explain(n, 2) for n in (1, 100)}
        rows[str(side)] = alternating(bench.bare(2), cases, asked.rounds)
    return rows


def layers(asked: argparse.Namespace) -> Row:
    """GAE on the last layers, one prompt: each layer read adds its own forward and backward."""
    bench = Bench(asked)
    depth = len(bench.model.module.visual.transformer.resblocks)  # type: ignore[union-attr]
    counts = sorted({1, depth // 4, depth // 2, depth} - {0})
    cases = {str(n): bench.explain(1, 2, heatproof.methods.create("gae", layers=n)) for n in counts}
    return alternating(bench.bare(2), cases, asked.rounds)


def all_layers(asked: argparse.Namespace) -> Row:
    """GAE over all layers, 10 prompts: ours on a batch, by hand picture by picture and prompt by
    prompt (on one picture)."""
    bench = Bench(asked)
    module: Any = bench.model.module
    few = min(4, asked.batch)
    ours = {"ours": bench.explain(10, few, "gae")}
    hand: dict[str, Run] = {
        name: lambda a_layer=a_layer: [
            gae(module.visual, bench.pixels[:1], prompt, a_layer=a_layer)
            for prompt in bench.prompts[:10]
        ]
        for name, a_layer in (("by hand", False), ("by hand, a gradient a layer", True))
    }
    rows = alternating(bench.bare(few), ours, asked.rounds)
    return rows | alternating(bench.bare(few), hand, asked.rounds, few)


def peers(asked: argparse.Namespace) -> Row:
    """What packages offer beside the same method here: 10 prompts, a few pictures together."""
    from captum.attr import InputXGradient
    from pytorch_grad_cam import GradCAM

    bench, prompts, few = Bench(asked), 10, min(4, asked.batch)
    module = ScoreOf(bench.model, bench.prompts[:prompts])
    pixels, layout = bench.pixels[:few], bench.model.image.layout(*bench.pixels.shape[-2:])
    blocks: Any = bench.model.module.visual.transformer.resblocks  # type: ignore[union-attr]
    captum = InputXGradient(module)

    def on_grid(tokens: torch.Tensor) -> torch.Tensor:
        return layout.grid(tokens.transpose(1, 2))

    def grad_cam() -> None:
        with GradCAM(module, [blocks[-1].ln_1], reshape_transform=on_grid) as cam:
            for prompt in range(prompts):
                cam(pixels, [lambda scores, prompt=prompt: scores[prompt]] * few)

    cases: dict[str, Run] = {
        "input-x-gradient": bench.explain(prompts, few, "input-x-gradient"),
        "captum's InputXGradient": lambda: [
            captum.attribute(pixels.clone().requires_grad_(), target=prompt)
            for prompt in range(prompts)
        ],
        "grad-cam": bench.explain(prompts, few, "grad-cam"),
        "pytorch-grad-cam's GradCAM": grad_cam,
    }
    return alternating(bench.bare(few), cases, asked.rounds)


def compiled(asked: argparse.Namespace) -> Row:
    """The image tower's blocks by torch.compile: bare, and explained, to bare python."""
    plain, bench = Bench(asked), Bench(asked)
    compile_blocks(bench.model)
    cases = {"bare": bench.bare(), "1": bench.explain(1), "100": bench.explain(100)}
    return alternating(plain.bare(), cases, asked.rounds)


def certified(asked: argparse.Namespace) -> Row:
    """The same with its certificate: the untouched pass, three null prompts, evidence."""
    bench = Bench(asked)
    cases = {str(n): bench.explain(n, certify=True) for n in (1, 100)}
    return alternating(bench.bare(), cases, asked.rounds)


def memory(asked: argparse.Namespace) -> Row:
    """Peak resident bytes of a process that does nothing else, from after the model is loaded."""
    cases = ["bare", *(str(n) for n in PROMPTS), "script"]
    peaks = {}
    for case in cases:
        command = [sys.executable, __file__, "--peak", case, "--model", asked.model,
                   "--batch", str(asked.batch), "--threads", str(asked.threads)]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[case] = int(done.stdout.split()[-1])
    return {"bytes": peaks, "ratio": {case: peaks[case] / peaks["bare"] for case in cases[1:]}}


def peak(asked: argparse.Namespace) -> None:
    bench = Bench(asked)
    runs = {str(n): bench.explain(n) for n in PROMPTS}
    runs |= {"bare": bench.bare(), "script": bench.script(100, 1)}
    forget_peak()
    runs[asked.peak]()
    print(peak_bytes())


def forget_peak() -> None:
    """Where it cannot be, the peak is that of loading the model if that is higher."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_bytes() -> int:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


PARTS = {
    "prompts": prompts,
    "batch": batch,
    "size": size,
    "layers": layers,
    "gae": all_layers,
    "peers": peers,
    "compile": compiled,
    "certified": certified,
    "memory": memory,
}


def machine(asked: argparse.Namespace) -> Row:
    cpu = Path("/proc/cpuinfo")
    names = cpu.read_text().splitlines() if cpu.exists() else []
    named = [line.split(": ")[1] for line in names if line.startswith("model name")]
    return {
        "model": asked.model,
        "batch": asked.batch,
        "rounds": asked.rounds,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": named[0] if named else platform.machine(),
        "load before": os.getloadavg()[0],
        "torch": torch.__version__,
        "heatproof": heatproof.__version__,
    }


def report(found: Row) -> None:
    if "prompts" in found:
        rows = found["prompts"]
        for count, limit in LIMITS.items():
            ours, usual, script = (
                rows[who][str(count)] for who in ("ours", "by default", "script")
            )
            faster = script["clock"] / usual["clock"]
            print(
                f"{count:5} prompts: {ours['clock']:.3f} by the clock, {ours['processor']:.3f} by "
                f"the processor (limit {limit}); by default {usual['clock']:.3f}, "
                f"{faster:.2f} times faster than the script (asked: {AGAINST_SCRIPT[count]})"
            )
    if "gae" in found:
        rows = found["gae"]
        for name in ("by hand", "by hand, a gradient a layer"):
            faster = rows[name]["clock"] / rows["ours"]["clock"]
            print(f"gae, 10 prompts: {faster:.2f} times faster than {name} (asked: 3)")
    for ours, theirs in PEERS if "peers" in found else ():
        faster = found["peers"][theirs]["clock"] / found["peers"][ours]["clock"]
        print(f"{ours}, 10 prompts: {faster:.2f} times faster than {theirs}")
    for part in ("compile", "certified"):
        for case, row in found.get(part, {}).items():
            if case != "machine":
                print(f"{part}, {case}: {row['clock']:.3f} by the clock")
    if "memory" in found:
        for count, limit in MEMORY.items():
            print(f"{count:5} prompts: memory {found['memory']['ratio'][str(count)]:.2f} ({limit})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--script-pictures", type=int, default=2)
    parser.add_argument("--sides", type=int, nargs="+", default=(224, 336, 448))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.peak:
        peak(asked)
        return
    found: Row = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for part in asked.parts:
        about = machine(asked)
        found[part] = PARTS[part](asked) | {"machine": about}
        asked.results.parent.mkdir(exist_ok=True)
        asked.results.write_text(json.dumps(found, indent=2) + "\n")
    report(found)


if __name__ == "__main__":
    main()
