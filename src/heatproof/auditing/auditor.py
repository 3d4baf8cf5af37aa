"""`audit`: the two principles' checks, of one method or of many, on one model."""

import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from PIL import Image

from heatproof.auditing import labelled as labels
from heatproof.auditing import principle2
from heatproof.auditing.bench import Bench
from heatproof.auditing.finding import Finding
from heatproof.auditing.labelled import Labelled
from heatproof.auditing.principle1 import explain_the_model_itself
from heatproof.auditing.result import Audit
from heatproof.auditing.subject import Auditable, Subject
from heatproof.certify import environment
from heatproof.code_hash import code_sha256
from heatproof.data.asked import asked
from heatproof.data.opening import open as open_data
from heatproof.data.pictured import Pictured
from heatproof.errors import InputError
from heatproof.inputs import Prompts
from heatproof.inputs import prompts as embedded
from heatproof.models import Model
from heatproof.models import load as load_model

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
SHOWN = (
    *("auditing/commands.py", "benchmarking", "cli.py", "paper", "proofs"),
    *("terminal.py", "training"),
)
"""What takes no part in a finding: another version of it goes on with an audit of many."""
MAPS = 20  # about as many maps of a picture does principle 2 ask for
TIMED = 4
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
    budget: seconds that principle 2 may take a method. A method whose maps are too slow for it is
        asked about fewer pictures, or about none, and its audit says so.
    """

    def __init__(
        self,
        model: str | Model = "scenes",
        data: str | Pictured | None = None,
        *,
        principles: Collection[int] = (1, 2),
        scenes: int = 300,
        seed: int = 0,
        budget: float = 600.0,
    ) -> None:
        if not principles or not set(principles) <= {1, 2}:
            raise InputError(f"got principles {sorted(principles)}, expected 1, 2 or both")
        self.model = load_model(model) if isinstance(model, str) else model
        self.principles, self.scenes, self.seed = tuple(sorted(set(principles))), scenes, seed
        known = _is_scenes(self.model)
        if data is None and known:
            data = "scenes"
        self.data = _data(data, scenes, seed)
        self.labelled = labels.scenes() if known else _labelled(self.data)
        self.budget = budget
        self._benches: dict[int, Bench] = {}

    def bench(self, pictures: int) -> Bench:
        """The first `pictures` of the data, with what all methods share; made once."""
        assert self.data is not None
        if pictures not in self._benches:
            self._benches[pictures] = principle2.bench(
                self.model, self.data, scenes=pictures, seed=self.seed
            )
        return self._benches[pictures]

    def affordable(self, subject: Subject) -> tuple[int, float]:
        """How many pictures this method's maps can be asked for within the budget, and the seconds
        that one picture takes: all of them, or a half, a quarter, an eighth. 0: none of these."""
        assert self.data is not None
        few = self.data.first(TIMED)
        subject.maps(self.model, few.photos[:1], few.prompts)  # what is made once is no part of it
        started = time.monotonic()
        subject.maps(self.model, few.photos, few.prompts)
        each = (time.monotonic() - started) / len(few)
        count = min(self.scenes, len(self.data))
        parts = [count // n for n in (1, 2, 4, 8) if count // n >= FEWEST or n == 1]
        return next((n for n in parts if n * each * MAPS <= self.budget), 0), each

    @property
    def environment(self) -> dict[str, Any]:
        """Weights, code and versions that the findings were made with."""
        return {**environment(self.model, self.seed), "code_sha256": code_sha256(*SHOWN)}

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
        """All checks of one method; `settings` are switches of a method that is named."""
        subject = Subject.of(method, **settings)
        say = progress or _silent
        started = time.monotonic()
        found: list[Finding] = []
        if 1 in self.principles:
            images, asked_for = self._shown()
            found += explain_the_model_itself(
                subject,
                self.model,
                images,
                asked_for,
                labelled=self.labelled,
                seed=self.seed,
                progress=lambda name, n, count: say(f"{subject.name}: {name} ({n + 1}/{count})"),
            )
        notices = [*self.model.notices, *(() if self.data is None else self.data.notices)]
        if 2 in self.principles:
            told, more = self._followed(subject, say)
            notices += told
            found += more
        return Audit(
            subject.name,
            subject.method.settings(),
            self.model.spec,
            tuple(found),
            tuple(dict.fromkeys(notices)),
            self.environment,
            self.question,
            round(time.monotonic() - started, 1),
        )

    def _followed(self, subject: Subject, say: Progress) -> tuple[list[str], list[Finding]]:
        """Notices, and the findings of principle 2."""
        if self.data is None:
            return [f"principle 2 was not measured: {NO_DATA}"], []
        pictures, each = self.affordable(subject)
        told: list[str] = []
        if not pictures:
            slow = f"a picture takes {each:.2g} s, too long for {self.budget:.0f} s"
            return [f"principle 2 was not measured: {slow}; allow more with --budget"], []
        if pictures < min(self.scenes, len(self.data)):
            told = [
                f"principle 2 was measured on {pictures} pictures, a picture taking {each:.2g} s"
            ]
        return told, principle2.follow(subject, self.bench(pictures), progress=say)

    def _shown(self) -> tuple[list[Image.Image], Any]:
        if self.data is not None:
            return list(self.data.photos[:PICTURES]), self.data.prompts
        photos = list(asked(PICTURES, seed=self.seed, pixels=PIXELS).photos)
        return photos, _prompts(self.model, self.seed)


def audit(
    method: Auditable,
    model: str | Model = "scenes",
    data: str | Pictured | None = None,
    *,
    principles: Collection[int] = (1, 2),
    scenes: int = 300,
    seed: int = 0,
    budget: float = 600.0,
    progress: Progress | None = None,
    **settings: Any,
) -> Audit:
    """Hold a method to the two principles: explain the model itself, follow its performance.

    Args:
        method: a catalogue name, a method object, or any callable (PIL image, prompt) -> map. A
            callable should work on `model.module`: its weights are changed in place on the way.
        model: a model, or what `load` takes.
        data, scenes, principles, budget: see `Auditor`, which audits many methods on one model.
        settings: switches of a method that is named, such as heads="model".

    Returns:
        Findings with verdict, evidence and numbers; `.holds`, `.save(folder)`.
    """
    auditor = Auditor(model, data, principles=principles, scenes=scenes, seed=seed, budget=budget)
    return auditor.audit(method, progress=progress, **settings)


def _silent(told: str) -> None:
    del told


def _is_scenes(model: Model) -> bool:
    return model.spec.split(":")[0] == "scenes"


def _data(given: str | Pictured | None, most: int, seed: int) -> Pictured | None:
    if given is None:
        return None
    found = given if isinstance(given, Pictured) else open_data(given, most=most, seed=seed)
    if not found.complete:
        raise InputError(
            f"{found.name} does not say all that its pictures show, and the audit asks for what is "
            "absent; try scenes, coco:PATH, voc:PATH or a folder of your own"
        )
    return found if found is given else found.held()


def _labelled(data: Pictured | None) -> Labelled | None:
    """The pictures all of whose objects have one name: a zero-shot task."""
    if data is None:
        return None
    names = [{thing.label for thing in things} for things in data.things]
    rows = [row for row, found in enumerate(names) if len(found) == 1]
    if not rows:
        return None
    right = torch.tensor([next(iter(names[row])) for row in rows])
    return Labelled([data.photos[row] for row in rows], data.prompts, right, data.name)


def _prompts(model: Model, seed: int) -> Any:
    """Texts, class names, or random embeddings where the model's tokenizer is not at hand."""
    if model.classes:
        return list(model.classes[: len(PROMPTS)])
    try:
        found: Prompts = embedded(model, PROMPTS)
        return list(found.labels)
    except (InputError, OSError, RuntimeError):
        with torch.no_grad():
            size = model.image.preprocess
            blank = torch.zeros(1, 3, size.height, size.width).to(model.device, model.dtype)
            width = model.image.encode(blank).shape[1]
        chance = torch.Generator().manual_seed(seed)
        return torch.randn(len(PROMPTS), width, generator=chance)
