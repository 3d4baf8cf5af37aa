"""Does a map follow the model within one model: from pair to pair, and from prompt to prompt?

Two questions, without any changed model; both are asked of `data.scenes.pairs`.

**By pair.** For each of the 64 pairs of colour and shape: accuracy (the share of the absent pairs
whose prompt scores below the named one's), the cause (how often removing the named object, and no
other, costs the named prompt most) and the map's choice (how often the named object is the
hottest), the latter two above chance, 1/3. The figures are Spearman's correlations over pairs of
choice with the cause, and of choice with accuracy; the interval is a bootstrap over pairs. A map
that finds objects as well where the model does not use them has a correlation about 0 with the
cause; so has any map where the model uses every pair alike, or where too few images are drawn:
the correlation of the cause with itself on other images (`reliability`) is the ceiling.

**By likeness.** An image is asked about its named object with the right prompt and four wrong ones,
`LIKENESS`, in order. The contrast on the named object is the map's mean there minus its mean over
the rest of the image, in the map's standard deviations. The figure is the share of images in which
the right prompt has the largest contrast (chance 1/5), beside the share in which it has the highest
score: a map that follows falls as the score does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from heatproof.data.scenes.pairs import PAIRS
from heatproof.data.scenes.vocabulary import COLOURS, SHAPES
from heatproof.errors import InputError
from heatproof.evaluation.counterfactual import removal_costs, removals
from heatproof.evaluation.localisation import chance_of_choice, choice
from heatproof.evaluation.presence import of_label, share_outscored
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask, TaskBatch
from heatproof.statistics import Interval, bootstrap, mean, spearman

LIKENESS: Final = (
    "right",
    "same colour, other shape",
    "same shape, other colour",
    "other colour and shape",
    "nonsense",
)
"""The prompts of an image about its named object, from the right one to one about nothing."""
NONSENSE: Final = "xqvz kjwprt"


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """Figures of one image each, and the pair that it is asked about.

    accuracy: share of the absent pairs outscored. cause, choice: above chance.
    """

    pair: Int64[Tensor, " image"]
    accuracy: Float[Tensor, " image"]
    cause: Float[Tensor, " image"]
    choice: Float[Tensor, " image"]

    def by_pair(self, values: Float[Tensor, " image"]) -> Float[Tensor, " pair"]:
        """Return the mean of each pair's images; NaN for a pair without any."""
        counted = ~values.isnan()
        total = torch.zeros(PAIRS, dtype=torch.float64)
        count = torch.zeros(PAIRS, dtype=torch.float64)
        total.index_add_(0, self.pair[counted], values[counted].double())
        count.index_add_(0, self.pair[counted], torch.ones(int(counted.sum()), dtype=torch.float64))
        return total / count

    def correlation(self, of_what: str) -> Interval:
        """Return Spearman's correlation over pairs of choice with `cause` or `accuracy`."""
        return _correlation(self.by_pair(self.choice), self.by_pair(getattr(self, of_what)))

    @property
    def reliability(self) -> Interval:
        """The correlation of the cause of half of each pair's images with that of the others."""
        halves = torch.zeros(len(self.pair), dtype=torch.bool)
        halves[torch.arange(len(self.pair)) // PAIRS % 2 == 0] = True
        one, other = (
            self.by_pair(self.cause.masked_fill(~part, torch.nan)) for part in (halves, ~halves)
        )
        return _correlation(one, other)


def _correlation(one: Tensor, other: Tensor) -> Interval:
    both = torch.stack([one, other], 1)
    both = both[~both.isnan().any(1)]
    return bootstrap(lambda rows: spearman(both[rows, 0], both[rows, 1]), len(both))


def named_task(task: EvaluationTask) -> TaskBatch:
    """Return all images of the task, each asked about the pair that it was drawn for.

    Raises:
        InputError: the data are not those of `pair_images`.
    """
    batch = task.batch(0, len(task.data))
    named = batch.index % PAIRS
    if not of_label(batch.labels, named).any(1).all():
        raise InputError("got data whose images do not hold their own pair; try pair_images()")
    return replace(batch, named=named)


def pair_figures(task: EvaluationTask, subject: Subject, *, seed: int = 0) -> PairFigures:
    """Measure every image of `pair_images` once: accuracy, cause and the subject's choice."""
    batch = named_task(task)
    maps = named_maps(batch, subject, seed)
    objects, named = batch.objects.float(), batch.is_named
    chance = chance_of_choice(objects, named[:, None])[:, 0]
    scores = task.scores_of(task.encode(batch.pixels)).cpu()
    return PairFigures(
        pair=batch.named,
        accuracy=share_outscored(scores, batch.named, batch.possible),
        cause=_cause(task, batch, scores).double() - chance,
        choice=choice(maps[:, None], objects, named[:, None])[:, 0] - chance,
    )


def _cause(task: EvaluationTask, batch: TaskBatch, scores: Tensor) -> Float[Tensor, " image"]:
    """Return 1 where removing the named object costs the named prompt most, NaN without others."""
    shown = removals(task.data)
    rows = torch.tensor(shown.image)
    at = torch.full((len(task.data),), -1)
    at[batch.index] = torch.arange(len(batch))
    kept = (at[rows] >= 0).nonzero()[:, 0]
    after = task.paired(
        task.encode(task.preprocessed([shown.photos[k] for k in kept.tolist()])),
        batch.named[at[rows[kept]]],
    ).cpu()
    before = scores.gather(1, batch.named[:, None])[:, 0]
    part = type(shown)(
        tuple(shown.photos[k] for k in kept.tolist()),
        tuple(at[rows[kept]].tolist()),
        tuple(shown.thing[k] for k in kept.tolist()),
    )
    costs = removal_costs(before, after, part, batch.labels.shape[1])
    most = costs.nan_to_num(-torch.inf).argmax(1)
    hit = batch.is_named.gather(1, most[:, None])[:, 0].double()
    return hit.masked_fill(costs.isnan().all(1), torch.nan)


def named_maps(batch: TaskBatch, subject: Subject, seed: int = 0) -> Float[Tensor, "image row col"]:
    """Compute the subject's map of each image for its own prompt, a call for each prompt."""
    out = torch.zeros(len(batch), *batch.task.grid)
    for prompt in batch.named.unique().tolist():
        rows = (batch.named == prompt).nonzero()[:, 0]
        text = [batch.task.data.prompts[prompt]]
        maps = subject.maps(batch.task.model, batch.pixels[rows], text, seed=seed)
        out[rows] = maps[:, 0].float().cpu()
    return out


def wrong_prompts(batch: TaskBatch) -> list[tuple[str, ...]]:
    """Return the prompts of `LIKENESS` for each image; all but the first are false of it.

    Drawn by the image's number alone. An image without four such prompts cannot occur: three
    objects leave at least five shapes and five colours.
    """
    prompts: list[tuple[str, ...]] = []
    rows = zip(batch.index.tolist(), batch.named.tolist(), batch.labels.tolist(), strict=True)
    for index, named, labels in rows:
        chance = random.Random(index)
        present = {label for label in labels if label >= 0}
        colour, shape = divmod(named, len(SHAPES))
        shapes = [s for s in range(len(SHAPES)) if s not in {p % len(SHAPES) for p in present}]
        colours = [c for c in range(len(COLOURS)) if c not in {p // len(SHAPES) for p in present}]
        other_shape, other_colour = chance.choice(shapes), chance.choice(colours)
        text = batch.task.data.prompts
        prompts.append(
            (
                text[named],
                text[colour * len(SHAPES) + other_shape],
                text[other_colour * len(SHAPES) + shape],
                text[other_colour * len(SHAPES) + other_shape],
                NONSENSE,
            )
        )
    return prompts


def likeness_figures(
    task: EvaluationTask, subject: Subject, *, seed: int = 0
) -> dict[str, Float[Tensor, "image likeness"]]:
    """Return the score and the contrast on the named object, for each prompt of `LIKENESS`."""
    batch = named_task(task)
    prompts = wrong_prompts(batch)
    maps = torch.zeros(len(batch), len(LIKENESS), *task.grid)
    scores = torch.zeros(len(batch), len(LIKENESS))
    for row, texts in enumerate(prompts):
        # Prompts differ from image to image: one image a call, all of its prompts together.
        pixels = batch.pixels[row : row + 1]
        # Noise must be another for every image: one draw would lie on objects by luck.
        found = subject.maps(task.model, pixels, texts, seed=seed + row)
        maps[row] = found[0].float().cpu()
    texts = list(dict.fromkeys(text for row in prompts for text in row))
    table = _scores(task, batch, texts)
    for row, chosen in enumerate(prompts):
        scores[row] = table[row, [texts.index(text) for text in chosen]]
    return {"score": scores, "contrast": _on_named(maps, batch)}


def _scores(
    task: EvaluationTask, batch: TaskBatch, texts: list[str]
) -> Float[Tensor, "image text"]:
    data = type(task.data)(
        name=task.data.name, photos=task.data.photos, things=task.data.things, prompts=tuple(texts)
    )
    return EvaluationTask(task.model, data).scores_of(task.encode(batch.pixels)).cpu()


def _on_named(maps: Tensor, batch: TaskBatch) -> Float[Tensor, "image likeness"]:
    cover = batch.mask.double().flatten(1)[:, None]
    flat = maps.double().flatten(2)
    inside = (flat * cover).sum(-1) / cover.sum(-1)
    outside = (flat * (1 - cover)).sum(-1) / (1 - cover).sum(-1)
    spread = flat.std(-1, correction=0)
    constant = spread <= 1e-6 * flat.abs().amax(-1)
    return ((inside - outside) / spread.masked_fill(constant, torch.inf)).float()


def right_is_first(values: Float[Tensor, "image likeness"]) -> Interval:
    """Return the share of images whose right prompt has the largest value; ties share."""
    top = values == values.amax(1, keepdim=True)
    return mean((top[:, 0].double() / top.sum(1)), bounds=(0, 1))
