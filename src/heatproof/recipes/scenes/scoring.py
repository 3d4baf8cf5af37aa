"""How good a model is at what rendered scenes ask of it, with 95 % intervals."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Final

import torch
from jaxtyping import Float, UInt8
from open_clip import CLIP
from PIL import Image
from torch import Tensor

from heatproof.data.scenes.captions import (
    Attribute,
    Caption,
    Relation,
    absent,
    combinations,
    phrase_of,
    related,
    reversed_relation,
    singles,
    swapped,
    truth,
    truths,
)
from heatproof.data.scenes.dataset import UNSEEN
from heatproof.data.scenes.renderer import render
from heatproof.data.scenes.scene import Combinations, Scene, Scenes, sample
from heatproof.data.scenes.vocabulary import ATTRIBUTES, INVERSE, SHAPES
from heatproof.models.scenes import SceneTokenizer
from heatproof.recipes.scenes.recipe import prepared
from heatproof.statistics import wilson


@dataclass(frozen=True)
class Figure:
    """A share of `count` scenes, with Wilson's 95 % interval and what chance would reach."""

    value: float
    low: float
    high: float
    count: int
    chance: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def share(hits: int, count: int, chance: float) -> Figure:
    """Wilson's interval; it never leaves [0, 1] and is sound near the ends."""
    found = wilson(hits, count)
    return Figure(found.value, found.low, found.high, count, chance)


class Judge:
    """Scores pictures against captions with one model, through unit embeddings."""

    def __init__(self, model: CLIP, *, device: str = "cpu") -> None:
        self.model, self.device = model.to(device).eval(), device
        self.tokenizer = SceneTokenizer()
        self._texts: dict[str, Tensor] = {}
        self._pictures: dict[bytes, Tensor] = {}

    @torch.inference_mode()
    def pictures(self, scenes: Scenes) -> Float[Tensor, "scene embedding"]:
        """Encode scenes to unit embeddings; the same scenes are rendered once for all questions."""
        key = scenes.seeds.numpy().tobytes() + scenes.attributes.numpy().tobytes()
        if key in self._pictures:
            return self._pictures[key]
        parts: list[Tensor] = []
        for start in range(0, len(scenes), 128):
            drawn, _ = render(scenes[start : start + 128].to(self.device), masks=False)
            parts.append(self.model.encode_image(prepared(drawn), normalize=True))
        self._pictures[key] = torch.cat(parts).cpu()
        return self._pictures[key]

    @torch.inference_mode()
    def texts(self, captions: Sequence[Caption | str]) -> Float[Tensor, "caption embedding"]:
        """Encode captions or texts to unit embeddings; each text is encoded once."""
        wanted = [c if isinstance(c, str) else c.text for c in captions]
        missing = [t for t in dict.fromkeys(wanted) if t not in self._texts]
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            tokens = self.tokenizer(part).to(self.device)
            vectors = self.model.encode_text(tokens, normalize=True).cpu()
            self._texts.update(zip(part, vectors, strict=True))
        return torch.stack([self._texts[t] for t in wanted])


def drawn(count: int, part: int, *, objects: int, combinations: Combinations = "trained") -> Scenes:
    """Draw scenes at full difficulty that training never sees; each `part` has its own seeds."""
    # The lower half of each part was looked at while the recipe was made: the card leaves it out.
    first = UNSEEN + (part << 32) + (1 << 31)
    seeds = torch.arange(first, first + count, dtype=torch.int64)
    return sample(seeds, objects=objects, combinations=combinations)


def named(
    seen: Float[Tensor, "scene embedding"], scenes: Scenes, judge: Judge, captions: list[Caption]
) -> Tensor:
    """Return bool (scene): is the caption with the highest cosine true of the scene?"""
    best = (seen @ judge.texts(captions).T).argmax(dim=1, keepdim=True)
    return truths(captions, scenes).gather(1, best)[:, 0]


def _single_captions() -> dict[str, list[Caption]]:
    names: tuple[Attribute, ...] = ("colour", "shape", "texture", "size")
    return {**{name: singles(name) for name in names}, "colour and shape": combinations()}


def single_objects(
    judge: Judge, count: int, *, part: int = 0, combinations: Combinations = "trained"
) -> dict[str, Figure]:
    """Measure zero-shot naming of one object by colour, shape, texture, size and pair."""
    scenes = drawn(count, part, objects=1, combinations=combinations)
    seen = judge.pictures(scenes)
    return {
        name: share(int(named(seen, scenes, judge, captions).sum()), count, 1 / len(captions))
        for name, captions in _single_captions().items()
    }


