"""One question asked of pictures or prompts: chunks run, put together and certified."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import checking, methods, scores
from heatproof.certificate import Certificate
from heatproof.engine import certify as proof
from heatproof.engine import following, inputs
from heatproof.engine.batches import ImageBatches
from heatproof.engine.forward import Attribution, Reader, untouched_scores
from heatproof.engine.input_check import InputCheck
from heatproof.engine.inputs import ImageInputs, ImageSize, PromptInput, Prompts
from heatproof.engine.memory import Budget, fitted
from heatproof.errors import InputError, PromptError, ReadingError
from heatproof.explanation import Explanation, Record
from heatproof.methods.base import Method
from heatproof.methods.pass_context import Batch, Side
from heatproof.models.model import Model
from heatproof.models.towers import TokenLayout
from heatproof.user_code import method_of

Progress = Callable[[int, int], None]

# Pictures together. More of them leave a processor's caches: ViT-B/16 takes 120 ms a picture with 4
# or 8 together, 126 with 16, 143 with 32.
ON_PROCESSOR = 8
ON_DEVICE = 32


def default_batch_size(model: Model, batch_size: int | None) -> int:
    """How many pictures go through the model together where the user does not say.

    Raises:
        InputError: less than one.
    """
    if batch_size is None:
        return ON_PROCESSOR if model.device.type == "cpu" else ON_DEVICE
    return checking.whole("batch_size", batch_size, least=1)


def resolve_method(
    model: Model,
    method: str | Method | Callable[[Any, str], Any],
    score: str | scores.Score | None,
    side: Side,
) -> tuple[Method, scores.Score]:
    chosen = method_of(methods.method_of(method), model)
    if side not in chosen.card.sides:
        raise InputError(
            f"method {chosen.card.name} explains the {chosen.card.sides[0]} side alone"
        )
    return chosen, scores.score_of(scores.default(model) if score is None else score)


@dataclass
class Question:
    """What is asked of pictures, whichever they are.

    `fit` is what fits the memory, `count` says how many pictures were answered: both go on from one
    lot of pictures to the next.
    """

    model: Model
    given: PromptInput
    method: Method
    score: scores.Score
    image_size: ImageSize
    certify: bool
    batch_size: int
    memory: int | str | None
    seed: int
    fit: Budget | None = None
    count: int = 0
    prompts: Prompts = field(init=False)
    nulls: Prompts | None = field(init=False, default=None)
    unmeasured: str = field(init=False, default="")
    input_check: InputCheck = field(init=False)

    def __post_init__(self) -> None:
        """Prompts and null prompts are embedded here, once."""
        self.certify = self.certify and not self.method.foreign
        self.prompts = inputs.prompts(self.model, self.given, self.memory)
        self.input_check = InputCheck(self.given, self.prompts, self.score)
        self.score.check(self.model, len(self.prompts.labels))
        if self.certify:
            self.nulls, self.unmeasured = _null_prompts(self.model)

    @torch.inference_mode(False)
    def answered(self, shown: ImageInputs, progress: Progress | None) -> Explanation:
        job = ImageBatches(shown, self.prompts, self.score, self.nulls, self.count)
        sites = shown.model.attention_layers("image", shown.pixels.shape[-2:])
        check_layout(job.layout, sites[-1].keys)
        reader = Reader(
            model=shown.model,
            method=self.method,
            layers=sites,
            seed=self.seed,
            evidence=self.certify,
        )
        one = reader.attribute
        if self.fit is None:
            self.fit = fitted(shown.model, job.chunks, one, self.memory, self.batch_size)
        gathered = gather(one, job.chunks, self.fit, self.certify, progress)
        self.count += len(shown.pixels)
        layout, labels = job.layout, self.prompts.labels
        maps = layout.grid(gathered.values[:, : len(labels)]).float()
        own, explained = (
            scores[:, : len(labels)].float() for scores in (gathered.untouched, gathered.explained)
        )
        certificate = self._certificate(shown, job, gathered)
        notices = (*shown.notices, *self.prompts.notices)
        record = record_of(
            self.model, self.method, self.score, self.prompts, self.seed, notices, self.image_size
        )
        return Explanation(maps, own, explained, certificate, record, shown.photos, shown.views)

    def _certificate(
        self, shown: ImageInputs, job: ImageBatches, gathered: "BatchResults"
    ) -> Certificate:
        factors = self.method.factors("image")
        if not self.certify:
            known = following.declared(self.prompts, factors, "image")
            return proof.unchecked(shown.model, self.method, "image", known)
        count = len(self.prompts.labels)
        values = job.layout.grid(gathered.values).flatten(2)
        assert self.fit is not None
        reported = gathered.untouched[:, :count]
        return proof.certify(
            shown.model,
            self.method,
            "image",
            (names_of(shown), self.prompts.labels),
            gathered.evidence(count),
            following.measured(
                values, self.prompts, self.nulls, factors, self.score, self.unmeasured
            ),
            _drift(self.model, shown, job, self.batch_size),
            self.seed,
            (self.input_check(shown, reported, self.fit.items),),
        )


# --- running chunks and putting them together ------------------------------------------------


class BatchResults:
    """The outcomes of all chunks, side by side, on the CPU."""

    def __init__(self) -> None:
        self.outcomes: list[Attribution] = []
        self.own: list[Tensor] = []
        self.readout: list[int | None] = []
        self.content = slice(0)

    def add(self, chunk: Batch, outcome: Attribution, certify: bool) -> None:
        self.outcomes.append(outcome)
        # A certificate compares with a pass of its own; without one, the pass that was read will
        # do, if nothing was changed in it.
        own = None if certify else outcome.untouched
        self.own.append((untouched_scores(chunk) if own is None else own).cpu())
        if certify:
            self.content = chunk.content
            items = len(outcome.scores)
            rows = [None] * items if chunk.readout is None else chunk.readout.tolist()
            self.readout.extend(rows)

    @cached_property  # asked for when all are there
    def values(self) -> Float[Tensor, "item target token"]:
        return torch.cat([outcome.values.cpu() for outcome in self.outcomes])

    @property
    def untouched(self) -> Float[Tensor, "item target"]:
        """The model's own scores."""
        return torch.cat(self.own)

    @property
    def explained(self) -> Float[Tensor, "item target"]:
        """The scores of the pass that was explained."""
        return torch.cat([outcome.scores.cpu() for outcome in self.outcomes])

    def evidence(self, targets: int) -> proof.Evidence:
        values, first = self.values[:, :targets], self.outcomes[0]
        totals = [o.total.cpu() for o in self.outcomes if o.total is not None]
        rows = [o.live_rows.cpu() for o in self.outcomes if o.live_rows is not None]
        return proof.Evidence(
            self.untouched[:, :targets],
            self.explained[:, :targets],
            values.sum(-1),
            torch.cat(totals)[:, :targets] if totals else None,
            torch.cat(rows),
            self.readout,
            self.content,
            {
                path: any(o.has_gradient.get(path, False) for o in self.outcomes)
                for path in first.has_gradient
            },
            bool(values.isfinite().all()),
        )


