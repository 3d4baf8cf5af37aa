"""Scores that people can read: a rank among classes, a z value against null texts, ensembles.

A cosine of +0.27 says little by itself. Its *rank* says how many classes of a list score higher on
this image. Its *z value* says how far it is above the scores of texts that say nothing about any
image, in their standard deviations. A *prompt ensemble* is one prompt made of a class name in
several templates: the mean of their normalised embeddings (Radford et al., arXiv 2103.00020). The
cosine is linear in the direction of that mean, so that an ensemble is explained as one prompt.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.engine.inputs import ImageInputs, Prompts, embed
from heatproof.errors import InputError
from heatproof.image_maps import Reading
from heatproof.models.model import Model

OPENAI = "openai80"
IMAGENET = "imagenet"
PLACE = "{}"
NULL_COUNT = 32
# Below this spread the model reads all null texts as the same, and no z value means anything.
SAME = 1e-4
UNRELATED = (
    "the quarterly report of a shipping insurance company",
    "a theorem about prime numbers",
    "the second movement of a symphony",
    "an amendment to the tax code",
    "yesterday at about half past four",
    "the opposite of courage",
    "a recursive function without arguments",
    "the price of electricity in march",
)


def class_names(source: str) -> tuple[str, ...]:
    """Return the names in a file, one per line, or ImageNet's 1,000 as open_clip has them.

    Raises:
        InputError: there is no such file, or fewer than two names in it.
    """
    if source == IMAGENET:
        from open_clip import IMAGENET_CLASSNAMES

        return tuple(IMAGENET_CLASSNAMES)
    names = _lines("classes", source, f"{IMAGENET}, or a text file with a class name per line")
    if len(names) < 2:
        raise InputError(
            f"{source}: {len(names)} class name(s), expected two or more, one per line"
        )
    return names


def templates(source: str) -> tuple[str, ...]:
    """Return the templates in a file, one per line, or OpenAI's 80; `{}` is the name's place.

    Raises:
        InputError: there is no such file, or a line of it has no place for the name.
    """
    if source == OPENAI:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(template(PLACE) for template in OPENAI_IMAGENET_TEMPLATES)
    lines = _lines("templates", source, f"{OPENAI}, or a text file with a template per line")
    for line in lines:
        if line.count(PLACE) != 1:
            raise InputError(f"{source}: got {line!r}, expected one {PLACE} where the name goes")
    return lines


def ensembles(model: Model, names: Sequence[str], patterns: Sequence[str] = (PLACE,)) -> Prompts:
    """Embed names, each as the mean of its templates' normalised embeddings.

    Raises:
        InputError: the model is a classifier, or has no text tower.
    """
    if model.text is None or model.classes:
        raise InputError(f"{model.spec} reads no texts; try without --classes and --templates")
    texts = [pattern.replace(PLACE, name) for name in names for pattern in patterns]
    unit = F.normalize(embed(model, texts).embeddings, dim=-1)
    return Prompts(tuple(names), unit.unflatten(0, (len(names), len(patterns))).mean(1))


def readings(
    model: Model, shown: ImageInputs, prompts: Prompts, classes: Prompts | None = None
) -> tuple[tuple[Reading, ...], ...]:
    """Return how each image's score with each prompt is to be read.

    Args:
        classes: what a prompt's rank is among; None: there are no ranks.
    """
    images = _embedded(shown)
    own = _cosines(images, prompts)
    nulls = _cosines(images, embed(model, null_texts())) if model.text is not None else None
    rivals = None if classes is None else _cosines(images, classes)
    rows: list[tuple[Reading, ...]] = []
    for image in range(len(images)):
        row: list[Reading] = []
        for number, label in enumerate(prompts.labels):
            value = own[image, number]
            rank, count = None, 0
            if rivals is not None and classes is not None:
                others = torch.tensor([name != label for name in classes.labels])
                rank = 1 + int((rivals[image][others] > value).sum())
                count = int(others.sum()) + 1
            row.append(Reading(rank, count, None if nulls is None else _z(value, nulls[image])))
        rows.append(tuple(row))
    return tuple(rows)


def top(shown: ImageInputs, classes: Prompts, count: int) -> list[tuple[int, float]]:
    """Return the numbers and cosines of the classes that score highest on the first image."""
    values = _cosines(_embedded(shown)[:1], classes)[0]
    best = values.topk(min(count, len(values)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def null_texts() -> list[str]:
    """Return texts that say nothing about any image: the same ones on every call."""
    chance = random.Random(0)
    words = [
        " ".join(
            "".join(chance.choices("bcdfghjklmnpqrstvwxz", k=chance.randint(4, 6)))
            for _ in range(3)
        )
        for _ in range(NULL_COUNT - len(UNRELATED))
    ]
    return [*UNRELATED, *words]


def _z(value: Tensor, nulls: Float[Tensor, " null"]) -> float | None:
    spread = nulls.std()
    return float((value - nulls.mean()) / spread) if spread > SAME else None


def _embedded(shown: ImageInputs) -> Float[Tensor, "image dim"]:
    with torch.no_grad():
        return shown.model.image.encode(shown.pixels)


def _cosines(images: Float[Tensor, "image dim"], prompts: Prompts) -> Float[Tensor, "image prompt"]:
    texts = F.normalize(prompts.embeddings, dim=-1)
    return (F.normalize(images.to(texts), dim=-1) @ texts.T).cpu().double()


def _lines(option: str, source: str, expected: str) -> tuple[str, ...]:
    try:
        text = Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"got {option} {source!r}, expected {expected}") from error
    lines = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise InputError(f"{source} is empty, expected {expected}")
    return lines
