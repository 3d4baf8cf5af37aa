"""Every family that heatproof describes, tiny and random, with pictures and prompts for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

import tiny
import tiny_hf
from heatproof.models import Model, Tokens

FAMILIES: dict[str, Callable[..., Model]] = {
    **{f"open_clip {name}": build for name, build in tiny.FAMILIES.items()},
    **{f"hf {name}": build for name, build in tiny_hf.MODELS.items()},
}


@cache
def model_of(family: str) -> Model:
    """In float64, built once: no test changes it."""
    return FAMILIES[family]()


def picture(model: Model, count: int = 2, seed: int = 3) -> Tensor:
    """Noise in the model's own size (image, 3, height, width)."""
    size = model.image.preprocess
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size.height, size.width, generator=generator)
    return noise.to(model.dtype)


def ids(count: int = 3, vocabulary: int = 26) -> Tensor:
    """Prompts of 5, 7, ... tokens that end in the two highest ids, padded with 0 to 13."""
    made = torch.zeros(count, 13, dtype=torch.long)
    for n in range(count):
        length = 5 + 2 * n
        made[n, 0], made[n, length - 1] = vocabulary - 2, vocabulary - 1
        made[n, 1 : length - 1] = torch.arange(1, length - 1) * (n + 2) % (vocabulary - 4) + 1
    return made


def ids_of(texts: Sequence[str], vocabulary: int = 26) -> Tensor:
    """Texts as token ids of our own making, a letter a token, cut to the context."""
    made = torch.zeros(len(texts), 13, dtype=torch.long)
    for row, text in zip(made, texts, strict=True):
        letters = [ord(letter) % (vocabulary - 4) + 1 for letter in text[:11]]
        row[: len(letters) + 2] = torch.tensor([vocabulary - 2, *letters, vocabulary - 1])
    return made


def worded(model: Model, vocabulary: int = 26) -> Model:
    """The model with a tokenizer (`ids_of`), so that it has null prompts and an empty one."""
    if model.text is None:
        return model
    from_ids = model.text.from_ids

    def tokenize(texts: Sequence[str]) -> Tokens:
        return from_ids(ids_of(texts, vocabulary))

    return replace(model, text=replace(model.text, tokenize=tokenize))


def worded_model_of(family: str) -> Model:
    return worded(model_of(family), tiny_hf.VOCABULARY if family.startswith("hf") else 26)


def ids_for(family: str, count: int = 3) -> Tensor:
    return ids(count, tiny_hf.VOCABULARY if family.startswith("hf") else 26)


def prompts_for(family: str, count: int = 3) -> Tensor | list[str]:
    """Class names for a classifier, random embeddings for the others."""
    model = model_of(family)
    if model.classes:
        return list(model.classes[:count])
    with torch.no_grad():
        width = model.image.encode(picture(model, 1)).shape[1]
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)
