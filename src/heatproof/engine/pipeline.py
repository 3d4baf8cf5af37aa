"""The steps of every explanation: prepare, batches, forward, attribute, certify, result.

`docs/internals/explain.md` follows one call through them.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from heatproof import checking, index, methods, scores, user_code
from heatproof.certificate import HANDED_IN, NO_CHECK, Certificates
from heatproof.engine import following, inputs
from heatproof.engine.batches import ImageBatches, TowerBatches
from heatproof.engine.certify import Findings, facts, promise_of
from heatproof.engine.following import PromptTracking
from heatproof.engine.forward import Reader, untouched_scores
from heatproof.engine.input_check import InputCheck, InputDifferences
from heatproof.engine.inputs import ImageInputs, ImageSize, PromptInput, Prompts
from heatproof.engine.memory import BatchPlan, plan_batches
from heatproof.engine.null_prompts import null_prompts
from heatproof.engine.results import BatchResults, Measure, sample_of
from heatproof.errors import InputError, ReadingError
from heatproof.explanation import Explanation
from heatproof.image_maps import Record
from heatproof.methods.base import Method
from heatproof.methods.pass_context import Batch, Side
from heatproof.models.model import Model
from heatproof.tolerances import TOLERANCE

Progress = Callable[[int, int], None]
Certify = bool | Literal["full"]
MethodInput = str | Method | Callable[[Any, str], Any] | None
"""None is "default"; that and "fast" stand for methods that a study chose: see `index.meant`."""

# Images together where the user sets no number. More of them leave a processor's caches: ViT-B/16
# takes 120 ms per image with 4 or 8 together, 126 with 16, 143 with 32.
ON_PROCESSOR = 8
ON_DEVICE = 32


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How to explain: the keyword arguments that the four doors share (see `explain`)."""

    method: MethodInput = None
    score: str | scores.Score | None = None
    image_size: ImageSize = None
    certify: Certify = True
    batch_size: int | None = None
    memory: int | str | None = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Check all but `method` and `score`, which depend on the model.

        Raises:
            InputError: a value is of another kind, or out of range.
        """
        object.__setattr__(self, "certify", checking.certify(self.certify))
        if self.batch_size is not None:
            checking.whole("batch_size", self.batch_size, least=1)
        checking.memory(self.memory)
        checking.seed(self.seed)
        checking.progress(self.progress, 0, 1)
        object.__setattr__(self, "image_size", checking.image_size(self.image_size))


def default_batch_size(model: Model) -> int:
    """Return how many inputs go through the model together where the user sets no number."""
    return ON_PROCESSOR if model.device.type == "cpu" else ON_DEVICE


def candidates(method: MethodInput, side: Side) -> list[MethodInput]:
    """Return the methods that are meant, each for models that refuse those before it."""
    name = index.PURPOSES[0] if method is None else method
    return list(index.meant(name, side)) if isinstance(name, str) else [name]


def resolve_method(
    model: Model, method: MethodInput, score: str | scores.Score | None, side: Side
) -> tuple[Method, scores.Score]:
    """Return the method and the score that are meant.

    Raises:
        UnknownName: no method or score is called so. InputError: the method does not explain this
            side, or it is code that cannot be taken as a method.
    """
    chosen = methods.method_of(candidates(method, side)[0])
    if chosen.foreign:  # code of the user's own, which may ask for the model
        chosen = user_code.method_of(chosen, model)
    if side not in chosen.card.sides:
        raise InputError(
            f"method {chosen.card.name} explains the {chosen.card.sides[0]} side alone"
        )
    return chosen, scores.score_of(scores.default(model) if score is None else score)


class Pipeline:
    """What the doors share: one tower, one method, one score, and the steps from batches on.

    `plan`, how many inputs go together, is made for the first inputs and holds for all others.
    """

    def __init__(self, model: Model, options: ExplainOptions, side: Side = "image") -> None:
        self.model, self.options = model, options
        self.side: Side = side
        first, *others = candidates(options.method, side)
        # Tuples: `asking` copies the run, and copies must not share what they use up.
        self.others = tuple(others)
        self.refused: tuple[str, ...] = ()
        self._use(first)
        self.full = options.certify == "full"
        self.batch_size = options.batch_size or default_batch_size(model)
        self.plan: BatchPlan | None = None

    def _use(self, method: MethodInput) -> None:
        self.method, self.score = resolve_method(self.model, method, self.options.score, self.side)
        self.factors = self.method.factors(self.side)
        # Nothing is known of the pass behind code of the user's own.
        self.certifies = bool(self.options.certify) and not self.method.foreign

    def attribute(
        self, batches: TowerBatches, progress: Progress | None, measure: Measure | None = None
    ) -> BatchResults:
        """Run all batches through the model and the method.

        Where the method is one of several that a purpose stands for, and refuses the model, the
        next one is used from then on.

        measure: measures how maps follow their prompts.

        Raises:
            ReadingError: the model cannot be read. InputError: the memory is too small for one.
        """
        try:
            results = self._attribute(batches, progress, measure)
        except ReadingError as error:
            if not self.others:
                raise
            self.refused += (f"{self.method.card.name} does not apply to this model: {error}",)
            self._use(self.others[0])
            self.others = self.others[1:]
            self.plan = None
            return self.attribute(batches, progress, measure)
        self.others = ()
        return results

    def _attribute(
        self, batches: TowerBatches, progress: Progress | None, measure: Measure | None
    ) -> BatchResults:
        layers = batches.model.attention_layers(self.side, batches.input_size)
        if isinstance(batches, ImageBatches):
            batches.check_keys(layers[-1].keys)
        reader = Reader(
            model=batches.model,
            method=self.method,
            layers=layers,
            seed=self.options.seed,
            evidence="none" if not self.certifies else "full" if self.full else "sample",
        )
        if self.plan is None:
            self.plan = self._plan(batches, reader)
        parts = batches.split(self.plan.items, self.plan.gradient_bytes)
        results = BatchResults(measure)
        # Prompts are few, and their scores may depend on those beside them.
        alone = self.certifies and (self.full or self.side == "text")
        for number, batch in enumerate(parts, 1):
            attribution = reader.attribute(batch)
            # Else the scores of the pass that was read will do, if nothing was changed in it.
            own = None if alone else attribution.untouched
            compared = own is None
            results.add(batch, attribution, untouched_scores(batch) if compared else own, compared)
            if progress is not None:
                progress(number, len(parts))
        if self.certifies and not results.compared.all():
            self._compare(batches, parts, results)
        return results

    def sample(self, batches: ImageBatches) -> Int[Tensor, " compared"]:
        """Return the numbers of the images that are compared with passes of their own."""
        images = len(batches.pixels)
        if self.full:
            return torch.arange(images)
        return sample_of(images, batches.before, self.options.seed)

    def _compare(
        self, batches: TowerBatches, parts: Sequence[Batch], results: BatchResults
    ) -> None:
        """Run the untouched model on a sample of the items; on all of them where it differs."""
        assert self.plan is not None
        assert isinstance(batches, ImageBatches)
        sample = self.sample(batches)
        scores = torch.cat([batches.untouched(some) for some in sample.split(self.plan.items)])
        scores = scores.cpu()
        limit = TOLERANCE[batches.model.precision] * max(1.0, float(scores.abs().max()))
        if bool(((scores - results.untouched[sample]).abs() <= limit).all()):
            results.take(sample, scores)
            return
        # How many images are concerned must be known, and a model may depend on the whole batch.
        everything = torch.cat([untouched_scores(batch).cpu() for batch in parts])
        results.take(torch.arange(len(everything)), everything)

    def _plan(self, batches: TowerBatches, reader: Reader) -> BatchPlan:
        memory, most = self.options.memory, self.batch_size
        if memory is None:
            return BatchPlan(most)
        return plan_batches(batches.model, batches.probe(), reader.attribute, memory, most)

    def findings(
        self,
        model: Model,
        names: tuple[Sequence[str], Sequence[str]],
        results: "BatchResults",
        tracking: PromptTracking,
        check_input: Callable[[int], InputDifferences],
        warnings: Sequence[str] = (),
        weights: str = "",
    ) -> Findings:
        """Return what the certificates of the results are made from.

        Args:
            model: the one that was run, at the size of the inputs.
            names: what items and targets are called; null prompts, which come last, are not named.
            tracking: how the maps follow their prompts.
            check_input: compares the results with the library's own call on batches of a size.
            warnings: of the whole explanation.
            weights: the hash of the model's weights, where it is known.
        """
        if not self.certifies or self.plan is None:
            return Findings(
                factors=self.factors,
                tracking=tracking,
                model=facts(model, self.side, None),
                reason=HANDED_IN if self.method.foreign else NO_CHECK,
            )
        return Findings(
            factors=self.factors,
            tracking=tracking,
            model=facts(model, self.side, self.options.seed, weights),
            promise=promise_of(self.method),
            evidence=results.evidence(self.side, names),
            input_check=check_input(self.plan.items),
            warnings=tuple(warnings),
        )

    def record(self, prompts: Prompts, shown: ImageInputs) -> Record:
        """Return what made the explanation, for its report."""
        size = self.options.image_size
        return Record(
            model=self.model.spec,
            method=self.method.card.name,
            settings=self.method.settings(),
            score=self.score.name,
            prompts=prompts.labels,
            seed=self.options.seed,
            notices=(*self.model.notices, *shown.notices, *prompts.notices, *self.refused),
            image_size="x".join(map(str, size))
            if isinstance(size, tuple)
            else str(size or "native"),
            signs=self.method.card.signs,
        )


class ExplainRun(Pipeline):
    """Prompts that are asked of images: embedded once, however many images follow."""

    def __init__(self, model: Model, given: PromptInput, options: ExplainOptions) -> None:
        """given: the prompts as the user handed them in.

        Raises:
            PromptError: they cannot be embedded. InputError: the score does not take them.
        """
        given = inputs.check_prompts(model, given)
        super().__init__(model, options)
        self.prompts = inputs.prompts(model, given, options.memory)
        self.input_check = InputCheck(given, self.prompts, self.score)
        self.score.check(model, len(self.prompts.labels))
        self.nulls, self.why_no_nulls, self.weights = None, "", ""
        if self.certifies:
            self.weights = model.weights_hash
            self.nulls, self.why_no_nulls = null_prompts(model, self.weights)
        self.done = 0

    def asking(self, prompts: Prompts, *, first: int) -> "ExplainRun":
        """Return this run with other prompts, which are embedded already.

        first: the number of the next image in the whole run, on which chance depends.
        """
        self.score.check(self.model, len(prompts.labels))
        run = copy(self)
        run.done = first
        if prompts is not self.prompts:
            run.prompts = prompts
            run.input_check = InputCheck(list(prompts.labels), prompts, self.score)
        return run

    @torch.inference_mode(False)
    def explain(
        self, shown: ImageInputs, progress: Progress | None, *, fresh: bool = False
    ) -> Explanation:
        """Explain these images; the next ones count on from them.

        fresh: the run was made just now, so that the hash of the weights is known.
        """
        batches = ImageBatches(shown, self.prompts, self.score, self.nulls, self.done)
        results = self.attribute(batches, progress, self._measure(batches))
        self.done += len(shown.pixels)
        count = len(self.prompts.labels)
        maps, errors = batches.layout.grid(results.values), results.errors
        weights = self.weights if fresh and shown.model is self.model else ""
        findings = self._findings(shown, batches, results, weights)
        certificates = Certificates(findings.certify, len(maps), count)
        return Explanation(
            maps=maps.float(),
            errors=None if errors is None else batches.layout.grid(errors)[:, :count].float(),
            scores=results.untouched[:, :count].float(),
            explained_scores=results.explained[:, :count].float(),
            certificate=certificates.worst,
            certificates=certificates,
            record=self.record(self.prompts, shown),
            photos=shown.photos,
            views=shown.views,
        )

    def _measure(self, batches: ImageBatches) -> Measure | None:
        """Return what measures how maps follow their prompts; None without a certificate."""
        if not self.certifies:
            return None

        def measure(values: Tensor) -> PromptTracking:
            known = following.declared(self.prompts, self.factors, "image")
            maps = batches.layout.grid(values).flatten(2)
            return following.measured(
                known, maps, self.prompts, self.nulls, self.score, self.why_no_nulls
            )

        return measure

    def _findings(
        self, shown: ImageInputs, batches: ImageBatches, results: BatchResults, weights: str
    ) -> Findings:
        prompts, names = self.prompts, (names_of(shown), self.prompts.labels)
        tracking, drift = following.declared(prompts, self.factors, "image"), ()
        if self.certifies:
            tracking = results.follows()
            drift = _drift(self.model, shown, batches, self.batch_size)

        def check_input(batch_size: int) -> InputDifferences:
            reported = results.untouched[:, : len(prompts.labels)]
            return self.input_check(shown, reported, batch_size, self.sample(batches))

        return self.findings(shown.model, names, results, tracking, check_input, drift, weights)


def names_of(shown: ImageInputs) -> list[str]:
    """Return what the images are called: where they came from, else by number."""
    return [photo.source for photo in shown.photos] or [
        f"image {n}" for n in range(len(shown.pixels))
    ]


def _drift(
    native: Model, shown: ImageInputs, batches: ImageBatches, batch_size: int
) -> tuple[str, ...]:
    """Warn of how far the scores at this input size are from those at the model's own."""
    if shown.model is native:
        return ()
    size, count, drift = native.image.preprocess, len(batches.prompts.labels), 0.0
    step = 1 if size.flexible else batch_size
    for start in range(0, len(shown.pixels), step):
        pixels = shown.pixels[start : start + step]
        photos = shown.photos[start : start + step]
        if photos:
            there = torch.stack([size(photo.image) for photo in photos])
        else:
            there = torch.nn.functional.interpolate(
                pixels, (size.height, size.width), mode="bicubic", antialias=True
            )
        with torch.no_grad():
            here_scores, there_scores = (
                batches.compare(model.image.encode(sized).to(batches.prompts.embeddings.dtype))
                for model, sized in ((batches.model, pixels), (native, there.to(pixels)))
            )
        drift = max(drift, float((here_scores - there_scores)[:, :count].abs().max()))
    height, width = shown.pixels.shape[-2:]
    own = "its own" if size.flexible else f"{size.height} x {size.width}"
    return (
        f"at {height} x {width} instead of {own} pixels the scores drift by "
        f"up to {drift:.3g}: position embeddings were interpolated",
    )
