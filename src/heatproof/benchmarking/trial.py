"""Compute one method's maps of a chunk, and build the trial that metrics measure them in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Int64
from PIL import Image
from torch import Tensor

from heatproof.engine import inputs
from heatproof.engine.api import explain_words, merge
from heatproof.engine.following import NULL_PROMPTS
from heatproof.errors import HeatproofError, InputError
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask, TaskBatch
from heatproof.evaluation.variants import reinitialised
from heatproof.methods import Foreign, Method, ReadPass
from heatproof.methods.proxy import MethodProxy
from heatproof.metrics.base import Need, Trial
from heatproof.metrics.text_deletion import without

LACKS: dict[Need, str] = {
    "mask": "the data have no masks",
    "objects": "the data have no masks of single objects",
    "named": "the data do not say which object is named",
    "points": "the data have no points that were judged to be in or out",
    "score": "the model gives no score",
    "hit": "the data do not say which prompts are absent, so no answer is right or wrong",
    "tokens": "no token can be taken away from this model (its readout or grid forbid it)",
    "levels": "the model's preprocessing is not known",
    "words": "the method explains no words, or the model reads none",
    "word_score": "the method explains no words, or the model reads none",
    "explain": "the method's maps cannot be computed again",
    "models": "the model's blocks cannot be made random",
    "total": "the method promises no sum",
}


@dataclass(frozen=True, eq=False)
class MapMaker:
    """One method on the items of a chunk; items of one prompt are explained together."""

    batch: TaskBatch
    method: Method

    def maps_and_totals(
        self,
    ) -> tuple[Float[Tensor, "item row col"], Float[Tensor, " item"] | None]:
        """Return the items' own maps, and what each promises to add up to (None: nothing)."""
        everything = torch.arange(len(self.batch))
        # Most methods promise no sum: theirs need no recording.
        if self.method.foreign or type(self.method).total is Method.total:
            return self.maps(everything), None
        recorder = PromiseRecorder(self.method)
        maps = MapMaker(self.batch, recorder).maps(everything)
        if recorder.sums is None:
            return maps, None
        total = torch.full((len(self.batch),), torch.nan, dtype=torch.float64)
        # Sums come in the order of the groups; this puts them back in the order of the items.
        rows = torch.cat([rows for _, rows in self._groups(everything, None)])
        total[rows] = torch.cat(recorder.sums)
        return maps, total

    def maps(
        self,
        item: Int[Tensor, " variant"],
        pixels: Float[Tensor, "variant 3 _ _"] | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "variant row col"]:
        """Return maps of the items: see `metrics.base.MapsAgain`."""
        item = item.cpu()
        subject, task = Subject(self.method), self.batch.task
        maps = torch.full((len(item), *task.grid), torch.nan)
        for label, rows in self._groups(item, prompt):
            # A group's seed is by its first item in the data, whichever chunk it is in.
            first = int(self.batch.index[item[rows[0]]])
            maps[rows] = subject.maps(
                task.model,
                self._pictures(item[rows]) if pixels is None else pixels[rows.to(pixels.device)],
                self._prompt(label, prompt),
                seed=self._seed(first, seed),
                batch_size=task.batch_size,
            )[:, 0].cpu()
        return maps

    def words(self) -> Float[Tensor, "item word"]:
        """Return a value for each word of each item's prompt, NaN behind its last."""
        task = self.batch.task
        groups: list[tuple[Tensor, list[list[float]]]] = []
        for label, rows in self._groups(torch.arange(len(self.batch)), None):
            explained = explain_words(
                task.model,
                self.batch.pixels[rows.to(task.model.device)],
                [task.data.prompts[label]],
                method=self.method,
                certify=False,
                seed=self._seed(int(self.batch.index[rows[0]]), None),
                batch_size=task.batch_size,
            )
            groups.append((rows, [[word.value for word in words[0]] for words in explained.words]))
        # Prompts differ in their number of words; a trial is one tensor.
        longest = max((len(row) for _, values in groups for row in values), default=0)
        padded = torch.full((len(self.batch), longest), torch.nan)
        for rows, values in groups:
            for row, value in zip(rows.tolist(), values, strict=True):
                padded[row, : len(value)] = torch.tensor(value)
        return padded

    def _groups(
        self, item: Int64[Tensor, " variant"], prompt: str | None
    ) -> Iterator[tuple[int, Int64[Tensor, " rows"]]]:
        labels = self.batch.named[item]
        if prompt is not None:
            # A null prompt is the same for all items: one group.
            labels = torch.zeros_like(labels)
        for label in labels.unique().tolist():
            yield label, (labels == label).nonzero()[:, 0]

    def _prompt(self, label: int, prompt: str | None) -> Sequence[str] | Tensor:
        task = self.batch.task
        text = task.data.prompts[label] if prompt is None else NULL_PROMPTS.get(prompt, prompt)
        if self.method.foreign:
            return [text]
        if prompt is None:
            return task.embeddings[label, None]
        # The empty prompt is refused as a user's prompt, and wanted here.
        if text:
            return inputs.prompts(task.model, [text]).embeddings
        return inputs.embed(task.model, [text]).embeddings

    def _pictures(self, item: Int64[Tensor, " variant"]) -> Tensor | list[Image.Image]:
        # User code gets the photo as it was before preprocessing, unless it asks for pixels.
        if isinstance(self.method, Foreign) and self.method.takes == "photo":
            return [self.batch.photos[n] for n in item.tolist()]
        return self.batch.pixels[item.to(self.batch.pixels.device)]

    def _seed(self, first: int, seed: int | None) -> int:
        """Return the group's own seed, so that noise differs between the groups of a chunk."""
        return (self.batch.task.seed if seed is None else seed) * 1_000_003 + first