def where_it_fails(judge: Judge, count: int) -> dict[str, dict[str, Figure]]:
    """Measure accuracy on the shape of one object, split by what may make it hard."""
    scenes = drawn(count, 0, objects=1)
    right = named(judge.pictures(scenes), scenes, judge, singles("shape"))
    described = scenes.described()
    backgrounds = ("even", "gradient", "waves", "checks", "clouds")
    keys: dict[str, Callable[[int], str]] = {
        "size": lambda i: described[i].objects[0].size,
        "texture": lambda i: described[i].objects[0].texture,
        "background": lambda i: backgrounds[int(scenes.families[i])],
        "shape": lambda i: described[i].objects[0].shape,
    }
    found: dict[str, dict[str, Figure]] = {}
    for name, key in keys.items():
        groups: dict[str, list[bool]] = {}
        for i, hit in enumerate(right.tolist()):
            groups.setdefault(key(i), []).append(hit)
        found[name] = {k: share(sum(v), len(v), 1 / len(SHAPES)) for k, v in sorted(groups.items())}
    return found


Pairing = Callable[[Scene, random.Random], tuple[Caption, Caption] | None]
"""From a scene, a true and a false caption; None where the scene has no such pair."""


def preferred(judge: Judge, scenes: Scenes, pairing: Pairing) -> Figure:
    """Return how often the true caption's cosine is above the false one's."""
    pairs: list[tuple[Caption, Caption]] = []
    rows: list[int] = []
    for row, scene in enumerate(scenes.described()):
        pair = pairing(scene, random.Random(scene.seed))
        # Not every scene has such a pair; chance stays one half of those that have.
        if pair is not None:
            # The truth of both captions is checked against the scene, not assumed.
            assert truth(pair[0], scene)
            assert not truth(pair[1], scene)
            pairs.append(pair)
            rows.append(row)
    if not pairs:
        return share(0, 0, 0.5)
    seen = judge.pictures(scenes)[rows]
    true, false = (judge.texts([p[k] for p in pairs]) for k in (0, 1))
    hits = (seen * true).sum(1) > (seen * false).sum(1)
    return share(int(hits.sum()), len(pairs), 0.5)


NONSENSE: Final = (
    "xqvz kjwprt",
    "a dog",
    "a photo of a cat",
    "the house",
    "a red dog",
    "grass and sky",
    "two people in a street",
    "a large striped zebra",
    "asdf",
)
"""Texts about what no scene shows; most of their words are unknown to the model."""


def against_nonsense(judge: Judge, scenes: Scenes, attributes: Sequence[str]) -> dict[str, Figure]:
    """Return how often a true caption's cosine is above nonsense; also above an absent one, too.

    The second is of scenes that have an absent caption of this form: of all three prompts of a
    demonstration, the true one wins.
    """
    pairing = named_or_absent(attributes)
    seen = judge.pictures(scenes)
    beyond: list[bool] = []
    first: list[bool] = []
    for row, scene in enumerate(scenes.described()):
        chance = random.Random(scene.seed)
        pair = pairing(scene, chance)
        if pair is None:
            continue
        texts = [*pair, chance.choice(NONSENSE)]
        true, false, foreign = (seen[row] @ judge.texts(texts).T).tolist()
        beyond.append(true > foreign)
        first.append(true > max(false, foreign))
    return {
        "above nonsense": share(sum(beyond), len(beyond), 0.5),
        "above nonsense and an absent prompt": share(sum(first), len(first), 1 / 3),
    }


def named_or_absent(attributes: Sequence[str]) -> Pairing:
    """Pair a caption of one object with one of the same form that no object fits."""

    def pairing(scene: Scene, chance: random.Random) -> tuple[Caption, Caption] | None:
        true = Caption(phrase_of(chance.choice(scene.objects), attributes))
        false = [c for c in absent(scene, attributes) if not c.held_out]
        return (true, chance.choice(false)) if false else None

    return pairing


def borrowed_colour(scene: Scene, chance: random.Random) -> tuple[Caption, Caption] | None:
    """Pair one object with its shape in the other object's colour."""
    one, other = chance.sample(scene.objects, 2)
    true = Caption(phrase_of(one, ("colour", "shape")))
    false = Caption(phrase_of(one, ("shape",)).__class__(colour=other.colour, shape=one.shape))
    return None if false.held_out or truth(false, scene) else (true, false)


