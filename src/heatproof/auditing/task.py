"""Ask one question per labelled image, and share between methods all that is not a method's own.

The scores of every changed model and the controls' results are computed once, so that auditing a
second method costs that method alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import LabelledImages
from heatproof.engine import inputs
from heatproof.engine.following import NULL_PROMPTS
from heatproof.evaluation import localisation
from heatproof.evaluation.counterfactual import Removals, removal_costs, removals
from heatproof.evaluation.encoding import score_pairs
from heatproof.evaluation.presence import (
    draw_prompt,
    margin,
    of_label,
    prompts_present,
    share_outscored,
    union,
    visible_objects,
)
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask
from heatproof.evaluation.variants import UNTOUCHED, Variant
from heatproof.methods import Foreign
from heatproof.models import Model
from heatproof.statistics import Bounds

PromptKind = Literal["named", "other", "absent", "empty", "gibberish", "unrelated"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
T = TypeVar("T")
QUALITY: Bounds = (-1.0, 1.0)
"""The bounds of `AuditTask.quality`, which is a share less a share."""

# Differences below these shares of a map's largest value, and of a score, are rounding.
EQUAL_HEAT, EQUAL_SCORE = 1e-5, 2.0**-20

# Negative controls, which must pass no check: noise, a map of no image, a map of no prompt.
CONTROLS = ("random", "center", "raw-attention")


@dataclass(frozen=True)
class OracleControl:
    """The positive control: maps that track the model's performance by construction.

    They are the mask of the named object where the model knows it, else noise. It knows it where it
    is right, and in as many images as its accuracy is above chance (`AuditTask.known`). They
    explain nothing: they show what maps that keep to principle 2 score in a check, on this model
    and these images. A check that does not let them pass has no power here.
    """

    name: str = "a map that follows"


MapSource = Subject | OracleControl


class AuditTask(EvaluationTask):
    """An evaluation task in memory, with what all audited methods share.

    named, other, absent: per image the prompt of the object asked for, that of another object and
        one that fits none, drawn from the seed; -1 where there is none.
    objects: how much of each patch each object covers, as the model sees the image.
    draw: draws further images of the same kind, by a number from 1; None where there are no more.
    """

    def __init__(
        self,
        model: Model,
        data: LabelledImages,
        *,
        seed: int = 0,
        batch_size: int = 64,
        draw: Callable[[int], LabelledImages] | None = None,
    ) -> None:
        super().__init__(model, data, seed=seed, batch_size=batch_size)
        self.draw = draw
        self.pixels = self.preprocessed(data.photos)
        self.objects, self.labels = visible_objects(model, data.photos, data.things, self.grid)
        self.present = prompts_present(self.labels, len(data.prompts))
        self.named, self.other, self.absent = _questions(self.labels, self.present, seed)
        self.oracle = OracleControl()
        self.controls = {name: Subject.of(name) for name in CONTROLS}
        self._cache: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    def cached(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """Return what was computed under this key before, or `compute()`."""
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(T, self._cache[key])

    def further(self, number: int) -> "AuditTask | None":
        """Return a task on further images; the same one for the same number (from 1)."""
        draw = self.draw
        if draw is None:
            return None
        # Another seed, too: the same one would draw the same prompts.
        seed = self.seed + 10_007 * number
        return self.cached(
            ("further", number), lambda: AuditTask(self.model, draw(number), seed=seed)
        )

    # --- the model ---------------------------------------------------------------------------

    def scores(self, variant: Variant = UNTOUCHED) -> Float[Tensor, "image prompt"]:
        """Return the changed model's score of every image with every prompt."""
        return self.cached(("scores", variant.name), lambda: self._scores(variant))

    def _scores(self, variant: Variant) -> Tensor:
        with variant.enter(), torch.no_grad():
            texts = inputs.prompts(self.model, self.data.prompts).embeddings
            return self.compare(self.encode(self.pixels), texts)

    def compare(self, images: Tensor, texts: Tensor) -> Float[Tensor, "image prompt"]:
        """Return the model's own score of every pair of embeddings, in double precision."""
        return score_pairs(self.model, images, texts).double().cpu()

    def label(self, kind: PromptKind) -> Int64[Tensor, " image"]:
        """Return the label that this kind of prompt names in each image; -1 for none."""
        return {"named": self.named, "other": self.other, "absent": self.absent}[kind]

    def outscored(
        self, variant: Variant = UNTOUCHED, kind: PromptKind = "named"
    ) -> Float[Tensor, " image"]:
        """Return the share of absent prompts that score less than this one (chance: a half).

        NaN where an image has no prompt of this kind.
        """
        return share_outscored(self.scores(variant), self.label(kind), self.present)

    def right(
        self, variant: Variant = UNTOUCHED, kind: PromptKind = "named"
    ) -> Bool[Tensor, " image"]:
        """Return where this prompt outscores every absent one."""
        return self.outscored(variant, kind) == 1

    def known(
        self, variant: Variant = UNTOUCHED, kind: PromptKind = "named"
    ) -> Bool[Tensor, " image"]:
        """Return where the model is right or clear enough to be called knowing.

        Besides images where it is right, these are the images of the widest margins of the prompt
        over absent ones, up to a share of 2 * accuracy - 1 of all (accuracy: mean of `outscored`):
        a model at chance knows nothing.
        """
        scores, outscored, labels = (
            self.scores(variant),
            self.outscored(variant, kind),
            self.label(kind),
        )
        share = 2 * float(outscored.nanmean()) - 1
        count = max(0, round(share * len(self)))
        widest = torch.zeros(len(self), dtype=torch.bool)
        margins = margin(scores, labels, self.present)
        order = margins.masked_fill(labels < 0, -torch.inf).argsort(descending=True)
        widest[order[:count]] = True
        return widest | self.right(variant, kind)

    # --- maps --------------------------------------------------------------------------------

    def maps(
        self,
        subject: MapSource,
        variant: Variant = UNTOUCHED,
        kind: PromptKind = "named",
        draw: int = 0,
    ) -> Float[Tensor, "image row col"]:
        """Return each image's map for its prompt of this kind; NaN where it has none.

        Another `draw` gives methods that use chance another seed.
        """
        key = ("maps", subject, variant.name, kind, draw)
        return self.cached(key, lambda: self._maps(subject, variant, kind, draw))

    def _maps(self, subject: MapSource, variant: Variant, kind: PromptKind, draw: int) -> Tensor:
        # Draws and prompts are far apart, so that no two of them share the noise of one seed.
        seed = self.seed + 100_003 * draw
        if isinstance(subject, OracleControl):
            return self._oracle_maps(variant, kind, seed)
        maps = torch.full((len(self), *self.grid), torch.nan)
        with variant.enter():
            for number, (prompt, rows) in enumerate(self._asked(kind, subject)):
                made = subject.maps(
                    self.model,
                    self.images_for(subject, rows),
                    prompt,
                    seed=seed + 1009 * number,
                    batch_size=self.batch_size,
                )
                maps[rows] = made[:, 0].cpu()
        return maps

    def _oracle_maps(self, variant: Variant, kind: PromptKind, seed: int) -> Tensor:
        # Another noise for each kind of prompt: the same one would look like a map that ignores it.
        generator = torch.Generator().manual_seed(seed + 1 + PROMPT_KINDS.index(kind))
        noise = torch.randn(len(self), *self.grid, generator=generator)
        if kind not in ("named", "other"):
            return noise
        mask = self.cover(self.label(kind))
        return torch.where(self.known(variant, kind)[:, None, None], mask, noise)

    def images_for(
        self, subject: Subject, rows: Int64[Tensor, " chosen"]
    ) -> Tensor | list[Image.Image]:
        """Return images as the method takes them: photos or pixels."""
        if isinstance(subject.method, Foreign) and subject.method.takes == "photo":
            return [self.data.photos[row] for row in rows.tolist()]
        return self.pixels[rows]

    def kinds(self, subject: MapSource) -> tuple[PromptKind, ...]:
        """Return the kinds of prompt that can be asked besides the named one."""
        constant: tuple[PromptKind, ...] = ("empty", "gibberish", "unrelated")
        if self.model.text is None:
            constant = ()
        elif isinstance(subject, Subject) and subject.method.foreign:
            constant = constant[1:]  # user code is handed texts, and an empty one is none
        some: tuple[PromptKind, ...] = ("other", "absent")
        return (*(kind for kind in some if (self.label(kind) >= 0).any()), *constant)

    def _asked(
        self, kind: PromptKind, subject: Subject
    ) -> list[tuple[Sequence[str] | Tensor, Int64[Tensor, " chosen"]]]:
        """Return prompts of this kind, each with the images that it is asked of."""
        if kind in NULL_PROMPTS:
            text, everything = NULL_PROMPTS[kind], torch.arange(len(self))
            if subject.method.foreign:
                return [([text], everything)]
            return [(inputs.embed(self.model, [text]).embeddings, everything)]
        labels = self.label(kind)
        return [
            ([self.data.prompts[label]], (labels == label).nonzero()[:, 0])
            for label in labels.unique().tolist()
            if label >= 0
        ]

    # --- how good maps are -------------------------------------------------------------------

    def quality(
        self,
        subject: MapSource,
        variant: Variant = UNTOUCHED,
        kind: PromptKind = "named",
        draw: int = 0,
    ) -> Float[Tensor, " image"]:
        """Return the map's choice above chance, for the prompt of this kind.

        That is 1 where the named object has the highest mean heat of all objects, less 1 / objects:
        a map that ignores the prompt has 0 on average. NaN where there is nothing to choose from.
        """
        maps, labels = self.maps(subject, variant, kind, draw).unsqueeze(1), self.label(kind)
        named = of_label(self.labels, labels).unsqueeze(1)
        chance = localisation.chance_of_choice(self.objects, named)
        quality = localisation.choice(maps, self.objects, named) - chance
        return quality.masked_fill(chance == 1, torch.nan)[:, 0].double()

    def beaten(self, subject: MapSource, variant: Variant = UNTOUCHED) -> Float[Tensor, " image"]:
        """Return the share of other objects that are less hot than the named one (chance: a half).

        NaN where there is no other object.
        """
        maps = self.maps(subject, variant)
        heat = localisation.mean_heat(maps.unsqueeze(1), self.objects)[:, 0]
        equal = EQUAL_HEAT * maps.flatten(1).abs().amax(1).double()
        return self._share_beaten(heat, equal)

    def cause(self, variant: Variant = UNTOUCHED) -> Float[Tensor, " image"]:
        """Return the share of other objects whose removal costs the prompt less than the named
        one's (chance: a half): how far the model itself goes by the named object.

        NaN where there is no other object.
        """
        return self.cached(("cause", variant.name), lambda: self._cause(variant))

    def _cause(self, variant: Variant) -> Tensor:
        before = self.scores(variant).gather(1, self.named.clamp(min=0)[:, None])[:, 0]
        shown, pixels = self._removed
        with variant.enter(), torch.no_grad():
            texts = inputs.prompts(self.model, self.data.prompts).embeddings
            scores = self.compare(self.encode(pixels), texts)
        prompts = self.named[torch.tensor(shown.image, dtype=torch.long)].clamp(min=0)
        after = scores.gather(1, prompts[:, None])[:, 0]
        costs = removal_costs(before, after, shown, self.labels.shape[1])
        return self._share_beaten(costs, EQUAL_SCORE * before.abs())

    @cached_property
    def _removed(self) -> tuple[Removals, Tensor]:
        """Every image of several objects without each of them, rendered or inpainted once."""
        shown = removals(self.data)
        return shown, self.preprocessed(shown.photos)

    def _share_beaten(self, values: Tensor, equal: Tensor) -> Float[Tensor, " image"]:
        named = of_label(self.labels, self.named)
        return localisation.share_beaten(values, named, self.labels >= 0, equal)

    def cover(self, labels: Int64[Tensor, " image"]) -> Float[Tensor, "image row col"]:
        """Return how much of each patch objects of this label cover."""
        return union(self.objects, of_label(self.labels, labels))

    def pointing(self, subject: MapSource, kind: PromptKind = "named") -> Float[Tensor, " image"]:
        """Return whether the map's maximum lies on the object of the prompt of this kind."""
        maps = self.maps(subject, kind=kind).unsqueeze(1)
        cover = self.cover(self.label(kind)).unsqueeze(1)
        return localisation.pointing(maps, cover)[:, 0].double()


def _questions(labels: Tensor, present: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(present.shape, generator=generator)
    named = draw_prompt(chance, present)
    others = present.clone()
    others[torch.arange(len(labels)), named.clamp(min=0)] = False
    return named, draw_prompt(chance, others), draw_prompt(chance, ~present)
