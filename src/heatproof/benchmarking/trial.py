"""One method's maps of a chunk, and the trial that metrics measure them in."""

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
from heatproof.engine.api import explain_words
from heatproof.engine.certify import NULL_PROMPTS
from heatproof.errors import HeatproofError, InputError
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask, TaskBatch
from heatproof.evaluation.variants import reinitialised
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.metrics.base import Need, Trial
from heatproof.metrics.text_deletion import without
from heatproof.reading import AttentionLayer

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
    "explain": "the method's maps cannot be made anew",
    "models": "the model's blocks cannot be made random",
    "total": "the method promises no sum",
}


@dataclass(frozen=True, eq=False)
class Maker:
    """A method, asked about the items of a chunk: those of one prompt go through it together."""

    asked: TaskBatch
    method: Method

    def promising(self) -> tuple[Float[Tensor, "item row col"], Float[Tensor, " item"] | None]:
        """The items' own maps, and what each promises to add up to; None where nothing is."""
        everything = torch.arange(len(self.asked))
        if self.method.foreign or type(self.method).total is Method.total:
            return self.maps(everything), None
        promise = Promise(self.method)
        maps = Maker(self.asked, promise).maps(everything)
        if promise.promised is None:
            return maps, None
        total = torch.full((len(self.asked),), torch.nan, dtype=torch.float64)
        rows = torch.cat([rows for _, rows in self._groups(everything, None)])
        total[rows] = torch.cat(promise.promised)
        return maps, total

    def maps(
        self,
        item: Int[Tensor, " variant"],
        pixels: Float[Tensor, "variant 3 _ _"] | None = None,
        *,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "variant row col"]:
        """See `metrics.base.Explain`."""
        item = item.cpu()
        subject, bench = Subject(self.method), self.asked.task
        made = torch.full((len(item), *bench.grid), torch.nan)
        for label, rows in self._groups(item, prompt):
            first = int(self.asked.index[item[rows[0]]])
            made[rows] = subject.maps(
                bench.model,
                self._pictures(item[rows]) if pixels is None else pixels[rows.to(pixels.device)],
                self._prompt(label, prompt),
                seed=self._seed(first, seed),
                batch_size=bench.batch_size,
            )[:, 0].cpu()
        return made

    def words(self) -> Float[Tensor, "item word"]:
        """A value for each word of each item's prompt, NaN behind its last."""
        bench = self.asked.task
        rows_of: list[tuple[Tensor, list[list[float]]]] = []
        for label, rows in self._groups(torch.arange(len(self.asked)), None):
            found = explain_words(
                bench.model,
                self.asked.pixels[rows.to(bench.model.device)],
                [bench.data.prompts[label]],
                method=self.method,
                certify=False,
                seed=self._seed(int(self.asked.index[rows[0]]), None),
                batch_size=bench.batch_size,
            )
            rows_of.append((rows, [[word.value for word in words[0]] for words in found.words]))
        longest = max((len(each) for _, values in rows_of for each in values), default=0)
        made = torch.full((len(self.asked), longest), torch.nan)
        for rows, values in rows_of:
            for row, each in zip(rows.tolist(), values, strict=True):
                made[row, : len(each)] = torch.tensor(each)
        return made

    def _groups(
        self, item: Int64[Tensor, " variant"], prompt: str | None
    ) -> Iterator[tuple[int, Int64[Tensor, " rows"]]]:
        labels = self.asked.named[item]
        if prompt is not None:
            labels = torch.zeros_like(labels)
        for label in labels.unique().tolist():
            yield label, (labels == label).nonzero()[:, 0]

    def _prompt(self, label: int, prompt: str | None) -> Sequence[str] | Tensor:
        bench = self.asked.task
        text = bench.data.prompts[label] if prompt is None else NULL_PROMPTS.get(prompt, prompt)
        if self.method.foreign:
            return [text]
        if prompt is None:
            return bench.embeddings[label, None]
        if text:
            return inputs.prompts(bench.model, [text]).embeddings
        return inputs.embed(bench.model, [text]).embeddings

    def _pictures(self, item: Int64[Tensor, " variant"]) -> Tensor | list[Image.Image]:
        if isinstance(self.method, Foreign) and self.method.takes == "photo":
            return [self.asked.photos[n] for n in item.tolist()]
        return self.asked.pixels[item.to(self.asked.pixels.device)]

    def _seed(self, first: int, seed: int | None) -> int:
        """A group's own, so that noise is not the same in all groups of a chunk."""
        return (self.asked.task.seed if seed is None else seed) * 1_000_003 + first


