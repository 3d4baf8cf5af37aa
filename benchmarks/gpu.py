"""Ratios on a GPU in bf16: with and without a certificate, from memory and from JPEG files.

Weights and pixels are bf16, attribution is float32. Ratios alternate with bare `encode_image` in
inference mode on the same pixels; JPEG files are decoded by worker processes into pinned memory
while the device works, and for a certificate the library's own processor makes its pixels there
too. The matrix rate is what a large bf16 product reaches on the same device; the share is of the
operations of bare inference, whatever is explained on top. Memory is the peak of allocated bytes,
model included. Random weights. Runs on the CPU too, at small size.

    python benchmarks/gpu.py [--models open_clip:ViT-B-16 open_clip:ViT-L-14] [--batch 256]
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import heatproof

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PROMPTS = (1, 100, 1000)
CERTIFY: dict[str, Any] = {"without": False, "certified": True, "full": "full"}
Run = Callable[[], object]


def device_of(name: str | None) -> torch.device:
    if name is not None:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(run: Run, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def peak(run: Run, device: torch.device) -> int | None:
    """Bytes allocated at most, model included; None where the device does not tell."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device)


def kept_after(run: Run, device: torch.device) -> int | None:
    """Bytes that are still allocated after more runs than before them: a leak, if any."""
    if device.type != "cuda":
        return None
    run()
    before = torch.cuda.memory_allocated(device)
    for _ in range(3):
        run()
    wait(device)
    return torch.cuda.memory_allocated(device) - before


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of a square product, the best of several runs."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [seconds(lambda: one @ other, device) for _ in range(6)]
    return 2 * side**3 / min(times[1:])


def jpegs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> list[Path]:
    """Photograph-sized files of smooth noise, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    paths: list[Path] = []
    for number in range(count):
        small = torch.randint(0, 256, (15, 20, 3), generator=generator, dtype=torch.uint8)
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(small.numpy()).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def measure(spec: str, asked: argparse.Namespace) -> dict[str, Any]:
    device = device_of(asked.device)
    dtype = torch.bfloat16
    torch.manual_seed(0)
    model = heatproof.load(spec, device=str(device), dtype="bfloat16", compile=asked.compile)
    size = model.image.preprocess
    pixels = torch.randn(asked.batch, 3, size.height, size.width).to(device, dtype)
    with torch.inference_mode():
        width = model.image.encode(pixels[:1]).shape[1]
    prompts = torch.randn(max(asked.prompts), width)

    def bare() -> Tensor:
        with torch.inference_mode():
            return model.image.encode(pixels)

    def explain(count: int, certify: Any) -> object:
        options = {"certify": certify, "batch_size": asked.batch, "method": asked.method}
        return heatproof.explain(model, pixels, prompts[:count], **options)

    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model.image.encode(pixels[:1])
    operations = counted.get_total_flops() * asked.batch
    rate = matrix_rate(device, dtype, asked.side)
    rows: dict[str, Any] = {}
    for count, name in itertools.product(asked.prompts, asked.certify):
        run = partial(explain, count, CERTIFY[name])
        run(), bare()
        ratios: list[float] = []
        times: list[float] = []
        for _ in range(asked.rounds):
            before, here, after = (seconds(r, device) for r in (bare, run, bare))
            ratios.append(2 * here / (before + after))
            times.append(here)
        middle = statistics.median(times)
        rows[f"{count} prompt(s), {name}"] = {
            "ratio": statistics.median(ratios),
            "from": min(ratios),
            "to": max(ratios),
            "images a second": asked.batch / middle,
            "share of the matrix rate": operations / middle / rate,
            "peak bytes": peak(run, device),
            "bytes kept": kept_after(run, device),
        }
    with tempfile.TemporaryDirectory() as folder:
        paths = jpegs(Path(folder), asked.files)

        def from_files(certify: Any) -> None:
            options = {"certify": certify, "batch_size": asked.batch, "method": asked.method}
            for _ in heatproof.explain_each(
                model, paths, prompts[:1], workers=asked.workers, **options
            ):
                pass

        from_jpeg = {
            name: len(paths) / seconds(partial(from_files, CERTIFY[name]), device)
            for name in asked.certify
        }
    return {
        "prompts": rows,
        "bare images a second": asked.batch / min(seconds(bare, device) for _ in range(3)),
        "bare peak bytes": peak(bare, device),
        "images a second from JPEG": from_jpeg,
        "matrix rate, operations a second": rate,
        "batch": asked.batch,
        "compiled": asked.compile,
        "dtype": "bfloat16",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
    }


def _of(peak: int | None, bare: int | None) -> str:
    return "unknown" if peak is None or bare is None else f"{peak / bare:.2f}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["open_clip:ViT-B-16", "open_clip:ViT-L-14"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--method", default="attention-x-gradient")
    parser.add_argument("--certify", nargs="+", choices=CERTIFY, default=["without", "certified"])
    parser.add_argument("--files", type=int, default=2048, help="JPEG files to read.")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="By torch.compile.")
    parser.add_argument("--side", type=int, default=8192, help="Of the product that is timed.")
    parser.add_argument("--device", help="cuda, mps, cpu; the best there is.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    found = {spec: measure(spec, asked) for spec in asked.models}
    asked.results.parent.mkdir(exist_ok=True)
    asked.results.write_text(json.dumps(found, indent=2) + "\n")
    for spec, rows in found.items():
        print(f"{spec}, {rows['device']}, batch {rows['batch']}, {rows['dtype']}")
        for count, row in rows["prompts"].items():
            print(f"  {count:>24}: {row['ratio']:.3f} ({row['from']:.3f} to "
                  f"{row['to']:.3f}), {row['images a second']:.0f} images a second, "
                  f"peak {_of(row['peak bytes'], rows['bare peak bytes'])} times bare")  # fmt: skip
        for name, rate in rows["images a second from JPEG"].items():
            print(f"  from JPEG files, {name}: {rate:.0f} images a second")
    return found


if __name__ == "__main__":
    main()
