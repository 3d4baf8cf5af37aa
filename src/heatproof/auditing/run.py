"""Audit one method or many on one model: run the checks of both principles."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import heatproof.auditing.checks  # pyright: ignore[reportUnusedImport]  # noqa: F401  (registers every check)
from heatproof import checking
from heatproof.auditing.base import CheckContext, Finding, checks
from heatproof.auditing.cost import forward_passes
from heatproof.auditing.result import Audit
from heatproof.auditing.task import AuditTask
from heatproof.auditing.zero_shot import ZeroShotTask, scene_task
from heatproof.code_hash import code_sha256
from heatproof.data.dataset import LabelledImages
from heatproof.data.opening import check as checked
from heatproof.data.opening import open as open_data
from heatproof.data.scenes.single_attribute import asked
from heatproof.engine import inputs
from heatproof.engine.certify import environment
from heatproof.engine.inputs import ModelInput
from heatproof.engine.inputs import prompts as embedded
from heatproof.errors import InputError, PromptError
from heatproof.evaluation.subject import Auditable, Subject
from heatproof.models import Model
from heatproof.reading.weight_edits import temporary_weights

Progress = Callable[[str], None]

# For models that come without data: principle 1 asks nothing of the content of images or prompts.
PROMPTS = (
    "a dog",
    "a cat",
    "a red car",
    "a person on a street",
    "traffic lights",
    "a bowl of fruit",
)
IMAGES, PIXELS = 4, 256
# Code that changes no finding: an audit of many methods resumes under another version of it.
UNUSED = (
    *("auditing/drawing.py", "auditing/league.py", "auditing/many.py"),
    *("benchmarking", "parallel", "proofs", "recipes", "runs", "store"),
)
# How many maps of an image principle 2 asks a method for, at most.
MAPS = 41
BUDGET = 205_000
"""Forward passes that principle 2 may take: 300 images at 16 passes per map, 75 at 66."""
FEWEST = 40
NO_DATA = (
    "no images with masks that this model could be good or bad at; pass a folder with "
    "instances.json (--data FOLDER)"
)


def run_checks(
    subject: Subject,
    context: CheckContext,
    principle: int | None = None,
    *,
    progress: Progress | None = None,
    unlabelled: bool = False,
) -> list[Finding]:
    """Run all checks, or those of one principle, in their order.

    The model's weights are changed on the way, and restored exactly, after errors too.

    Args:
        context: images and prompts for principle 1, labelled images for principle 2.
        progress: called before each check with a line for people.
        unlabelled: run those alone that need no labelled images.
    """
    chosen, findings = checks(principle), list[Finding]()
    if unlabelled:
        chosen = tuple(check for check in chosen if not check.card.labels)
    for number, check in enumerate(chosen, 1):
        if progress is not None:
            progress(f"{subject.name}: {check.card.title} ({number}/{len(chosen)})")
        # Only user code could write into the weights' own memory.
        restored = temporary_weights(context.model.module, restore="copy")
        guard = check.card.principle == 1 and subject.method.foreign
        with restored if guard else nullcontext():
            findings.append(check().measure(subject, context))
    return findings


class Auditor:
    """A model with the images that methods are audited on; what they share is computed once.

    data: "scenes" (rendered here; the default for the embedded model), a folder in COCO's layout,
        or labelled images. Without any, principle 2 has nothing to measure on.
    scenes: how many images at most.
    budget: forward passes that principle 2 may take per method. A method whose maps need more is
        run on fewer images, or on none, and its audit says so. No clock decides it.
    """

    def __init__(
        self,
        model: ModelInput = "scenes",
        data: str | Path | LabelledImages | None = None,
        *,
        principles: Collection[int] = (1, 2),
        scenes: int = 300,
        seed: int = 0,
        budget: int = BUDGET,
    ) -> None:
        chosen = checking.several("principles", principles, "1, 2 or both, such as (1, 2)")
        for principle in chosen:
            checking.whole("principles", principle, least=1, most=2)
        if not chosen:
            raise InputError("got no principle, expected 1, 2 or both, such as (1, 2)")
        checking.whole("scenes", scenes, least=1)
        checking.seed(seed)
        checking.whole("budget", budget, least=1)
        # Checked before the model is loaded: a wrong folder must not cost minutes.
        if data is not None and not isinstance(data, LabelledImages):
            checked(data)
        self.model = inputs.model_of(model)
        self.principles, self.scenes, self.seed = tuple(sorted(set(principles))), scenes, seed
        # Its checkpoints, "scenes:step-00200", know rendered scenes as well.
        embedded_model = self.model.spec.split(":")[0] == "scenes"
        if data is None and embedded_model:
            data = "scenes"
        self._rendered = data == "scenes"
        self.data = _data(data, scenes, seed)
        self.zero_shot = scene_task() if embedded_model else _zero_shot(self.data)
        self.budget = budget
        self._tasks: dict[int, AuditTask] = {}

    def task(self, images: int) -> AuditTask:
        """Return the first `images` of the data, with what all methods share; computed once."""
        assert self.data is not None
        if images not in self._tasks:
            data = self.data.first(images)
            draw = partial(self._drawn, images) if self._rendered else None
            self._tasks[images] = AuditTask(self.model, data, seed=self.seed, draw=draw)
        return self._tasks[images]

    def _drawn(self, images: int, number: int) -> LabelledImages:
        """Render further scenes, which no other number and no other seed below 1000 renders."""
        return open_data("scenes", most=images, seed=self.seed + 1000 * number).held()

    def affordable(self, subject: Subject) -> tuple[int, int]:
        """Return how many images principle 2 can run this method on, and its passes per map.

        All images, or a half, a quarter, an eighth of them; or 0 where the budget allows none.
        """
        assert self.data is not None
        # One image and one prompt, as checks ask for them.
        photo, prompt = self.data.photos[:1], self.data.prompts[:1]
        make_map = partial(subject.maps, self.model, photo, prompt)
        # The first image stands for all: a method's passes per map do not depend on the image.
        make_map()  # what is computed once is not counted
        passes = forward_passes(self.model, make_map)
        sizes = (n for n in self._sizes() if n * passes * MAPS <= self.budget)
        return next(sizes, 0), passes

    def _sizes(self) -> list[int]:
        """Return how many images principle 2 can be measured on, most first."""
        assert self.data is not None
        count = min(self.scenes, len(self.data))
        # Fewer than `FEWEST` images allow no verdict, except where there are no more.
        return [count // n for n in (1, 2, 4, 8) if count // n >= FEWEST or n == 1]

    @property
    def environment(self) -> dict[str, Any]:
        """Weights, code and versions that the findings depend on."""
        return {**environment(self.model, self.seed), "code_sha256": code_sha256(*UNUSED)}

    @property
    def question(self) -> dict[str, Any]:
        """What decides the findings besides the method and the model, in plain values."""
        return {
            "principles": list(self.principles),
            "data": None if self.data is None else self.data.name,
            "pictures": self.scenes,
            "budget": self.budget,
            "seed": self.seed,
        }

    def audit(
        self, method: Auditable, *, progress: Progress | None = None, **settings: Any
    ) -> Audit:
        """Run all checks on one method; `settings` are options of a method given by name."""
        subject = Subject.of(method, **settings).on(self.model)
        started = time.monotonic()
        findings: list[Finding] = []
        notices = [*self.model.notices, *(() if self.data is None else self.data.notices)]
        if 1 in self.principles:
            context, notice = self._context()
            # A notice only where the prompts are not the data's own.
            notices += [notice] if notice else []
            findings += run_checks(subject, context, 1, progress=progress)
        unmeasured: dict[int, str] = {}
        if 2 in self.principles:
            images, why = self._size(subject)
            if images:
                notices += [why] if why else []
                context = CheckContext(model=self.model, labelled=self.task(images), seed=self.seed)
                findings += run_checks(subject, context, 2, progress=progress)
            else:
                unmeasured[2] = why
                context, _ = self._context()
                findings += run_checks(subject, context, 2, progress=progress, unlabelled=True)
        return Audit(
            method=subject.name,
            settings=subject.method.settings(),
            model=self.model.spec,
            findings=tuple(findings),
            notices=tuple(dict.fromkeys(notices)),
            environment=self.environment,
            question=self.question,
            seconds=round(time.monotonic() - started, 1),
            unmeasured=unmeasured,
        )

    def _size(self, subject: Subject) -> tuple[int, str]:
        """Return how many images principle 2 is measured on, and why not on all of them."""
        if self.data is None:
            return 0, NO_DATA
        images, passes = self.affordable(subject)
        most, fewest = self._sizes()[0], self._sizes()[-1]
        if images == most:
            return most, ""
        plural = "es" if passes > 1 else ""
        takes = f"a map takes {passes} forward pass{plural}, and the budget is {self.budget}"
        if not images:
            return 0, f"{takes}; allow at least --budget {fewest * passes * MAPS}"
        return images, f"principle 2 was measured on {images} of {most} images: {takes}"

    def _context(self) -> tuple[CheckContext, str]:
        """Return what principle 1 is measured on, and a notice about the prompts."""
        prompts: Sequence[str] | Tensor
        if self.data is not None:
            photos, prompts, notice = self.data.photos[:IMAGES], self.data.prompts, ""
        else:
            photos = asked(IMAGES, seed=self.seed, pixels=PIXELS).photos
            prompts, notice = _prompts(self.model, self.seed)
        context = CheckContext(
            model=self.model,
            images=list(photos),
            prompts=prompts if isinstance(prompts, Tensor) else list(prompts),
            zero_shot=self.zero_shot,
            seed=self.seed,
        )
        return context, notice


def audit(
    method: Auditable,
    model: ModelInput = "scenes",
    data: str | Path | LabelledImages | None = None,
    *,
    principles: Collection[int] = (1, 2),
    scenes: int = 300,
    seed: int = 0,
    budget: int = BUDGET,
    progress: Progress | None = None,
    **settings: Any,
) -> Audit:
    """Check a method against two principles: explain the model itself, follow its performance.

    Args:
        method: a catalogue name, a method object, a function (PIL image, prompt) -> map, or a
            function of the model that returns one (see `heatproof.user_code`). It should run
            `model.module`: its weights are changed in place on the way, and restored exactly.
        model: a model, or what `load` takes.
        data, scenes, principles, budget: see `Auditor`, which audits many methods on one model.
        settings: options of a method given by name, such as heads="model".

    Returns:
        Findings with verdict, evidence and numbers; `.holds`, `.save(folder)`.
    """
    subject = Subject.of(method, **settings)
    checking.progress(progress, "doing")
    auditor = Auditor(model, data, principles=principles, scenes=scenes, seed=seed, budget=budget)
    return auditor.audit(subject.method, progress=progress)


def _data(
    source: str | Path | LabelledImages | None, most: int, seed: int
) -> LabelledImages | None:
    if source is None:
        return None
    given = isinstance(source, LabelledImages)
    data = source if given else open_data(source, most=most, seed=seed)
    # What a set does not name may still be there, so nothing is known to be absent.
    if not data.complete:
        raise InputError(
            f"{data.name} does not say all that its images show, and the audit asks for what is "
            "absent; try scenes, coco:PATH, voc:PATH or a folder of your own"
        )
    return data if given else data.held()


def _zero_shot(data: LabelledImages | None) -> ZeroShotTask | None:
    """Take the images all of whose objects have one name; None where there are none."""
    if data is None:
        return None
    # An image of several kinds of objects has no single right class.
    names = [{instance.label for instance in instances} for instances in data.things]
    rows = [row for row, labels in enumerate(names) if len(labels) == 1]
    if not rows:
        return None
    right = torch.tensor([next(iter(names[row])) for row in rows])
    return ZeroShotTask([data.photos[row] for row in rows], data.prompts, right, data.name)


def _prompts(model: Model, seed: int) -> tuple[list[str] | Tensor, str]:
    """Return class names, texts, or random embeddings where the model cannot read text here.

    The text beside them is a notice that says so, or empty.
    """
    if model.classes:
        return list(model.classes[: len(PROMPTS)]), ""
    why = "the model has no text tower"
    if model.text is not None:
        try:
            return list(embedded(model, PROMPTS).labels), ""
        except PromptError as error:  # no tokenizer is at hand
            why = str(error)
    with torch.no_grad():
        size = model.image.preprocess
        blank = torch.zeros(1, 3, size.height, size.width).to(model.device, model.dtype)
        width = model.image.encode(blank).shape[1]
    chance = torch.Generator().manual_seed(seed)
    texts = torch.randn(len(PROMPTS), width, generator=chance)
    return texts, f"principle 1 was measured with random embeddings in place of prompts: {why}"
