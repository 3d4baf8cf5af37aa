"""Captions that carry their structure, so that whether one is true of a scene can be computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from heatproof.data.scenes.scene import Scene, SceneObject, Scenes
from heatproof.data.scenes.vocabulary import (
    ATTRIBUTES,
    CLEARANCE,
    COLOURS,
    INVERSE,
    RELATIONS,
    SHAPES,
    WORDS,
    held_out,
)

Relation = Literal["and", "left of", "right of", "above", "below"]
Attribute = Literal["size", "texture", "colour", "shape"]

# With a shape the phrase is a noun; without one it needs another.
NOUN_STYLES = (
    "a {}",
    "{}",
    "a photo of a {}",
    "a picture of a {}",
    "the {}",
    "there is a {}",
    "an image of a {}",
)
ADJECTIVE_STYLES = (
    "something {}",
    "{}",
    "a {} object",
    "a {} thing",
    "a photo of something {}",
    "a picture of a {} shape",
)


@dataclass(frozen=True)
class Phrase:
    """Some attributes of one object; those left None are not spoken of."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None

    @property
    def words(self) -> str:
        """Return the words that the phrase says, in order."""
        return " ".join(w for w in (self.size, self.texture, self.colour, self.shape) if w)

    @property
    def held_out(self) -> bool:
        """Return whether it names a colour and a shape that training never shows together."""
        if self.colour is None or self.shape is None:
            return False
        return held_out(COLOURS.index(self.colour), SHAPES.index(self.shape))

    def holds(self, thing: SceneObject) -> bool:
        """Return whether the phrase is true of an object."""
        wanted = ((name, getattr(self, name)) for name in ATTRIBUTES)
        return all(word is None or getattr(thing, name) == word for name, word in wanted)

    def spoken(self, style: int = 0) -> str:
        """Return the phrase as text."""
        styles = NOUN_STYLES if self.shape else ADJECTIVE_STYLES
        text = styles[style % len(styles)].format(self.words)
        # "orange" is the only word here that takes "an".
        return text.replace("a orange", "an orange")


@dataclass(frozen=True)
class Caption:
    """One phrase, or two with a relation between two different objects."""

    first: Phrase
    relation: Relation | None = None
    second: Phrase | None = None
    style: int = 0

    @property
    def text(self) -> str:
        """Return the caption as text."""
        if self.second is None:
            return self.first.spoken(self.style)
        between = str(self.relation)
        # "to the above" is no English.
        if self.style % 2 and between in ("left of", "right of"):
            between = f"to the {between}"
        return f"{self.first.spoken()} {between} {self.second.spoken()}"

    @property
    def held_out(self) -> bool:
        """Return whether it names what training never shows together."""
        return self.first.held_out or (self.second is not None and self.second.held_out)


def phrase_of(thing: SceneObject, attributes: Sequence[str] = ATTRIBUTES) -> Phrase:
    """Return the phrase that names an object by these attributes."""
    return Phrase(**{name: getattr(thing, name) for name in attributes})


def related(relation: Relation, one: SceneObject, other: SceneObject) -> bool:
    """Return whether the centres stand in the relation by at least the clearance."""
    (x, y), (u, v) = one.centre, other.centre
    return {
        "and": True,
        "left of": x + CLEARANCE <= u,
        "right of": u + CLEARANCE <= x,
        "above": y + CLEARANCE <= v,
        "below": v + CLEARANCE <= y,
    }[relation]


def truth(caption: Caption, scene: Scene) -> bool:
    """Return whether the caption is true of the scene."""
    if caption.second is None or caption.relation is None:
        return any(caption.first.holds(thing) for thing in scene.objects)
    return any(
        caption.first.holds(one)
        and caption.second.holds(other)
        and related(caption.relation, one, other)
        for one, other in permutations(scene.objects, 2)
    )


def coded(
    captions: Sequence[Caption],
) -> tuple[Int64[Tensor, "caption 2 4"], Int64[Tensor, " caption"]]:
    """Return attribute indices of both phrases and the relation's; -1 where nothing is said."""

    def indices(phrase: Phrase | None) -> list[int]:
        if phrase is None:
            return [-1] * 4
        spoken = (phrase.size, phrase.texture, phrase.colour, phrase.shape)
        return [-1 if w is None else words.index(w) for w, words in zip(spoken, WORDS, strict=True)]

    attributes = torch.tensor([[indices(c.first), indices(c.second)] for c in captions])
    relations = [-1 if c.relation is None else RELATIONS.index(c.relation) for c in captions]
    return attributes.view(-1, 2, 4), torch.tensor(relations, dtype=torch.int64)


