"""Define what a check of the audit is, what it measures on, and what it finds.

A check lives in one file of `auditing/checks`: its question, its measurement, the rule that turns
numbers into a verdict, and the figure of these numbers. `@register_check` lists it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof.auditing.task import AuditTask
from heatproof.auditing.zero_shot import ZeroShotTask
from heatproof.engine import inputs
from heatproof.errors import InputError
from heatproof.evaluation.subject import Subject
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.registry import Option, Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["holds", "violated", "not applicable", "cannot tell"]
Principle = Literal[1, 2]
Numbers = Mapping[str, Any]
QuestionId = Literal["own pass", "function", "own output", "tracking", "prompt"]

# Models of fewer parameters are measured on twice as many images: they are fast.
SMALL = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found about one method on one model.

    id: the check's identifier, by which pages, files and code refer to it.
    check: the check's title, for people.
    verdict: "cannot tell" means that the check's own controls do not separate here; "not
        applicable" that the question does not arise.
    evidence: a sentence with the figures that carry the verdict.
    numbers: plain values for JSON: all that the figure shows and the verdict's limits come from.
    code: where to look: the function or object that causes what was found.
    """

    id: str
    check: str
    principle: Principle
    question: str
    verdict: Verdict
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])
    code: str = ""


@dataclass(frozen=True)
class DecidingQuestion:
    """A question that must be answered before a principle is established.

    It is answered where one of its checks holds; where `may_not_arise`, also where none applies.
    """

    id: QuestionId
    principle: Principle
    text: str
    may_not_arise: bool = False


DECIDING = (
    DecidingQuestion("own pass", 1, "is it the model's own pass?"),
    DecidingQuestion("function", 1, "is it the model's function alone?", may_not_arise=True),
    DecidingQuestion("own output", 1, "is it the model's own output?", may_not_arise=True),
    DecidingQuestion("tracking", 2, "is the map better where the model is?"),
    DecidingQuestion("prompt", 2, "does the map depend on the prompt?", may_not_arise=True),
)


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """What checks measure on.

    Principle 1 takes images (photos, or the model's preprocessed pixels) and prompts (texts, class
    names, or embeddings) of any content. Principle 2 takes `labelled`: images whose objects are
    known. `zero_shot` is for the accuracy of models that a method puts in the place of yours.
    """

    model: Model
    images: Sequence[Image.Image] | Tensor = ()
    prompts: Sequence[str] | Tensor = ()
    zero_shot: ZeroShotTask | None = None
    labelled: AuditTask | None = None
    seed: int = 0

    @property
    def task(self) -> AuditTask:
        """The labelled images.

        Raises:
            InputError: the context has none.
        """
        if self.labelled is None:
            raise InputError("this check needs labelled images, and the context has none")
        return self.labelled

    @cached_property
    def extra(self) -> int:
        """How many times the usual number of images this model affords: 2 for small ones."""
        # Small models are cheap: more images make narrower intervals.
        return 2 if sum(tensor.numel() for tensor in self.model.module.parameters()) < SMALL else 1

    def first(self, images: int, prompts: int) -> "CheckContext":
        """Return the context with its first images and prompts alone."""
        return replace(self, images=self.images[:images], prompts=self.prompts[:prompts])

    def pixels(self) -> Float[Tensor, "image 3 height width"]:
        """Preprocess the images, in the model's present number format."""
        images = self.images if isinstance(self.images, Tensor) else list(self.images)
        return inputs.images(self.model, images, None).pixels

    def embeddings(self) -> Float[Tensor, "prompt dim"]:
        """Embed the prompts by the model as it now is."""
        prompts = self.prompts if isinstance(self.prompts, Tensor) else list(self.prompts)
        return inputs.prompts(self.model, prompts).embeddings

    def attention_layers(self) -> tuple[AttentionLayer, ...]:
        """Find the image tower's attention layers, first to last."""
        if self.labelled is not None:
            return self.labelled.attention_layers
        return self.model.attention_layers("image", self.pixels().shape[-2:])

    def maps(self, subject: Subject) -> Float[Tensor, "image prompt row col"]:
        """Compute the method's maps of all images and prompts by the model as it now is."""
        return subject.maps(self.model, self.images, self.prompts, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class CheckCard:
    """What a check asks.

    name: its identifier, which never changes; pages, files and code refer to the check by it.
    place: the order among the checks of its principle.
    answers: the deciding question that the check answers where it holds; a check without one can
        violate its principle and never establish it.
    labels: whether it needs labelled images (a check of principle 2 without them runs on any).
    options: the sizes of its measurement, read off the class's fields where it is registered.
    """

    name: str
    title: str
    principle: Principle
    place: int
    question: str
    answers: QuestionId | None = None
    labels: bool = True
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])


class AuditCheck(ABC):
    """One question about a method: its card, measurement, verdict rule and figure.

    Subclasses are frozen dataclasses whose fields are the sizes of the measurement, with defaults.
    """

    card: ClassVar[CheckCard]

    @abstractmethod
    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure a method; the model's weights are restored exactly afterwards."""

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw a finding's numbers; None where they hold nothing to draw."""
        del numbers
        return None

    def finding(
        self,
        verdict: Verdict,
        evidence: str,
        numbers: dict[str, Any] | None = None,
        code: str = "",
    ) -> Finding:
        """Return this check's finding."""
        return Finding(
            id=self.card.name,
            check=self.card.title,
            principle=self.card.principle,
            question=self.card.question,
            verdict=verdict,
            evidence=evidence,
            numbers=numbers or {},
            code=code,
        )


_CHECKS: Registry[AuditCheck] = Registry("check")
register_check = _CHECKS.register


def checks(principle: int | None = None) -> tuple[type[AuditCheck], ...]:
    """Return all checks, or those of one principle, in the order in which they run."""
    # By place and not by file name: a finding may build on what came before it.
    listed = [check for _, check in _CHECKS if principle in (None, check.card.principle)]
    return tuple(sorted(listed, key=lambda check: (check.card.principle, check.card.place)))