class Promise(Method):
    """A method, and what its maps promised to add up to: on the patches alone, what it gave to
    other tokens (a class token) taken off. `promised` holds a number for each map that was made,
    in order; None once a pass promised nothing."""

    def __init__(self, inner: Method) -> None:
        self.inner, self.card = inner, inner.card  # pyright: ignore[reportAttributeAccessIssue]
        self.promised: list[Tensor] | None = []

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        return self.inner.plan(sites, side)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        values = self.inner.attribute(read)
        total = self.inner.total(read)
        if total is None or self.promised is None:
            self.promised = None
        else:
            on_patches = values[:, :, read.batch.content].sum(-1)
            others = values.sum(-1) - on_patches
            self.promised.append((total.to(others) - others).detach()[:, 0].cpu().double())
        return values

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        return self.inner.explained(read)

    def settings(self) -> dict[str, Any]:
        return self.inner.settings()


@dataclass(frozen=True, eq=False)
class Randomised:
    """See `metrics.base.Models`: weights shuffled within each tensor, from the readout on."""

    bench: EvaluationTask

    @property
    def steps(self) -> int:
        return len(self.bench.attention_layers)

    def __call__(
        self, order: Literal["cascade", "independent"], n: int, /
    ) -> AbstractContextManager[object]:
        sites = self.bench.attention_layers
        chosen = sites if order == "cascade" else sites[: len(sites) - n + 1]
        last = n if order == "cascade" else 1
        return reinitialised(self.bench.model, chosen, last, seed=self.bench.seed).enter()


@dataclass(frozen=True, eq=False)
class WordScores:
    """See `metrics.base.WordScore`: shortened prompts against the items' own pictures."""

    asked: TaskBatch
    words: list[list[str]]

    @cached_property
    def images(self) -> Float[Tensor, "item dim"]:
        return self.asked.task.encode(self.asked.pixels)

    def __call__(
        self, keep: Bool[Tensor, "variant word"], item: Int[Tensor, " variant"]
    ) -> Float[Tensor, " variant"]:
        bench, rows = self.asked.task, item.cpu()
        texts = [
            without(self.words[n], kept[: len(self.words[n])])
            for n, kept in zip(rows.tolist(), keep.cpu(), strict=True)
        ]
        place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        embedded = inputs.embed(bench.model, list(place)).embeddings
        chosen = embedded[torch.tensor([place[text] for text in texts])]
        unit = torch.nn.functional.normalize
        images = self.images[rows.to(self.images.device)].to(chosen)
        return (unit(images, dim=-1) * unit(chosen, dim=-1)).sum(-1).cpu()


def shared(asked: TaskBatch, seed: int) -> Trial:
    """What is the same for all methods; the maps are still to come."""
    bench = asked.task
    points, complete = asked.points, bench.data.complete
    # Points that were clicked are no masks: they are held against a map as points alone.
    pictured = complete or points is None
    return Trial(
        maps=torch.full((len(asked), *bench.grid), torch.nan),
        pixels=asked.pixels,
        mask=asked.mask if pictured else None,
        objects=asked.objects if pictured else None,
        named=asked.is_named if pictured else None,
        score=asked.score,
        points=points,
        hit=asked.hit if bench.knows_absent else None,
        tokens=asked.tokens if asked.removable else None,
        levels=bench.levels,
        models=Randomised(bench),
        item=asked.index,
        seed=seed,
        batch_size=bench.batch_size,
        device=bench.model.device,
    )


def words_of(asked: TaskBatch, method: Method) -> dict[str, Any]:
    """The trial's `words` and `word_score`, where the model reads and the method explains words."""
    from heatproof.engine.api import merge

    text = asked.task.model.text
    if text is None or "text" not in method.card.sides:
        return {}
    tokens = text.tokenize(asked.prompts)
    words = [
        [word.text for word in merge(full, pieces, torch.zeros(len(pieces)))]
        for full, pieces in zip(tokens.texts, tokens.pieces, strict=True)
    ]
    return {"words": Maker(asked, method).words(), "word_score": WordScores(asked, words)}


def attempt(make: Callable[[], Any], name: str) -> Any:
    """What `make` gives; whatever user code raises is told in one line.

    Raises:
        InputError: it failed. Errors of heatproof's own go through.
    """
    try:
        return make()
    except HeatproofError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed with {type(error).__name__}: {error}") from error