def gather(
    one: Callable[[Batch], Attribution],
    chunks: Callable[[int], list[Batch]],
    fit: Budget,
    certify: bool,
    progress: Progress | None,
) -> BatchResults:
    parts = [replace(chunk, gradient_bytes=fit.gradients) for chunk in chunks(fit.items)]
    gathered = BatchResults()
    for number, chunk in enumerate(parts):
        gathered.add(chunk, one(chunk), certify)
        if progress is not None:
            progress(number + 1, len(parts))
    return gathered


def check_layout(layout: TokenLayout, keys: int) -> None:
    if layout.tokens != keys:
        others = len(layout.prefix) + len(layout.suffix)
        raise ReadingError(
            f"got {keys} key tokens for a {layout.rows} x {layout.cols} grid with {others} other "
            "token(s); the model's description is wrong"
        )


# --- pieces -----------------------------------------------------------------------------------


def names_of(shown: ImageInputs) -> list[str]:
    """What the pictures are called: where they came from, else by number."""
    return [photo.source for photo in shown.photos] or [
        f"image {n}" for n in range(len(shown.pixels))
    ]


def _null_prompts(model: Model) -> tuple[Prompts | None, str]:
    """The null prompts and the references beside them, or why there are none."""
    if model.text is None:
        return None, "a classifier has no null prompts"
    try:
        texts = inputs.embed(model, list(proof.NULL_PROMPTS.values()))
    except PromptError as error:
        return None, f"null prompts were not measured: {error}"
    beside = following.references(texts.embeddings[-1])
    labels = (*texts.labels, "the opposite of that", "a random direction", "its opposite")
    return Prompts(labels, torch.cat([texts.embeddings, beside])), ""


def _drift(
    native: Model, shown: ImageInputs, job: ImageBatches, batch_size: int
) -> tuple[str, ...]:
    """How far the scores at this input size are from those at the model's own."""
    if shown.model is native:
        return ()
    size, count, drift = native.image.preprocess, len(job.asked.labels), 0.0
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
                job.compare(model.image.encode(each).to(job.asked.embeddings.dtype))
                for model, each in ((job.model, pixels), (native, there.to(pixels)))
            )
        drift = max(drift, float((here_scores - there_scores)[:, :count].abs().max()))
    height, width = shown.pixels.shape[-2:]
    own = "its own" if size.flexible else f"{size.height} x {size.width}"
    return (
        f"at {height} x {width} instead of {own} pixels the scores drift by "
        f"up to {drift:.3g}: position embeddings were interpolated",
    )


def record_of(
    model: Model,
    method: Method,
    score: scores.Score,
    asked: Prompts,
    seed: int,
    notices: tuple[str, ...],
    size: ImageSize,
) -> Record:
    return Record(
        model.spec,
        method.card.name,
        method.settings(),
        score.name,
        asked.labels,
        seed,
        (*model.notices, *notices),
        "x".join(map(str, size)) if isinstance(size, tuple) else str(size or "native"),
        method.card.signs,
    )
