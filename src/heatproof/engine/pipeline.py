"""The steps of every explanation: prepare, batches, forward, attribute, certify, result.

`docs/internals/explain.md` follows one call through them.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof import checking, methods, scores, user_code
from heatproof.certificate import HANDED_IN, NO_CHECK, Certificates, Sample
from heatproof.engine import following, inputs
from heatproof.engine.batches import ImageBatches, TowerBatches
from heatproof.engine.certify import Evidence, Findings, facts, promise_of
from heatproof.engine.following import NULL_PROMPTS, Tracking
from heatproof.engine.forward import Attribution, Reader, untouched_scores
from heatproof.engine.input_check import InputCheck, InputComparison
from heatproof.engine.inputs import ImageInputs, ImageSize, PromptInput, Prompts
from heatproof.engine.memory import BatchPlan, plan_batches
from heatproof.errors import InputError, PromptError
from heatproof.explanation import Explanation
from heatproof.image_maps import Record
from heatproof.methods.base import Method
from heatproof.methods.pass_context import Batch, Side
from heatproof.models.model import Model

Progress = Callable[[int, int], None]
MethodInput = str | Method | Callable[[Any, str], Any]

# Images together where the user sets no number. More of them leave a processor's caches: ViT-B/16
# takes 120 ms per image with 4 or 8 together, 126 with 16, 143 with 32.
ON_PROCESSOR = 8
ON_DEVICE = 32


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How to explain: the keyword arguments that the four doors share (see `explain`)."""

    method: MethodInput = "attention-x-gradient"
    score: str | scores.Score | None = None
    image_size: ImageSize = None
    certify: bool = True
    batch_size: int | None = None
    memory: int | str | None = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Check all but `method` and `score`, which depend on the model.

        Raises:
            InputError: a value is of another kind, or out of range.
        """
        checking.flag("certify", self.certify)
        if self.batch_size is not None:
            checking.whole("batch_size", self.batch_size, least=1)
        checking.memory(self.memory)
        checking.seed(self.seed)
        checking.progress(self.progress, 0, 1)
        object.__setattr__(self, "image_size", checking.image_size(self.image_size))


def default_batch_size(model: Model) -> int:
    """Return how many inputs go through the model together where the user sets no number."""
    return ON_PROCESSOR if model.device.type == "cpu" else ON_DEVICE


def resolve_method(
    model: Model, method: MethodInput, score: str | scores.Score | None, side: Side
) -> tuple[Method, scores.Score]:
    """Return the method and the score that are meant.

    Raises:
        UnknownName: no method or score is called so. InputError: the method does not explain this
            side, or it is code that cannot be taken as a method.
    """
    chosen = methods.method_of(method)
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
        self.method, self.score = resolve_method(model, options.method, options.score, side)
        self.factors = self.method.factors(side)
        # Nothing is known of the pass behind code of the user's own.
        self.certifies = options.certify and not self.method.foreign
        self.batch_size = options.batch_size or default_batch_size(model)
        self.plan: BatchPlan | None = None

    def attribute(self, batches: TowerBatches, progress: Progress | None) -> "BatchResults":
        """Run all batches through the model and the method.

        Raises:
            ReadingError: the model cannot be read. InputError: the memory is too small for one.
        """
        layers = batches.model.attention_layers(self.side, batches.input_size)
        if isinstance(batches, ImageBatches):
            batches.check_keys(layers[-1].keys)
        reader = Reader(
            model=batches.model,
            method=self.method,
            layers=layers,
            seed=self.options.seed,
            evidence=self.certifies,
        )
        if self.plan is None:
            self.plan = self._plan(batches, reader)
        parts = batches.split(self.plan.items, self.plan.gradient_bytes)
        results = BatchResults(compares=self.certifies)
        for number, batch in enumerate(parts, 1):
            results.add(batch, reader.attribute(batch))
            if progress is not None:
                progress(number, len(parts))
        return results

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
        tracking: Tracking,
        check_input: Callable[[int], InputComparison],
        warnings: Sequence[str] = (),
    ) -> Findings:
        """Return what the certificates of the results are made from.

        Args:
            model: the one that was run, at the size of the inputs.
            names: what items and targets are called; null prompts, which come last, are not named.
            tracking: how the maps follow their prompts.
            check_input: compares the results with the library's own call on batches of a size.
            warnings: of the whole explanation.
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
            model=facts(model, self.side, self.options.seed),
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
            notices=(*self.model.notices, *shown.notices, *prompts.notices),
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
        self.nulls, self.why_no_nulls = _null_prompts(model) if self.certifies else (None, "")
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
    def explain(self, shown: ImageInputs, progress: Progress | None) -> Explanation:
        """Explain these images; the next ones count on from them."""
        batches = ImageBatches(shown, self.prompts, self.score, self.nulls, self.done)
        results = self.attribute(batches, progress)
        self.done += len(shown.pixels)
        count = len(self.prompts.labels)
        # Of the user's prompts and of the null prompts behind them, which the certificate needs.
        maps, errors = batches.layout.grid(results.values), results.errors
        findings = self._findings(shown, batches, results, maps)
        certificates = Certificates(findings.certify, len(maps), count)
        return Explanation(
            maps=maps[:, :count].float(),
            errors=None if errors is None else batches.layout.grid(errors)[:, :count].float(),
            scores=results.untouched[:, :count].float(),
            explained_scores=results.explained[:, :count].float(),
            certificate=certificates.worst,
            certificates=certificates,
            record=self.record(self.prompts, shown),
            photos=shown.photos,
            views=shown.views,
        )

    def _findings(
        self, shown: ImageInputs, batches: ImageBatches, results: "BatchResults", maps: Tensor
    ) -> Findings:
        prompts, names = self.prompts, (names_of(shown), self.prompts.labels)
        tracking, drift = following.declared(prompts, self.factors, "image"), ()
        if self.certifies:
            tracking = following.measured(
                tracking, maps.flatten(2), prompts, self.nulls, self.score, self.why_no_nulls
            )
            drift = _drift(self.model, shown, batches, self.batch_size)

        def check_input(batch_size: int) -> InputComparison:
            reported = results.untouched[:, : len(prompts.labels)]
            return self.input_check(shown, reported, batch_size)

        return self.findings(shown.model, names, results, tracking, check_input, drift)


