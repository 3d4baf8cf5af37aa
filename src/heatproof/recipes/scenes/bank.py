"""The captions that a batch of scenes is scored against, grouped in families that compete."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor

from heatproof.data.scenes.captions import (
    NOUN_STYLES,
    Caption,
    Phrase,
    coded,
    combinations,
    phrase_of,
    related,
    reversed_relation,
    singles,
    swapped,
)
from heatproof.data.scenes.scene import Scene, SceneObject, Scenes
from heatproof.data.scenes.vocabulary import ATTRIBUTES, COLOURS, HELD_OUT, INVERSE, SHAPES, WORDS

WEIGHTS: Final = {
    "size": 0.3,
    "texture": 0.4,
    "colour": 0.5,
    "shape": 1.0,
    "colour and shape": 1.0,
    "mixed": 0.6,
    "relation": 1.0,
}
"""Weight of each family in the loss: more where learning is slow."""
FAMILIES: Final = tuple(WEIGHTS)

NOISE_WORDS: Final = ("zzz", "qwfp", "lorem")
SMALL_WORDS: Final = ("a", "an", "the", "of", "and", "to", "is", "there", "with", "in", "on", "no")


@dataclass(frozen=True)
class BankCaption:
    """A caption with its family, and the text that the model reads."""

    caption: Caption
    family: str
    text: str


def _altered(phrase: Phrase, chance: random.Random) -> Phrase:
    """Exchange one word of the phrase for another of the same kind."""
    spoken = [name for name in ATTRIBUTES if getattr(phrase, name)]
    name = chance.choice(spoken)
    others = [w for w in WORDS[ATTRIBUTES.index(name)] if w != getattr(phrase, name)]
    return replace(phrase, **{name: chance.choice(others)})


def _mixed(thing: SceneObject, chance: random.Random) -> Iterator[Caption]:
    """Yield the object in full and in part, each beside a version with one word wrong."""
    some = sorted(chance.sample(ATTRIBUTES, chance.randint(2, 3)), key=ATTRIBUTES.index)
    for phrase in (phrase_of(thing), phrase_of(thing, some)):
        yield Caption(phrase)
        yield Caption(_altered(phrase, chance))


def _relational(scene: Scene, chance: random.Random) -> Iterator[Caption]:
    """Yield captions of two objects: the pair, a true relation, and both with words exchanged."""
    one, other = chance.sample(scene.objects, 2)
    which = chance.choice((("colour", "shape"), ("colour", "shape"), ("shape",), ("colour",)))
    pair = Caption(phrase_of(one, which), "and", phrase_of(other, which))
    yield pair
    if which == ("colour", "shape"):
        yield swapped(pair)
    spatial = [r for r in INVERSE if r != "and" and related(r, one, other)]  # pyright: ignore[reportArgumentType]
    if spatial:
        style = chance.randint(0, 1)
        true = replace(pair, relation=chance.choice(spatial), style=style)
        yield true
        yield reversed_relation(true)
        if which == ("colour", "shape"):
            yield swapped(true)
            yield swapped(reversed_relation(true))


def _spoken(caption: Caption, chance: random.Random) -> str:
    if caption.second is None:
        caption = replace(caption, style=chance.randrange(12))
    # Unknown words stand in some texts, so that the model learns to look past them.
    return (
        f"{chance.choice(NOISE_WORDS)} {caption.text}" if chance.random() < 0.04 else caption.text
    )


def bank(
    scenes: list[Scene],
    chance: random.Random,
    *,
    both: int = 32,
    mixed: int = 4,
    pairs: int = 6,
) -> list[BankCaption]:
    """Draw the captions of a batch: single words, colours with shapes, and minimal pairs.

    both: number of the 56 trained combinations.
    mixed, pairs: number of scenes that such captions are about.
    """
    captions: list[tuple[str, Caption]] = []
    for attribute in ATTRIBUTES:
        captions += [(attribute, c) for c in singles(attribute)]
    # Held-out combinations never occur in training texts.
    known = combinations(with_held_out=False)
    captions += [("colour and shape", c) for c in chance.sample(known, min(both, len(known)))]
    for scene in chance.sample(scenes, min(mixed, len(scenes))):
        captions += [("mixed", c) for c in _mixed(chance.choice(scene.objects), chance)]
    # A relation needs two objects.
    several = [scene for scene in scenes if len(scene.objects) > 1]
    for scene in chance.sample(several, min(pairs, len(several))):
        captions += [("relation", c) for c in _relational(scene, chance)]
    return [BankCaption(c, family, _spoken(c, chance)) for family, c in captions if not c.held_out]


def nonsense(chance: random.Random, count: int) -> list[str]:
    """Draw texts whose noun is an unknown word: false of every scene.

    In turn: a plain noun ("a photo of a zzz"), one with known attributes before it ("a small red
    qwfp"), and a longer text of unknown and small words ("zzz lorem in the qwfp"). The tokenizer
    gives every unknown word one id, so that these stand for any word that it does not know.
    """
    texts: list[str] = []
    for number in range(count):
        noun = " ".join(chance.choices(NOISE_WORDS, k=chance.randint(1, 3)))
        if number % 3 == 1:
            names = chance.sample(range(len(ATTRIBUTES) - 1), chance.randint(1, 2))
            noun = " ".join([*(chance.choice(WORDS[k]) for k in sorted(names)), noun])
        if number % 3 == 2:
            small = chance.choices(SMALL_WORDS + NOISE_WORDS, k=chance.randint(1, 5))
            texts.append(" ".join([*small, noun]))
        else:
            texts.append(chance.choice(NOUN_STYLES).format(noun))
    return texts


def withheld(captions: list[Caption], scenes: Scenes) -> Bool[Tensor, "scene caption"]:
    """Mark the captions that are false only because combinations are held out.

    No training image with the one colour has the one shape. Counting "a circle" as false of all
    of them would teach that the colour excludes the shape, which is the renderer's choice.
    """
    colour_of = torch.full((len(SHAPES) + 1,), -2)
    shape_of = torch.full((len(COLOURS) + 1,), -2)
    for shape, colour in HELD_OUT:
        colour_of[shape], shape_of[colour] = colour, shape
    attributes, _ = coded(captions)
    device = scenes.seeds.device
    # Index -1, of a word that is not said, finds the last entry: no colour, no shape.
    shape, colour = attributes[..., 3], attributes[..., 2]
    barred_colour = torch.where(colour < 0, colour_of[shape], -2).to(device)
    barred_shape = torch.where(shape < 0, shape_of[colour], -2).to(device)
    things = scenes.attributes[:, None, None]
    meets = (things[..., 2] == barred_colour[..., None]) | (
        things[..., 3] == barred_shape[..., None]
    )
    return meets.flatten(2).any(-1)
