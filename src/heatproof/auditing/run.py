"""`audit`: the two principles' checks, of one method or of many, on one model."""

import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from heatproof import checking
from heatproof.auditing import labelled as labels
from heatproof.auditing import principle2
from heatproof.auditing.base import Finding
from heatproof.auditing.cost import forward_passes
from heatproof.auditing.labelled import Labelled
from heatproof.auditing.principle1 import explain_the_model_itself
from heatproof.auditing.result import Audit
from heatproof.auditing.task import AuditTask
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

Progress = Callable[[str], None]

# What any model can be shown where no data are given: principle 1 asks nothing of their content.
PROMPTS = (
    "a dog",
    "a cat",
    "a red car",
    "a person on a street",
    "traffic lights",
    "a bowl of fruit",
)
PICTURES, PIXELS = 4, 256
UNUSED = ("benchmarking", "proofs", "recipes")
"""Code that changes no finding: an audit of many methods resumes under another version of it."""
MAPS = 20
"""How many maps of an image principle 2 asks a method for, at most."""
BUDGET = 100_000
"""Forward passes that principle 2 may take: 300 images at 16 passes per map, 75 at 66."""
FEWEST = 40
NO_DATA = (
    "no pictures with masks that this model could be good or bad at; hand in a folder with "
    "instances.json (--data FOLDER)"
)