def truths(captions: Sequence[Caption], scenes: Scenes) -> Bool[Tensor, "scene caption"]:
    """Compute `truth` of every caption about every scene, at once."""
    device = scenes.seeds.device
    attributes, relations = (t.to(device) for t in coded(captions))
    things = scenes.attributes[:, None, :, None]
    said = attributes[None, :, None]
    # What a phrase does not say fits every object.
    fits = ((said == things) | (said < 0)).all(-1) & scenes.present[:, None, :, None]
    first, second = fits[..., 0], fits[..., 1]
    x, y = scenes.centres[..., 0], scenes.centres[..., 1]
    left = x[:, :, None] + CLEARANCE <= x[:, None, :]
    above = y[:, :, None] + CLEARANCE <= y[:, None, :]
    # A relation is between two different objects.
    other = ~torch.eye(x.shape[1], dtype=torch.bool, device=device)
    stands = torch.stack(
        [other.expand_as(left), left, left.transpose(1, 2), above, above.transpose(1, 2)], dim=1
    )
    # By pairs of objects; captions without a relation are left out in the next line.
    both = first[..., :, None] & second[..., None, :] & stands[:, relations.clamp(min=0)]
    return torch.where(relations < 0, first.any(-1), both.flatten(2).any(-1))


def singles(attribute: Attribute) -> list[Caption]:
    """Return one caption for each word of the attribute."""
    words = WORDS[ATTRIBUTES.index(attribute)]
    return [Caption(Phrase(**{attribute: word})) for word in words]


def combinations(*, with_held_out: bool = True) -> list[Caption]:
    """Return one caption for each colour and shape."""
    every = [Caption(Phrase(colour=c, shape=s)) for c in COLOURS for s in SHAPES]
    return [c for c in every if with_held_out or not c.held_out]


def swapped(caption: Caption) -> Caption:
    """Return the same words with the colours exchanged: only binding can tell it from the
    original."""
    assert caption.second is not None
    return replace(
        caption,
        first=replace(caption.first, colour=caption.second.colour),
        second=replace(caption.second, colour=caption.first.colour),
    )


def reversed_relation(caption: Caption) -> Caption:
    """Return the caption with the opposite relation, which is false where it is true."""
    assert caption.relation is not None
    inverse: Relation = INVERSE[caption.relation]  # pyright: ignore[reportAssignmentType]
    return replace(caption, relation=inverse)


def absent(scene: Scene, attributes: Sequence[str] = ("colour", "shape")) -> list[Caption]:
    """Return every caption of one object, by these attributes, that is false of the scene."""
    # All phrases of these attributes, word by word.
    every = [Phrase()]
    for name, words in zip(ATTRIBUTES, WORDS, strict=True):
        if name in attributes:
            every = [replace(phrase, **{name: word}) for phrase in every for word in words]
    return [c for c in map(Caption, every) if not truth(c, scene)]


def captions_of(scene: Scene, chance: random.Random) -> list[Caption]:
    """List true captions: each object in full and in part, each pair, each true relation."""
    found: list[Caption] = []
    for thing in scene.objects:
        some = chance.sample(ATTRIBUTES, chance.randint(2, 3))
        found += [
            Caption(phrase_of(thing)),
            Caption(phrase_of(thing, ("colour", "shape"))),
            Caption(phrase_of(thing, some)),
            *(Caption(phrase_of(thing, (name,))) for name in ATTRIBUTES),
        ]
    for one, other in permutations(scene.objects, 2):
        a, b = (phrase_of(t, ("colour", "shape")) for t in (one, other))
        pairs: list[Caption] = [Caption(a, relation, b) for relation in INVERSE]  # pyright: ignore[reportArgumentType]
        found += [c for c in pairs if truth(c, scene)]
    # Objects of one look give the same caption: it is said once.
    return list(dict.fromkeys(found))
