"""Hold the evaluation task that methods are audited on, with all that they share.

Whatever does not depend on the method (the scores of every variant, the controls' results) is
computed once and kept, so that auditing a second method costs that method alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from heatproof.data.dataset import LabelledImages
from heatproof.engine import inputs
from heatproof.engine.following import NULL_PROMPTS
from heatproof.evaluation import localisation
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

Kind = Literal["named", "other", "absent", "empty", "gibberish", "unrelated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")
GAIN: Bounds = (-1.0, 1.0)
"""The bounds of `AuditTask.gain`."""

CONTROLS = ("random", "center", "raw-attention")
"""Maps that must pass no check: noise, a map of no picture, a map of no prompt."""


@dataclass(frozen=True)
class OracleControl:
    """The positive control: a map that follows the model's performance by construction.

    The mask of the object asked for where the model knows it, else noise. It knows it where it is
    right, and in as many pictures as its accuracy is above chance (see `AuditTask.known`). It
    explains nothing: it is what a map that keeps to principle 2 scores in a check, on this model
    and these pictures. A check that does not let it pass has no power here.
    """

    name: str = "a map that follows"


Mapped = Subject | OracleControl


class AuditTask(EvaluationTask):
    """An evaluation task in memory, with what all audited methods share.

    named, other, absent: per image the prompt of the object asked for, that of another object and
        one that fits none, drawn from the seed; -1 where there is none.
    objects: how much of each patch each object covers, as the model sees the image.
    """

    def __init__(
        self, model: Model, data: LabelledImages, *, seed: int = 0, batch_size: int = 64
    ) -> None:
        super().__init__(model, data, seed=seed, batch_size=batch_size)
        self.pixels = self.preprocessed(data.photos)
        self.objects, self.labels = visible_objects(model, data.photos, data.things, self.grid)
        self.present = prompts_present(self.labels, len(data.prompts))
        self.named, self.other, self.absent = _questions(self.labels, self.present, seed)
        self.follower = OracleControl()
        self.controls = {name: Subject.of(name) for name in CONTROLS}
        self._kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    def kept(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What was made under this key before, or `make()`."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    # --- the model ---------------------------------------------------------------------------

    def scores(self, variant: Variant = UNTOUCHED) -> Float[Tensor, "image prompt"]:
        """What the variant scores every picture with every prompt."""
        return self.kept(("scores", variant.name), lambda: self._scores(variant))

    def _scores(self, variant: Variant) -> Tensor:
        with variant.enter(), torch.no_grad():
            texts = inputs.prompts(self.model, self.data.prompts).embeddings
            return self.compare(self.encode(self.pixels), texts)

    def compare(self, images: Tensor, texts: Tensor) -> Float[Tensor, "image prompt"]:
        """Return the model's own score of every pair of embeddings, in double precision."""
        return score_pairs(self.model, images, texts).double().cpu()

    def label(self, kind: Kind) -> Int64[Tensor, " image"]:
        """The label that this kind of prompt names in each picture."""
        return {"named": self.named, "other": self.other, "absent": self.absent}[kind]

    def beaten(self, variant: Variant = UNTOUCHED, kind: Kind = "named") -> Float[Tensor, " image"]:
        """The share of absent prompts that score less than this one (chance: a half); NaN where
        there is no prompt of this kind."""
        return share_outscored(self.scores(variant), self.label(kind), self.present)

    def right(self, variant: Variant = UNTOUCHED, kind: Kind = "named") -> Bool[Tensor, " image"]:
        """Whether this prompt outscores every absent one."""
        return self.beaten(variant, kind) == 1

    def known(self, variant: Variant = UNTOUCHED, kind: Kind = "named") -> Bool[Tensor, " image"]:
        """Where the variant is right, and the pictures of the widest margins of the prompt over
        absent ones, up to a share of 2 * accuracy - 1 of all (accuracy: mean of `beaten`)."""
        scores, beaten, labels = self.scores(variant), self.beaten(variant, kind), self.label(kind)
        share = 2 * float(beaten.nanmean()) - 1
        count = max(0, round(share * len(self)))
        widest = torch.zeros(len(self), dtype=torch.bool)
        margins = margin(scores, labels, self.present)
        order = margins.masked_fill(labels < 0, -torch.inf).argsort(descending=True)
        widest[order[:count]] = True
        return widest | self.right(variant, kind)

    # --- maps --------------------------------------------------------------------------------

    def maps(
        self, subject: Mapped, variant: Variant = UNTOUCHED, kind: Kind = "named", draw: int = 0
    ) -> Float[Tensor, "image row col"]:
        """Each picture's map for its prompt of this kind; NaN where it has none.

        draw: another number gives methods that use chance another seed.
        """
        key = ("maps", subject, variant.name, kind, draw)
        return self.kept(key, lambda: self._maps(subject, variant, kind, draw))

    def _maps(self, subject: Mapped, variant: Variant, kind: Kind, draw: int) -> Tensor:
        seed = self.seed + 100_003 * draw
        if isinstance(subject, OracleControl):
            return self._followed(variant, kind, seed)
        maps = torch.full((len(self), *self.grid), torch.nan)
        with variant.enter():
            for number, (prompt, rows) in enumerate(self._asked(kind, subject)):
                made = subject.maps(
                    self.model,
                    self.pictures(subject, rows),
                    prompt,
                    seed=seed + 1009 * number,
                    batch_size=self.batch_size,
                )
                maps[rows] = made[:, 0].cpu()
        return maps

    def _followed(self, variant: Variant, kind: Kind, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + 1 + KINDS.index(kind))
        noise = torch.randn(len(self), *self.grid, generator=generator)
        if kind not in ("named", "other"):
            return noise
        mask = self.cover(self.label(kind))
        return torch.where(self.known(variant, kind)[:, None, None], mask, noise)

    def pictures(
        self, subject: Subject, rows: Int64[Tensor, " chosen"]
    ) -> Tensor | list[Image.Image]:
        """ImageInputs as the subject takes them."""
        if isinstance(subject.method, Foreign) and subject.method.takes == "photo":
            return [self.data.photos[row] for row in rows.tolist()]
        return self.pixels[rows]

    def kinds(self, subject: Mapped) -> tuple[Kind, ...]:
        """The kinds of prompt that can be asked beside the named one."""
        constant: tuple[Kind, ...] = ("empty", "gibberish", "unrelated")
        if self.model.text is None:
            constant = ()
        elif isinstance(subject, Subject) and subject.method.foreign:
            constant = constant[1:]  # user code is handed texts, and an empty one is none
        some: tuple[Kind, ...] = ("other", "absent")
        return (*(kind for kind in some if (self.label(kind) >= 0).any()), *constant)

    def _asked(
        self, kind: Kind, subject: Subject
    ) -> list[tuple[Sequence[str] | Tensor, Int64[Tensor, " chosen"]]]:
        """Prompts of this kind, each with the pictures that it is asked of."""
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

    def gain(
        self,
        subject: Mapped,
        variant: Variant = UNTOUCHED,
        kind: Kind = "named",
        draw: int = 0,
    ) -> Float[Tensor, " image"]:
        """Choice above chance of the map for the prompt of this kind.

        NaN where there is nothing to choose from, or no object of its name to be seen.
        """
        maps, labels = self.maps(subject, variant, kind, draw).unsqueeze(1), self.label(kind)
        named = of_label(self.labels, labels).unsqueeze(1)
        chance = localisation.chance_of_choice(self.objects, named)
        gain = localisation.choice(maps, self.objects, named) - chance
        return gain.masked_fill(chance == 1, torch.nan)[:, 0].double()

    def cover(self, labels: Int64[Tensor, " image"]) -> Float[Tensor, "image row col"]:
        """How much of each patch objects of this label cover."""
        return union(self.objects, of_label(self.labels, labels))

    def pointing(self, subject: Mapped, kind: Kind = "named") -> Float[Tensor, " image"]:
        """Pointing at the object of the prompt of this kind."""
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