class PromiseRecorder(MethodProxy):
    """A method that notes what its maps promise to add up to, on the patches alone.

    What the method gives to other tokens (a class token) is taken off. `sums` holds a number for
    each map, in order; None once a pass promised nothing.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.sums: list[Tensor] | None = []

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Return the values of the inner method, and note what they promise to add up to."""
        values = super().attribute(read)
        total = super().total(read)
        if total is None or self.sums is None:
            self.sums = None
        else:
            on_patches = values[:, :, read.batch.content].sum(-1)
            # A promise is of all tokens, and a map has the patches alone.
            others = values.sum(-1) - on_patches
            self.sums.append((total.to(others) - others).detach()[:, 0].cpu().double())
        return values


@dataclass(frozen=True, eq=False)
class RandomisedModels:
    """Shuffle weights within each tensor, from the readout on: see `metrics.base.RandomModels`."""

    task: EvaluationTask

    @property
    def steps(self) -> int:
        """The number of blocks that can be made random."""
        return len(self.task.attention_layers)

    def __call__(
        self, order: Literal["cascade", "independent"], n: int, /
    ) -> AbstractContextManager[object]:
        sites = self.task.attention_layers
        # Alone: the n-th from the end is the last of the layers up to it.
        chosen = sites if order == "cascade" else sites[: len(sites) - n + 1]
        last = n if order == "cascade" else 1
        return reinitialised(self.task.model, chosen, last, seed=self.task.seed).enter()


@dataclass(frozen=True, eq=False)
class WordScores:
    """Score shortened prompts with the items' own images: see `metrics.base.WordScore`."""

    batch: TaskBatch
    words: list[list[str]]

    @cached_property
    def images(self) -> Float[Tensor, "item dim"]:
        """Unnormalised embeddings of the items' own images."""
        return self.batch.task.encode(self.batch.pixels)

    def __call__(
        self, keep: Bool[Tensor, "variant word"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        task, rows = self.batch.task, item.cpu()
        texts = [
            without(self.words[n], left[: len(self.words[n])])
            for n, left in zip(rows.tolist(), keep.cpu(), strict=True)
        ]
        # Shortened prompts repeat often: each text is encoded once.
        place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        embedded = inputs.embed(task.model, list(place)).embeddings
        chosen = embedded[torch.tensor([place[text] for text in texts])]
        unit = torch.nn.functional.normalize
        images = self.images[rows.to(self.images.device)].to(chosen)
        return (unit(images, dim=-1) * unit(chosen, dim=-1)).sum(-1).cpu()


def shared(batch: TaskBatch, seed: int) -> Trial:
    """Return the trial that all methods share; its maps are NaN until a method sets them."""
    task = batch.task
    points = batch.points
    # Points that were clicked are no masks: a map is compared with the points alone.
    masked = task.data.complete or points is None
    return Trial(
        maps=torch.full((len(batch), *task.grid), torch.nan),
        pixels=batch.pixels,
        mask=batch.mask if masked else None,
        objects=batch.objects if masked else None,
        named=batch.is_named if masked else None,
        score=batch.score,
        points=points,
        hit=batch.hit if task.knows_absent else None,
        tokens=batch.tokens if batch.removable else None,
        levels=task.levels,
        models=RandomisedModels(task),
        item=batch.index,
        seed=seed,
        batch_size=task.batch_size,
        device=task.model.device,
    )


def words_of(batch: TaskBatch, method: Method) -> dict[str, Any]:
    """Return `words` and `word_score`, if the model reads text and the method explains it."""
    text = batch.task.model.text
    if text is None or "text" not in method.card.sides:
        return {}
    tokens = text.tokenize(batch.prompts)
    words = [
        [word.text for word in merge(full, pieces, torch.zeros(len(pieces)))]
        for full, pieces in zip(tokens.texts, tokens.pieces, strict=True)
    ]
    return {"words": MapMaker(batch, method).words(), "word_score": WordScores(batch, words)}


def attempt(make: Callable[[], Any], name: str) -> Any:
    """Return what `make` returns; whatever user code raises becomes one line.

    Raises:
        InputError: it failed. Errors of heatproof's own go through.
    """
    try:
        return make()
    except HeatproofError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed with {type(error).__name__}: {error}") from error
