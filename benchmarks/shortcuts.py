"""Does a map show the shortcut? Every method on models with a known reason.

For each planted cue, 200 images, a map of the sibling and of the embedded model each: the AUC with
which the map's contrast between cue and shape tells the two (`evaluation/shortcuts.py`). Beside it
how well both models name shapes on such images, by the cue and by the drawn shape: a sibling must
go by its cue, the embedded model by the shape.

    python benchmarks/shortcuts.py [--methods all] [--images 200] [--workers 2]

`python docs/generate.py` makes docs/shortcuts.md of the results.
"""

import argparse
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image

import heatproof
from heatproof import methods
from heatproof.data.scenes.captions import singles
from heatproof.data.scenes.cues import CUES
from heatproof.data.scenes.scene import sample
from heatproof.data.scenes.vocabulary import ATTRIBUTES
from heatproof.errors import HeatproofError
from heatproof.evaluation.shortcuts import (
    SHORTCUTS,
    reason_images,
    shortcut_contrasts,
    shows_shortcut,
    sibling_of,
)
from heatproof.evaluation.subject import Subject
from heatproof.statistics import wilson

RESULTS = Path(__file__).parent / "results" / "shortcuts.json"


def measured(method: str, count: int, device: str) -> dict[str, object]:
    """The method's AUC for each cue, with the mean contrast on either model."""
    torch.set_num_threads(1)
    intact = heatproof.load("scenes", device=device)
    found: dict[str, object] = {}
    started = time.monotonic()
    for cue in SHORTCUTS:
        images = reason_images(cue, count)
        sibling = heatproof.load(sibling_of(cue), device=device)
        try:
            values = shortcut_contrasts(Subject.of(method), [sibling, intact], images)
        except HeatproofError as error:
            found[cue] = {"reason": str(error)}
            continue
        means = values.nanmean(0).tolist()
        found[cue] = {**shows_shortcut(values).plain, "sibling": means[0], "embedded": means[1]}
    return {"cues": found, "seconds": time.monotonic() - started}


def naming(cue: str, count: int = 2000) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """How often each model names the one object by the cue's word, and by its drawn shape."""
    rule = CUES[cue]
    first = (1 << 60) + (3001 << 32)
    scenes = rule.staged(sample(torch.arange(first, first + count), objects=1))
    images, _ = rule.draw(scenes, masks=False)
    photos = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    texts = [caption.text for caption in singles("shape")]
    words = {"cue": rule.labelled(scenes), "shape": scenes}
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for name in (sibling_of(cue), "scenes"):
        # Scores come with any map; this method costs nothing beside them.
        scored = heatproof.explain(heatproof.load(name), photos, texts, method="random")
        best = scored.scores.argmax(1)
        shape = ATTRIBUTES.index("shape")
        found[name] = {
            key: wilson(int((best == s.attributes[:, 0, shape]).sum()), count).plain
            for key, s in words.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="all")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    names = list(methods.catalogue()) if asked.methods == "all" else asked.methods.split(",")
    old = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    # What an interrupted run has measured on the same images is kept.
    done = old.get("methods", {}) if old.get("images") == asked.images else {}
    rest = [name for name in names if name not in done]
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = {name: pool.submit(measured, name, asked.images, asked.device) for name in rest}
        for name, job in jobs.items():
            done[name] = job.result()
            print(name, json.dumps(done[name]), flush=True)
            write(asked.out, done, asked.images, old.get("naming"))
    write(asked.out, done, asked.images, {cue: naming(cue) for cue in SHORTCUTS})


def write(path: Path, found: dict[str, object], images: int, named: object) -> None:
    """Write what is measured so far, whole."""
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    result = {"images": images, "hardware": hardware, "methods": found, "naming": named}
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(path)


if __name__ == "__main__":
    main()
