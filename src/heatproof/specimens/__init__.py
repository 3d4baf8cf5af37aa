"""Tiny random models of every family, built by the libraries' own classes, with inputs for them.

They carry no knowledge: identities of methods hold or break on them as on any weights, in
milliseconds and in float64. `FAMILIES` is one of each kind; `SPECIMENS` adds what a comparison of
methods needs beside: one head, and classifiers of other libraries.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heatproof.models.model import Model
from heatproof.specimens import classifiers, hugging_face, open_clip

FAMILIES: dict[str, Callable[..., Model]] = {
    **{f"open_clip {name}": build for name, build in open_clip.FAMILIES.items()},
    **{f"hf {name}": build for name, build in hugging_face.MODELS.items()},
}
SPECIMENS: dict[str, Callable[..., Model]] = {
    **FAMILIES,
    "open_clip vit, one head": open_clip.open_clip_one_head,
    **classifiers.MODELS,
}
CONTEXT = open_clip.CONTEXT


@cache
def model_of(family: str) -> Model:
    """Return a specimen in float64, built once: nobody changes it."""
    return SPECIMENS[family]()


def picture(model: Model, count: int = 2, seed: int = 3) -> Float[Tensor, "image 3 height width"]:
    """Return noise in the model's own size."""
    size = model.image.preprocess
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size.height, size.width, generator=generator)
    return noise.to(model.device, model.dtype)


def ids(count: int = 3, vocabulary: int = 26) -> Int[Tensor, "prompt context"]:
    """Return prompts of 5, 7, ... tokens that end in the two highest ids, padded with 0."""
    made = torch.zeros(count, CONTEXT, dtype=torch.long)
    for n in range(count):
        length = 5 + 2 * n
        made[n, 0], made[n, length - 1] = vocabulary - 2, vocabulary - 1
        made[n, 1 : length - 1] = torch.arange(1, length - 1) * (n + 2) % (vocabulary - 4) + 1
    return made


def ids_for(family: str, count: int = 3) -> Int[Tensor, "prompt context"]:
    """Return `ids` for the vocabulary of a family's specimens."""
    return ids(count, hugging_face.VOCABULARY if family.startswith("hf") else 26)


def prompts_for(family: str, count: int = 3) -> Any:
    """Return class names for a classifier, random embeddings (prompt, dim) for the others."""
    model = model_of(family)
    return list(model.classes[:count]) if model.classes else embeddings(model, count)


def embeddings(model: Model, count: int = 3, seed: int = 5) -> Float[Tensor, "prompt dim"]:
    """Return random embeddings as wide as the model's own."""
    with torch.no_grad():
        width = model.image.encode(picture(model, 1)).shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return drawn.to(model.device)