def swapped_colours(scene: Scene, chance: random.Random) -> tuple[Caption, Caption] | None:
    """Pair two objects with the same words, colours exchanged."""
    one, other = chance.sample(scene.objects, 2)
    a, b = (phrase_of(t, ("colour", "shape")) for t in (one, other))
    true = Caption(a, "and", b)
    false = swapped(true)
    return None if false.held_out or truth(false, scene) else (true, false)


def relation(axis: tuple[Relation, Relation]) -> Pairing:
    """Pair two objects in their relation with the inverse relation."""

    def pairing(scene: Scene, chance: random.Random) -> tuple[Caption, Caption] | None:
        for one, other in chance.sample(list(permutations(scene.objects, 2)), 2):
            holds = [r for r in INVERSE if r in axis and related(r, one, other)]  # pyright: ignore[reportArgumentType]
            if holds:
                a, b = (phrase_of(t, ("colour", "shape")) for t in (one, other))
                true = Caption(a, holds[0], b)  # pyright: ignore[reportArgumentType]
                false = reversed_relation(true)
                return None if truth(false, scene) else (true, false)
        return None

    return pairing


def large_pictures(judge: Judge, count: int, pixels: int = 256) -> dict[str, Figure]:
    """Measure naming of objects rendered larger and resized by open_clip's own preprocessing."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = image_transform_v2(PreprocessCfg(size=64), is_train=False)
    scenes = drawn(count, 0, objects=1)
    parts: list[Tensor] = []
    for start in range(0, count, 32):
        pictures, _ = render(scenes[start : start + 32], pixels=pixels, masks=False)
        ready = torch.stack([preprocess(_photo(p)) for p in pictures])  # pyright: ignore[reportArgumentType, reportCallIssue]
        with torch.inference_mode():
            parts.append(judge.model.encode_image(ready.to(judge.device), normalize=True).cpu())
    seen = torch.cat(parts)
    return {
        name: share(int(named(seen, scenes, judge, captions).sum()), count, 1 / len(captions))
        for name, captions in _single_captions().items()
    }


def _photo(image: UInt8[Tensor, "3 row col"]) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


Tree = dict[str, "Figure | Tree"]


def scores(judge: Judge, count: int = 2000) -> dict[str, dict[str, Figure]]:
    """Measure everything that the card reports of one model, at full difficulty."""
    several = {n: drawn(count, 10 + n, objects=n) for n in (1, 2, 3, 4)}
    two = drawn(count, 20, objects=2)
    kinds = {"shape": ("shape",), "colour": ("colour",), "colour and shape": ("colour", "shape")}
    return {
        "single objects": single_objects(judge, count),
        "held-out combinations": single_objects(judge, count, part=1, combinations="held-out"),
        "from 256 pixels": large_pictures(judge, min(count, 500)),
        **{
            f"present against absent, {name}": {
                f"{n} object{'s' * (n > 1)}": preferred(judge, scenes, named_or_absent(attributes))
                for n, scenes in several.items()
            }
            for name, attributes in kinds.items()
        },
        **{
            f"present against nonsense, {name}": {
                f"{n} object{'s' * (n > 1)}, {key}": figure
                for n, scenes in several.items()
                for key, figure in against_nonsense(judge, scenes, attributes).items()
            }
            for name, attributes in kinds.items()
        },
        "binding": {
            "one object, the other's colour": preferred(judge, two, borrowed_colour),
            "two objects, colours swapped": preferred(judge, two, swapped_colours),
        },
        "relations": {
            "left or right": preferred(judge, two, relation(("left of", "right of"))),
            "above or below": preferred(judge, two, relation(("above", "below"))),
        },
        **{f"shape by {k}": v for k, v in where_it_fails(judge, count).items()},
    }


def graded(judge: Judge, count: int = 1000) -> dict[str, Figure]:
    """Measure the figures by which the checkpoints of the family differ."""
    three = drawn(count, 13, objects=3)
    return {
        **single_objects(judge, count),
        "present against absent, shape, 3 objects": preferred(
            judge, three, named_or_absent(("shape",))
        ),
    }


def plain(figures: dict[str, Figure]) -> dict[str, dict[str, float]]:
    """Convert to plain values, rounded to four decimals."""
    return {k: {n: round(v, 4) for n, v in asdict(f).items()} for k, f in figures.items()}


assert set(_single_captions()) == {*ATTRIBUTES, "colour and shape"}
