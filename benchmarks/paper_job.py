"""The paper's claims on real weights: one job for one GPU, about 15 minutes for ViT-B/16.

    python benchmarks/paper_job.py --imagenet-s DIR [--coco DIR] --device cuda -o out/job
    python benchmarks/paper_job.py --rehearse 16 --device cuda -o out/rehearsal

Runs `heatproof reproduce` (a to d on 1,000 images, objects to find among 600 of them), writes
`bundle.zip`, checks it, and gives insertion and deletion (e) the time that is left: a few images
are timed first, then as many are run as fit. Killed, the same command goes on where it was.
`job.json` holds the seconds of each section, per image too.

`--rehearse N` makes N images in the layouts of ImageNet-S and COCO, and takes the model with random
weights: everything runs at true size, and no number means anything.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from heatproof.recipes.grad_eclip_paper import bundle_check
from heatproof.recipes.grad_eclip_paper.reproducing import ReproduceRequest, run

BUDGET = 15 * 60
PILOT = 4
"""Images of the timed pilot of (e)."""
SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")


class Clock:
    """Prints what runs, and adds up seconds by what was being done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._doing, self._since = "loading", time.monotonic()

    def __call__(self, doing: str, done: int, total: int) -> None:
        del done
        if doing != self._doing:
            self.stop()
            self._doing = doing
            print(f"{doing} ({total} parts)", flush=True)

    def stop(self) -> None:
        """Book the time since the last call."""
        now = time.monotonic()
        self.seconds[self._doing] = self.seconds.get(self._doing, 0.0) + now - self._since
        self._since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="open_clip:ViT-B-16/openai")
    parser.add_argument("--imagenet-s", type=Path, help="ImageNet-S, with its masks")
    parser.add_argument("--coco", type=Path, help="COCO: annotations/ and val2017/, for captions")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", default="a,b,c,d,e")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--rehearse", type=int, metavar="N", help="N made images, random weights")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/job"))
    given = parser.parse_args()
    if given.rehearse is None and given.imagenet_s is None:
        parser.error("pass --imagenet-s DIR, or --rehearse N")
    started = time.monotonic()
    if given.rehearse is not None:
        made = rehearsal(given.out / "images", given.rehearse)
        given.imagenet_s, given.coco = made
        given.images, given.model = given.rehearse, given.model.partition("/")[0]
    letters = tuple(given.only.split(","))
    first = tuple(letter for letter in letters if letter != "e")
    request: Callable[..., ReproduceRequest] = lambda images, only: ReproduceRequest(  # noqa: E731
        model=given.model,
        imagenet=given.imagenet_s / "validation",
        imagenet_s=given.imagenet_s,
        coco=given.coco,
        images=images,
        # A rehearsal takes every step with the fewest settings.
        quick=given.rehearse is not None,
        only=only,
        device=given.device,
    )
    clock = Clock()
    bundle = given.out / "bundle.zip"
    run(request(given.images, first), given.out, clock, bundle=bundle)
    clock.stop()
    checks = bundle_check.check(bundle)
    print("\n".join(bundle_check.lines(checks)))
    later = _perturbation(given, request, clock, started) if "e" in letters else {}
    report = {
        "model": given.model,
        "images": given.images,
        "rehearsal": given.rehearse is not None,
        "device": torch.cuda.get_device_name() if given.device == "cuda" else platform.machine(),
        "seconds": {name: round(value, 2) for name, value in clock.seconds.items()},
        "all": round(time.monotonic() - started, 1),
        "bundle": {
            "bytes": bundle.stat().st_size,
            "checks": {v: sum(c.verdict == v for c in checks) for v in ("holds", "fails")},
        },
        **later,
    }
    (given.out / "job.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _perturbation(
    given: argparse.Namespace,
    request: Callable[..., ReproduceRequest],
    clock: Clock,
    started: float,
) -> dict[str, object]:
    """Time (e) on a few images, then run as many as the budget has left."""
    few = min(PILOT, given.images)
    before = time.monotonic()
    run(request(few, ("e",)), given.out / "e-pilot", clock)
    clock.stop()
    per_image = (time.monotonic() - before) / few
    left = given.budget - (time.monotonic() - started)
    count = min(given.images, int(left / per_image))
    found: dict[str, object] = {"e, seconds per image": round(per_image, 3), "e, images": count}
    if count > few:
        run(request(count, ("e",)), given.out / "e", clock)
        clock.stop()
    return found


# --- the rehearsal -------------------------------------------------------------------------------


def rehearsal(folder: Path, count: int) -> tuple[Path, Path]:
    """Make `count` images as ImageNet-S and as COCO lay them out: noise with a bright rectangle."""
    chance = np.random.default_rng(0)
    imagenet_s, coco = folder / "imagenet-s", folder / "coco"
    names = sorted(SYNSETS)
    listed = imagenet_s / "ImageNetS_categories_im919.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(names) + "\n")
    images: list[dict[str, object]] = []
    captions: list[dict[str, object]] = []
    for number in range(count):
        synset = names[number % len(names)]
        pixels, mask = _photo(chance)
        place = imagenet_s / "validation" / synset / f"ILSVRC2012_val_{number:08d}.JPEG"
        _save(pixels, place)
        ids = np.zeros((*mask.shape, 3), np.uint8)
        ids[..., 0] = mask * (names.index(synset) + 1)
        segmentation = imagenet_s / "validation-segmentation" / synset
        _save(ids, segmentation / f"{place.stem}.png")
        name = f"{number:012d}.jpg"
        _save(pixels, coco / "val2017" / name)
        height, width = mask.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        text = f"a photo of a bright box number {number} on a noisy wall"
        captions.append({"id": number, "image_id": number, "caption": text})
    notes = coco / "annotations"
    notes.mkdir(parents=True, exist_ok=True)
    whole = {"images": images, "annotations": captions}
    (notes / "captions_val2017.json").write_text(json.dumps(whole))
    things = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "box"}]}
    (notes / "instances_val2017.json").write_text(json.dumps(things))
    return imagenet_s, coco


def _photo(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = 375, 500
    pixels = chance.integers(0, 120, (height, width, 3), dtype=np.uint8)
    top, left = (int(x) for x in chance.integers(20, 200, 2))
    mask = np.zeros((height, width), bool)
    mask[top : top + 120, left : left + 160] = True
    pixels[mask] = chance.integers(160, 255, 3, dtype=np.uint8)
    return pixels, mask


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
