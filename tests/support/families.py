"""Every family that heatproof describes, tiny and random, with pictures and prompts for it."""

from collections.abc import Sequence
from dataclasses import replace

import torch

import tiny_hf
from heatproof.models import Model, Tokens
from heatproof.specimens import FAMILIES, ids, ids_for, model_of, picture, prompts_for

__all__ = [
    "FAMILIES",
    "POOLED",
    "ROTARY",
    "TEXT_FAMILIES",
    "ids",
    "ids_for",
    "model_of",
    "picture",
    "prompts_for",
    "worded",
    "worded_model_of",
]


# Open_clip's are named, Hugging Face's looked at: to build all of open_clip's takes a second.
HF = {name: model_of(name) for name in FAMILIES if name.startswith("hf ")}
TEXT_FAMILIES = [name for name in FAMILIES if name not in HF or HF[name].text is not None]
POOLED = {
    "open_clip coca",
    "open_clip mean pool",
    "open_clip mobileclip-s",
    "open_clip resnet",
    "open_clip siglip",
    "open_clip vitamin",
    *(name for name, model in HF.items() if model.image.readout.name != "class token"),
}
"""Families whose readout is no class token."""
ROTARY = {
    "open_clip eva",
    *(name for name, model in HF.items() if "Rotary" in str(model.module)),
}
"""Families with rotary positions, which one token alone cannot take."""


def ids_of(texts: Sequence[str], vocabulary: int = 26) -> torch.Tensor:
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
