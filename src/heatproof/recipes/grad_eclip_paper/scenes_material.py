"""The experiments' inputs from rendered scenes, with exact truth.

Images that are perturbed or searched are 4:3, as photos are: a scene is mirrored at its left and
right edge, and its masks with it. The model's own centre crop then sees the scene and nothing else,
an input that keeps the aspect ratio sees mirrored objects too, and pixels outside the crop exist.
"""

import random
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from heatproof.data.scenes import (
    SHAPES,
    UNSEEN,
    Caption,
    Phrase,
    Scene,
    Scenes,
    combinations,
    phrase_of,
    render,
    sample,
    singles,
)
from heatproof.data.scenes.single_attribute import asked, drawn
from heatproof.models import Model, load
from heatproof.models.scenes import checkpoints
from heatproof.recipes.grad_eclip_paper.inputs import Captioned, Grade, Located, Material, Task

PARTS = {"naming": 40, "perturbed": 41, "captioned": 43}
"""Seeds above these times 2^32 are used by nothing else: neither training nor the model's card."""
MARGIN = 12
"""Pixels mirrored at each side of 64."""
FOLLOWED = 500
"""Scenes that are drawn again without their objects, at most."""
LEAST_VISIBLE = 20
"""Pixels of 64 x 64 that a named object shows at least."""


def scenes_material(
    *, images: int, located: int, captions: int, seed: int, graded: bool
) -> Material:
    """Render `images` scenes per naming task and for perturbation, `located` to be searched."""
    return Material(
        name="rendered scenes",
        tasks=_naming(images, seed),
        perturbed=_perturbed(images, seed),
        located=_located(located, seed),
        captioned=_captioned(captions, seed),
        family=tuple(Grade(name, partial(_checkpoint, name)) for name in checkpoints())
        if graded
        else (),
        family_is="states of the same training run, from untrained to final",
        notices=(
            "naming: scenes of one object; finding: scenes of two to four objects of one colour "
            "and of different shapes, asked for by shape alone, so that colour is no shortcut",
            "images to search and to perturb are 4:3: scenes mirrored at both sides, which the "
            "model's centre crop cuts off again",
        ),
        counterfactual=asked(min(located, FOLLOWED), seed=seed + 77),
    )


@contextmanager
def _checkpoint(name: str) -> Generator[Model]:
    yield load(f"scenes:{name}")


def _drawn(part: str, count: int, seed: int, objects: int | None) -> Scenes:
    first = UNSEEN + (PARTS[part] << 32) + (seed << 20)
    return sample(torch.arange(first, first + count, dtype=torch.int64), objects=objects)


def _naming(count: int, seed: int) -> tuple[Task, ...]:
    scenes = _drawn("naming", count, seed, 1)
    photos = [_photo(image) for image in render(scenes, masks=False)[0]]
    things = [scene.objects[0] for scene in scenes.described()]
    tasks: list[Task] = []
    for attribute in ("shape", "colour"):
        captions = singles(attribute)  # pyright: ignore[reportArgumentType]
        words = [str(getattr(c.first, attribute)) for c in captions]
        labels = torch.tensor([words.index(getattr(thing, attribute)) for thing in things])
        texts = tuple((c.text,) for c in captions)
        tasks.append(Task(attribute, photos, labels, tuple(words), texts))
    return (*tasks, _pairs("colour and shape", photos, scenes))


def _pairs(name: str, photos: list[Image.Image], scenes: Scenes) -> Task:
    """Naming colour and shape of the one object, among all 64 pairs."""
    captions = combinations()
    phrases = [c.first for c in captions]
    things = [scene.objects[0] for scene in scenes.described()]
    labels = [phrases.index(Phrase(colour=t.colour, shape=t.shape)) for t in things]
    names = tuple(p.words for p in phrases)
    return Task(name, photos, torch.tensor(labels), names, tuple((c.text,) for c in captions))


def _perturbed(count: int, seed: int) -> Task:
    scenes = _drawn("perturbed", count, seed, 1)
    photos = [_photo(_wide(image)) for image in render(scenes, masks=False)[0]]
    return _pairs("colour and shape", photos, scenes)


def _located(count: int, seed: int) -> Located:
    """One object of each scene is named, drawn by the scene's seed from those that can be seen."""
    captions = singles("shape")
    scenes = drawn(count, "shape", seed)
    images, visible = render(scenes)
    here = torch.zeros(count, len(SHAPES), dtype=torch.bool)
    named: list[int] = []
    masks: list[Tensor] = []
    for row, scene in enumerate(scenes.described()):
        shapes = [SHAPES.index(thing.shape) for thing in scene.objects]
        size = visible[row].sum((1, 2))
        # A named object must be visible; where none is large enough the largest is taken.
        fit = [k for k in range(len(shapes)) if size[k] >= LEAST_VISIBLE] or [int(size.argmax())]
        # By the scene's own seed: the choice does not depend on how many scenes are drawn.
        choice = random.Random(scene.seed).choice(fit)
        others = [k for k in range(len(shapes)) if k != choice]
        masks.append(_wide(visible[row, [choice, *others]]))
        named.append(shapes[choice])
        here[row, shapes] = True
    return Located(
        name="scenes of two to four objects of one colour",
        photos=[_photo(_wide(image)) for image in images],
        prompts=tuple(c.text for c in captions),
        named=torch.tensor(named),
        masks=masks.__getitem__,
        objects=torch.tensor([len(mask) for mask in masks]),
        absent=~here,
    )


def _captioned(count: int, seed: int) -> Captioned:
    """A caption that names two objects in full, or the one object of its scene."""
    scenes = _drawn("captioned", count, seed, None)
    photos = [_photo(image) for image in render(scenes, masks=False)[0]]
    return Captioned("scenes", photos, tuple(_caption(s).text for s in scenes.described()))


def _caption(scene: Scene) -> Caption:
    chosen = random.Random(scene.seed).sample(scene.objects, min(2, len(scene.objects)))
    phrases = [phrase_of(thing) for thing in chosen]
    return Caption(phrases[0]) if len(phrases) == 1 else Caption(phrases[0], "and", phrases[1])


def _wide(pixels: Shaped[Tensor, "*any row col"]) -> Shaped[Tensor, "*any row wide"]:
    """Mirrored at the left and right edge; the edge itself is not doubled."""
    left = pixels[..., 1 : MARGIN + 1].flip(-1)
    right = pixels[..., -MARGIN - 1 : -1].flip(-1)
    return torch.cat([left, pixels, right], dim=-1)


def _photo(image: Shaped[Tensor, "3 row col"]) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
