"""What opening JPEG files costs on top of explaining, and the memory of few and of many files.

Times explaining the same pictures from memory (preprocessed), everything in alternation as in
`speed`: `explain` on a batch of files at a time, and `explain_each`, which opens the next batch
meanwhile, by a thread or by processes. Model threads leave cores for the loading, or nothing can be
gained. Memory: how far a fresh process grows over what the loaded model takes. Random weights.

    python benchmarks/loading.py [--model open_clip:ViT-B-16] [--files 48] [--threads 1]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

import heatproof
from gpu import jpegs
from heatproof.models import Model
from speed import Run, alternating, forget_peak, machine, peak_bytes

RESULTS = Path(__file__).parent / "results" / "loading.json"
SIZE = (2048, 1536)


def prompt_of(model: Model) -> torch.Tensor:
    """A random embedding."""
    size = model.image.preprocess
    with torch.inference_mode():
        return torch.randn(
            1, model.image.encode(torch.zeros(1, 3, size.height, size.width)).shape[1]
        )


def cases(asked: argparse.Namespace, paths: list[Path]) -> tuple[Run, dict[str, Run]]:
    model = heatproof.load(asked.model)
    size = model.image.preprocess
    pixels = torch.stack([size(Image.open(path).convert("RGB")) for path in paths])
    prompts = prompt_of(model)
    together = asked.batch

    def at_once(files: list[Path]) -> None:
        for start in range(0, len(files), together):
            heatproof.explain(model, files[start : start + together], prompts, certify=False)

    def each(workers: int) -> None:
        for _ in heatproof.explain_each(
            model, paths, prompts, certify=False, batch_size=together, workers=workers
        ):
            pass

    return (
        lambda: heatproof.explain(model, pixels, prompts, certify=False, batch_size=together),
        {
            "explain, batch by batch": lambda: at_once(paths),
            "explain_each, a thread": lambda: each(0),
            "explain_each, one process": lambda: each(1),
        },
    )


def grown(asked: argparse.Namespace, how: str, count: int) -> float:
    """MiB."""
    command = [sys.executable, __file__, "--grow", how, "--files", str(count),
               "--model", asked.model, "--threads", str(asked.threads)]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def grow(asked: argparse.Namespace, paths: list[Path]) -> None:
    model = heatproof.load(asked.model)
    prompts = prompt_of(model)
    forget_peak()
    before = peak_bytes()
    if asked.grow == "explain":
        heatproof.explain(model, paths, prompts, certify=False)
    else:
        for _ in heatproof.explain_each(model, paths, prompts, certify=False):
            pass
    print((peak_bytes() - before) / 2**20)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16")
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = jpegs(Path(folder), asked.files, SIZE)
        if asked.grow:
            grow(asked, paths)
            return
        limit, others = cases(asked, paths)
        rows = alternating(limit, others, asked.rounds)
    memory = {
        how: {count: grown(asked, how, count) for count in asked.counts}
        for how in ("explain", "explain_each")
    }
    for name, row in rows.items():
        print(f"{name}: {row['clock']:.2f} times explaining from memory")
    print(memory)
    found = {"rows": rows, "MiB": memory, "files": asked.files, "size": SIZE}
    asked.results.write_text(json.dumps(found | {"machine": machine(asked)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
