"""The experiments' inputs from ImageNet, ImageNet-S and COCO folders, and a family by noise."""

import copy
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from heatproof.data import layouts
from heatproof.data.layouts import CocoPicture, Sample
from heatproof.data.lazy import Files
from heatproof.models import Model
from heatproof.recipes.grad_eclip_paper.inputs import Captioned, Grade, Located, Material, Task

NOISE = (4.0, 2.0, 1.0, 0.7, 0.5, 0.35, 0.25, 0.12, 0.0)
"""Standard deviation of the noise in each grade, in units of each weight tensor's own."""


def folder_material(
    model: Model,
    *,
    imagenet: Path | None,
    imagenet_s: Path | None,
    coco: Path | None,
    images: int,
    located: int,
    captions: int,
    seed: int,
) -> Material:
    """Draw seeded samples from each folder. Objects to find come from ImageNet-S, else COCO.

    Raises `InputError`, in one line, where a folder is not laid out as its data set is.
    """
    task = _imagenet(imagenet, images, seed) if imagenet else None
    pictures = layouts.coco(coco) if coco else None
    objects = _imagenet_s(imagenet_s, located, seed) if imagenet_s else None
    if objects is None and pictures is not None:
        objects = _coco_objects(pictures, located, seed)
    folders = [folder for folder in (imagenet, imagenet_s, coco) if folder]
    return Material(
        name=" + ".join(folder.name for folder in folders),
        tasks=() if task is None else (task,),
        perturbed=task,
        located=objects,
        captioned=None if pictures is None else _captions(pictures, captions, seed),
        family=tuple(
            Grade(f"noise {level:g}", partial(noised, model, level, seed)) for level in NOISE
        ),
        family_is="the model with less and less seeded noise in all of its weights; its standard "
        "deviation is in units of each weight tensor's own",
    )


@contextmanager
def noised(model: Model, level: float, seed: int) -> Generator[Model]:
    """Add noise of `level` standard deviations to every weight matrix while the context is open."""
    original = copy.deepcopy(model.module.state_dict())
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for parameter in model.module.parameters():
                # Matrices only: biases and norms stay as they are.
                if parameter.ndim > 1 and level:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    spread = float(parameter.float().std())
                    parameter += (level * spread * drawn).to(parameter.device, parameter.dtype)
        yield model
    finally:
        model.module.load_state_dict(original)


def _class_prompts(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return each class in open_clip's copy of OpenAI's 80 templates."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(tuple(template(name) for template in OPENAI_IMAGENET_TEMPLATES) for name in names)


def _imagenet(folder: Path, count: int, seed: int) -> Task:
    found = layouts.imagenet(folder)
    names = layouts.class_names(found)
    items = Sample(count, seed).of(found.items)
    labels = torch.tensor([item.label for item in items])
    return Task(
        "ImageNet", Files([item.path for item in items]), labels, names, _class_prompts(names)
    )


def _imagenet_s(folder: Path, count: int, seed: int) -> Located:
    found, masks = layouts.imagenet_s(folder)
    ids = layouts.known_ids(folder, found)
    names = layouts.class_names(found)
    chosen = Sample(count, seed).of(list(zip(found.items, masks, strict=True)))
    labels = torch.tensor([item.label for item, _ in chosen])

    def mask(number: int) -> Bool[Tensor, "object row col"]:
        item, path = chosen[number]
        wanted = ids[found.synsets[item.label]]
        return torch.from_numpy(layouts.imagenet_s_mask(path, wanted).copy()).unsqueeze(0)

    absent = torch.ones(len(chosen), len(names), dtype=torch.bool)
    absent[torch.arange(len(chosen)), labels] = False
    return Located(
        name="ImageNet-S",
        photos=Files([item.path for item, _ in chosen]),
        prompts=tuple(f"a photo of a {name}." for name in names),
        named=labels,
        masks=mask,
        objects=torch.ones(len(chosen), dtype=torch.long),
        absent=absent,
    )


def _coco_objects(pictures: Sequence[CocoPicture], count: int, seed: int) -> Located:
    """Name one category per image, drawn by the seed; each category is one mask."""
    chosen = Sample(count, seed).of([each for each in pictures if each.instances])
    names = sorted({name for each in pictures for name, _ in each.instances})
    here = [list(dict.fromkeys(name for name, _ in each.instances)) for each in chosen]
    picks = [
        random.Random(f"{seed} {each.path.name}").choice(h)
        for each, h in zip(chosen, here, strict=True)
    ]

    def mask(number: int) -> Bool[Tensor, "object row col"]:
        each, pick = chosen[number], picks[number]
        # The named category first: it is the one that the map is held against.
        order = [pick, *(name for name in here[number] if name != pick)]
        parts: dict[str, Tensor] = {
            name: torch.zeros(each.size, dtype=torch.bool) for name in order
        }
        for name, segmentation in each.instances:
            drawn = layouts.coco_mask(segmentation, each.size)
            parts[name] |= torch.from_numpy(drawn.copy())
        return torch.stack(list(parts.values()))

    return Located(
        name="COCO",
        photos=Files([image.path for image in chosen]),
        prompts=tuple(f"a photo of a {name}." for name in names),
        named=torch.tensor([names.index(pick) for pick in picks]),
        masks=mask,
        objects=torch.tensor([len(categories) for categories in here]),
        absent=torch.tensor(
            [
                [name not in categories and name not in image.crowds for name in names]
                for image, categories in zip(chosen, here, strict=True)
            ]
        ),
    )


def _captions(pictures: Sequence[CocoPicture], count: int, seed: int) -> Captioned:
    chosen = Sample(count, seed).of(pictures)
    texts = tuple(each.captions[0] for each in chosen)
    return Captioned("COCO", Files([each.path for each in chosen]), texts)