class BatchResults:
    """The attributions of all batches, side by side, on the CPU."""

    def __init__(self, compares: bool) -> None:
        """compares: whether the untouched model is run for itself, to compare with it."""
        self.compares = compares
        self.attributions: list[Attribution] = []
        self.own: list[Tensor] = []
        self.readout: list[int | None] = []
        self.content = slice(0)

    def add(self, batch: Batch, attribution: Attribution) -> None:
        """Take in one batch's results, and the untouched model's scores of it."""
        self.attributions.append(attribution)
        # A certificate compares with a pass of its own; without one, the pass that was read will
        # do, if nothing was changed in it.
        own = None if self.compares else attribution.untouched
        self.own.append((untouched_scores(batch) if own is None else own).cpu())
        if self.compares:
            self.content = batch.content
            items = len(attribution.scores)
            rows = [None] * items if batch.readout is None else batch.readout.tolist()
            self.readout.extend(rows)

    @cached_property  # asked for when all are there
    def values(self) -> Float[Tensor, "item target token"]:
        """The method's values."""
        return torch.cat([attribution.values.cpu() for attribution in self.attributions])

    @cached_property
    def errors(self) -> Float[Tensor, "item target token"] | None:
        """Standard errors of the values; None where the method has none."""
        parts = [part.errors for part in self.attributions]
        known = [part.cpu() for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None

    @cached_property
    def untouched(self) -> Float[Tensor, "item target"]:
        """The model's own scores."""
        return torch.cat(self.own)

    @cached_property
    def explained(self) -> Float[Tensor, "item target"]:
        """The scores of the pass that was explained."""
        return torch.cat([attribution.scores.cpu() for attribution in self.attributions])

    def evidence(self, side: Side, names: tuple[Sequence[str], Sequence[str]]) -> Evidence:
        """Return what a certificate needs, of the targets that are named."""
        targets, parts = len(names[1]), self.attributions
        values = self.values[:, :targets]
        totals = [part.total.cpu() for part in parts if part.total is not None]
        total = torch.cat(totals)[:, :targets] if totals else None
        rows = [part.live_rows.cpu() for part in parts if part.live_rows is not None]
        live = torch.cat(rows)
        untouched = self.untouched[:, :targets]
        paths = parts[0].has_gradient
        return Evidence(
            side=side,
            names=names,
            untouched=untouched.double().numpy(),
            explained=self.explained[:, :targets].double().numpy(),
            compared=np.ones(len(live), dtype=bool),
            sums=values.sum(-1).numpy(),
            total=None if total is None else total.numpy(),
            live_rows=live.numpy(),
            described_rows=self._described_rows(live.shape),
            has_gradient={
                path: torch.cat([part.has_gradient[path][:, :targets] for part in parts])
                .cpu()
                .numpy()
                for path in paths
            },
            finite=values.isfinite().all(-1).numpy(),
            largest_score=max(1.0, float(untouched.abs().max())),
            largest_total=1.0 if total is None else max(1.0, float(total.abs().max())),
            sample=Sample(len(live), len(live)),
        )

    def _described_rows(self, size: Sequence[int]) -> Bool[np.ndarray, "item query"]:
        rows = np.zeros(tuple(size), dtype=bool)
        for item, row in enumerate(self.readout):
            rows[item, self.content if row is None else row] = True
        return rows


def names_of(shown: ImageInputs) -> list[str]:
    """Return what the images are called: where they came from, else by number."""
    return [photo.source for photo in shown.photos] or [
        f"image {n}" for n in range(len(shown.pixels))
    ]


def _null_prompts(model: Model) -> tuple[Prompts | None, str]:
    """Return the null prompts and the references beside them, or why there are none."""
    if model.text is None:
        return None, "a classifier has no null prompts"
    try:
        texts = inputs.embed(model, list(NULL_PROMPTS.values()))
    except PromptError as error:
        return None, f"null prompts were not measured: {error}"
    beside = following.references(texts.embeddings[-1])
    labels = (*texts.labels, "the opposite of that", "a random direction", "its opposite")
    return Prompts(labels, torch.cat([texts.embeddings, beside])), ""


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
