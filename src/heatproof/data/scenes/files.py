"""Scenes as files: PNG images, COCO instances and captions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from heatproof.data.scenes.dataset import Example, SceneDataset
from heatproof.data.scenes.vocabulary import SHAPES


def run_lengths(mask: Bool[np.ndarray, "row col"]) -> list[int]:
    """Encode as COCO does, uncompressed: lengths of runs down the columns, the first of zeros."""
    flat = np.concatenate([[False], mask.flatten(order="F"), [False]])
    changes = np.flatnonzero(flat[1:-1] != flat[:-2])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def mask_of(counts: list[int], size: tuple[int, int]) -> Bool[np.ndarray, "row col"]:
    """Return the mask of COCO's uncompressed code; `size` is (height, width)."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")


def _annotations(example: Example, image: int, first: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for thing, mask in zip(example["scene"].objects, example["masks"].numpy(), strict=True):
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue  # covered from sight
        top, left = int(rows[0]), int(cols[0])
        found.append(
            {
                "id": first + len(found),
                "image_id": image,
                "category_id": SHAPES.index(thing.shape) + 1,
                "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                "area": int(mask.sum()),
                "bbox": [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                # Pairs of run lengths, as COCO has them for crowds, are legal for any instance.
                "iscrowd": 0,
                "attributes": {
                    k: getattr(thing, k) for k in ("size", "texture", "colour", "shape")
                },
            }
        )
    return found


def write(dataset: SceneDataset, folder: Path) -> None:
    """Write `images/*.png`, `instances.json` (COCO) and `captions.json` into `folder`.

    A category is a shape; the other attributes stand beside each annotation. `captions.json` is
    COCO's caption format with the structure of each caption and whether it is true.
    """
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        example = dataset[index]
        name = f"{index:06d}.png"
        Image.fromarray(example["picture"].permute(1, 2, 0).numpy()).save(pictures / name)
        side = dataset.pixels
        images.append(
            {
                "id": index + 1,
                "file_name": name,
                "width": side,
                "height": side,
                "seed": example["scene"].seed,
            }
        )
        instances += _annotations(example, index + 1, len(instances) + 1)
        for true, captions in ((True, example["captions"]), (False, example["absent"])):
            for caption in captions:
                structure = {k: v for k, v in asdict(caption).items() if k != "style"}
                sentences.append(
                    {
                        "id": len(sentences) + 1,
                        "image_id": index + 1,
                        "caption": caption.text,
                        "true": true,
                        **structure,
                    }
                )
    categories = [
        {"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES)
    ]
    info = {"description": "Rendered scenes with exact masks and captions", "version": "1"}
    _dump(
        folder / "instances.json",
        {"info": info, "images": images, "annotations": instances, "categories": categories},
    )
    _dump(folder / "captions.json", {"info": info, "images": images, "annotations": sentences})


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