class Auditor:
    """A model with the pictures that its methods are audited on; everything shared is made once.

    data: "scenes" (rendered here; the default for the embedded model), a folder in COCO's layout,
        or pictures with their objects. Without any, principle 2 has nothing to measure on.
    scenes: how many pictures at most.
    budget: forward passes that principle 2 may take per method. A method whose maps need more is
        asked about fewer images, or about none, and its audit says so. No clock decides it.
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
        for each in chosen:
            checking.whole("principles", each, least=1, most=2)
        if not chosen:
            raise InputError("got no principle, expected 1, 2 or both, such as (1, 2)")
        checking.whole("scenes", scenes, least=1)
        checking.seed(seed)
        checking.whole("budget", budget, least=1)
        if data is not None and not isinstance(data, LabelledImages):
            checked(data)
        self.model = inputs.model_of(model)
        self.principles, self.scenes, self.seed = tuple(sorted(set(principles))), scenes, seed
        known = _is_scenes(self.model)
        if data is None and known:
            data = "scenes"
        self.data = _data(data, scenes, seed)
        self.labelled = labels.scenes() if known else _labelled(self.data)
        self.budget = budget
        self._benches: dict[int, AuditTask] = {}

    def bench(self, pictures: int) -> AuditTask:
        """The first `pictures` of the data, with what all methods share; made once."""
        assert self.data is not None
        if pictures not in self._benches:
            self._benches[pictures] = principle2.bench(
                self.model, self.data, scenes=pictures, seed=self.seed
            )
        return self._benches[pictures]

    def affordable(self, subject: Subject) -> tuple[int, int]:
        """Return how many images this method's maps can be asked for within the budget, and the
        forward passes that one map takes: all images, or a half, a quarter, an eighth; or 0."""
        assert self.data is not None
        photo, prompt = self.data.photos[:1], self.data.prompts[:1]
        make_map = partial(subject.maps, self.model, photo, prompt)
        make_map()  # what is computed once is not counted
        passes = forward_passes(self.model, make_map)
        sizes = (n for n in self._sizes() if n * passes * MAPS <= self.budget)
        return next(sizes, 0), passes

    def _sizes(self) -> list[int]:
        """How many images principle 2 can be measured on, most first."""
        assert self.data is not None
        count = min(self.scenes, len(self.data))
        return [count // n for n in (1, 2, 4, 8) if count // n >= FEWEST or n == 1]

    @property
    def environment(self) -> dict[str, Any]:
        """Weights, code and versions that the findings were made with."""
        return {**environment(self.model, self.seed), "code_sha256": code_sha256(*UNUSED)}

    @property
    def question(self) -> dict[str, Any]:
        """What decides the findings beside the method and the model, in plain values."""
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
        """All checks of one method; `settings` are options of a method that is named."""
        subject = Subject.of(method, **settings).on(self.model)
        say = progress or _silent
        started = time.monotonic()
        found: list[Finding] = []
        notices = [*self.model.notices, *(() if self.data is None else self.data.notices)]
        if 1 in self.principles:
            images, asked_for, notice = self._shown()
            notices += [notice] if notice else []
            found += explain_the_model_itself(
                subject,
                self.model,
                images,
                asked_for,
                labelled=self.labelled,
                seed=self.seed,
                progress=lambda name, n, count: say(f"{subject.name}: {name} ({n + 1}/{count})"),
            )
        unmeasured: dict[int, str] = {}
        if 2 in self.principles:
            pictures, why = self._size(subject)
            if pictures:
                notices += [why] if why else []
                found += principle2.follow(subject, self.bench(pictures), progress=say)
            else:
                unmeasured[2] = why
        return Audit(
            subject.name,
            subject.method.settings(),
            self.model.spec,
            tuple(found),
            tuple(dict.fromkeys(notices)),
            self.environment,
            self.question,
            round(time.monotonic() - started, 1),
            unmeasured,
        )

    def _size(self, subject: Subject) -> tuple[int, str]:
        """How many images principle 2 is measured on, and why not on all of them."""
        if self.data is None:
            return 0, NO_DATA
        pictures, passes = self.affordable(subject)
        most, fewest = self._sizes()[0], self._sizes()[-1]
        if pictures == most:
            return most, ""
        passed = f"{passes} forward pass{'es' if passes > 1 else ''}"
        takes = f"a map takes {passed}, and the budget is {self.budget}"
        if not pictures:
            return 0, f"{takes}; allow at least --budget {fewest * passes * MAPS}"
        return pictures, f"principle 2 was measured on {pictures} of {most} images: {takes}"

    def _shown(self) -> tuple[list[Image.Image], list[str] | Tensor, str]:
        """Images and prompts that principle 1 is measured with, and a notice about them."""
        if self.data is not None:
            return list(self.data.photos[:PICTURES]), list(self.data.prompts), ""
        photos = list(asked(PICTURES, seed=self.seed, pixels=PIXELS).photos)
        return photos, *_prompts(self.model, self.seed)


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
    """Hold a method to the two principles: explain the model itself, follow its performance.

    Args:
        method: a catalogue name, a method object, a function (PIL image, prompt) -> map, or a
            function of the model that returns one (see `heatproof.user_code`). It should work on
            `model.module`: its weights are changed in place on the way.
        model: a model, or what `load` takes.
        data, scenes, principles, budget: see `Auditor`, which audits many methods on one model.
        settings: options of a method that is named, such as heads="model".

    Returns:
        Findings with verdict, evidence and numbers; `.holds`, `.save(folder)`.
    """
    subject = Subject.of(method, **settings)
    checking.progress(progress, "doing")
    auditor = Auditor(model, data, principles=principles, scenes=scenes, seed=seed, budget=budget)
    return auditor.audit(subject.method, progress=progress)


def _silent(told: str) -> None:
    del told


def _is_scenes(model: Model) -> bool:
    return model.spec.split(":")[0] == "scenes"


def _data(given: str | Path | LabelledImages | None, most: int, seed: int) -> LabelledImages | None:
    if given is None:
        return None
    found = given if isinstance(given, LabelledImages) else open_data(given, most=most, seed=seed)
    if not found.complete:
        raise InputError(
            f"{found.name} does not say all that its pictures show, and the audit asks for what is "
            "absent; try scenes, coco:PATH, voc:PATH or a folder of your own"
        )
    return found if found is given else found.held()


def _labelled(data: LabelledImages | None) -> Labelled | None:
    """The pictures all of whose objects have one name: a zero-shot task."""
    if data is None:
        return None
    names = [{thing.label for thing in things} for things in data.things]
    rows = [row for row, found in enumerate(names) if len(found) == 1]
    if not rows:
        return None
    right = torch.tensor([next(iter(names[row])) for row in rows])
    return Labelled([data.photos[row] for row in rows], data.prompts, right, data.name)


def _prompts(model: Model, seed: int) -> tuple[list[str] | Tensor, str]:
    """Class names, texts, or random embeddings where the model cannot read text here; and a notice
    that says so, or nothing."""
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
