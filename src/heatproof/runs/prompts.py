"""Which prompts each image of a batch is explained with, and which images go together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from heatproof import scores
from heatproof.engine import inputs
from heatproof.engine.inputs import ImageInputs, Prompts
from heatproof.errors import InputError
from heatproof.models.model import Model
from heatproof.runs.job import PromptPlan
from heatproof.store.items import Item

CACHED = 64
"""Lists of prompts whose embeddings are kept."""


@dataclass(frozen=True)
class Group:
    """Images that are explained together.

    Attributes:
        places: where they stand in the batch.
        prompts: all prompts of the group.
        wanted: for each image, the numbers of its own among these.
    """

    places: tuple[int, ...]
    prompts: Prompts
    wanted: tuple[tuple[int, ...], ...]


class PromptBook:
    """Prompts of all images, embedded once.

    Where an image has prompts of its own and further prompts cost little, the images of a batch
    are explained together with the prompts of all of them, and only their own are stored. What is
    computed together depends on the batch alone, so that a resumed run gives the same bits.
    """

    def __init__(self, model: Model, plan: PromptPlan, items: Sequence[Item]) -> None:
        self.model, self.plan = model, plan
        texts = plan.shared or plan.classes or items[0].prompts or ()
        if not texts:
            raise InputError("no prompt for the images: give -p, --prompts or --classes")
        self.first = inputs.prompts(model, list(texts))
        self._embed = lru_cache(CACHED)(self._embed_now)

    def _embed_now(self, texts: tuple[str, ...]) -> Prompts:
        return inputs.prompts(self.model, list(texts))

    def groups(
        self, shown: ImageInputs, items: Sequence[Item], score: scores.Score, *, together: bool
    ) -> Iterator[Group]:
        """Yield the groups of these images.

        together: further prompts cost little and change no other prompt's map.
        """
        places = tuple(range(len(items)))
        if self.plan.shared:
            wanted = (tuple(range(len(self.first.labels))),) * len(items)
            yield Group(places, self.first, wanted)
            return
        if self.plan.classes:
            own = self._predicted(shown, score)
        else:
            own = [self._own(item) for item in items]
        for some in [places] if together else _alike(own):
            yield self._group(some, [own[place] for place in some])

    def _own(self, item: Item) -> tuple[str | int, ...]:
        if not item.prompts:
            raise InputError(f"{item.path}: no prompt for it; give -p, --prompts or a column")
        return item.prompts

    def _predicted(self, shown: ImageInputs, score: scores.Score) -> list[tuple[str | int, ...]]:
        """Return the numbers of the classes that the model scores highest, for each image."""
        with torch.no_grad():
            embedding = shown.model.image.encode(shown.pixels)
            texts = self.first.embeddings
            values = score(scores.pairs(shown.model, embedding.to(texts.dtype), texts))
        top = min(self.plan.top, values.shape[1])
        return [tuple(row) for row in values.topk(top, dim=1).indices.tolist()]

    def _group(self, places: Sequence[int], own: Sequence[tuple[str | int, ...]]) -> Group:
        every = list(dict.fromkeys(key for keys in own for key in keys))
        wanted = tuple(tuple(every.index(key) for key in keys) for keys in own)
        if self.plan.classes:
            numbers = [int(key) for key in every]
            return Group(tuple(places), inputs.pick(self.first, numbers), wanted)
        return Group(tuple(places), self._embed(tuple(map(str, every))), wanted)


def _alike(own: Sequence[tuple[str | int, ...]]) -> list[tuple[int, ...]]:
    """Return the places of those that have the same prompts."""
    places: dict[tuple[str | int, ...], list[int]] = {}
    for place, keys in enumerate(own):
        places.setdefault(keys, []).append(place)
    return [tuple(some) for some in places.values()]
