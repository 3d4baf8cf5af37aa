"""`explain` what a model saw in pictures, `explain_words` what it read in prompts."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import certify as proof
from heatproof import inputs, methods, scores
from heatproof.budget import fitted
from heatproof.certificate import Certificate
from heatproof.errors import InputError, PromptError, ReadingError
from heatproof.explanation import Explanation, Record, Word, WordExplanation
from heatproof.inputs import Images, ImageSize, Pictures, PromptInput, Prompts
from heatproof.jacobians import Jacobian, Scale
from heatproof.jobs import ImageJob, TextJob
from heatproof.ledger import encoded_together
from heatproof.methods.base import Method, Side
from heatproof.models.model import Layout, Model, Piece
from heatproof.passes import (
    Chunk,
    Outcome,
    coordinates,
    coordinates_of,
    is_linear,
    run,
    sites_of,
    untouched_scores,
)

Progress = Callable[[int, int], None]


def explain(
    model: Model,
    images: Images,
    prompts: PromptInput,
    *,
    method: str | Method | Callable[[Any, str], Any] = "attention-x-gradient",
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int = 16,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Explain each image's score with each prompt, from the model's own forward pass.

    Args:
        images: path | PIL image | list of them | preprocessed tensor (image, 3, height, width).
        prompts: texts | token ids (prompt, context) | embeddings (prompt, dim); for a classifier
            class names or indices.
        method: a catalogue name, a method object with its switches set, or any callable
            (PIL image, prompt) -> map, whose maps no certificate can vouch for (see `Foreign`).
        score: what is explained; by default the cosine, or a classifier's class logit.
        image_size: (height, width), "keep" (the pictures' own aspect ratio) or "native".
        certify: compare with the untouched model and with null prompts. Costs one inference pass
            and three more gradients; without it the certificate holds no checks.
        batch_size: how many images go through the model together, at most.
        memory: what explaining may take beside the model, the images and the maps ("2GiB", or
            bytes): as many images and prompts go together as fit.

    Returns:
        Signed, unnormalised maps (image, prompt, row, col) in float32 with their certificate.

    Raises:
        InputError: something handed in is at fault. ReadingError: the model cannot be read.
    """
    chosen, target = _chosen(model, method, score, "image")
    certify = certify and not chosen.foreign
    shown = inputs.pictures(model, images, image_size)
    asked = inputs.prompts(model, prompts, memory)
    target.check(model, len(asked.labels))
    nulls, unmeasured = _null_prompts(model) if certify else (None, ())
    job = ImageJob(shown, asked, target, nulls)
    sites = sites_of(shown.model, "image", lambda: shown.model.image.encode(shown.pixels[:1]))
    _check_layout(job.layout, sites[-1].keys)
    gathered = _gather(
        job.model, chosen, sites, job.chunks, certify, seed, progress, batch_size, memory
    )
    layout, count = job.layout, len(asked.labels)
    maps = layout.grid(gathered.values[:, :count]).float()
    certificate = Certificate((), *_factors(chosen, "image"))
    if certify:
        names = _names(shown)
        changes = _null_changes(layout.grid(gathered.values).flatten(2), count, job.nulls)
        warnings = (*_drift(model, shown, job), *unmeasured)
        certificate = proof.certify(
            shown.model,
            chosen,
            "image",
            (names, asked.labels),
            gathered.evidence(count),
            changes,
            warnings,
            seed,
        )
    notices = (*shown.notices, *asked.notices)
    record = _record(model, chosen, target, asked, seed, notices, image_size)
    return Explanation(
        maps, gathered.scores[:, :count].float(), certificate, record, shown.photos, shown.views
    )


def jacobian(
    model: Model,
    images: Images,
    *,
    method: str | Method = "attention-x-gradient",
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int = 16,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Jacobian:
    """Read images once, for prompts that come later: see `Jacobian`.

    Arguments are those of `explain`; the method must be linear in the score's gradient.

    Raises:
        InputError: the method is not, or something handed in is at fault.
    """
    chosen, target = _chosen(model, method, None, "image")
    if not is_linear(chosen):
        raise InputError(
            f"method {chosen.card.name} is not linear in the score's gradient with these settings, "
            "so that no later prompt can be mapped; try attention-x-gradient, or explain"
        )
    shown = inputs.pictures(model, images, image_size)
    none = Prompts((), torch.zeros(0, 0))
    job = ImageJob(shown, none, target, None)
    sites = sites_of(shown.model, "image", lambda: shown.model.image.encode(shown.pixels[:1]))
    _check_layout(job.layout, sites[-1].keys)

    def chunks(size: int) -> list[Chunk]:
        return [replace(chunk, compare=coordinates_of) for chunk in job.chunks(size)]

    gathered = _gather(
        job.model,
        chosen,
        sites,
        chunks,
        certify,
        seed,
        progress,
        batch_size,
        memory,
        by=coordinates,
    )
    maps = job.layout.grid(gathered.values)
    certificate = Certificate((), *_factors(chosen, "image"))
    if certify:
        names = _names(shown)
        count = maps.shape[1]
        labels = [f"coordinate {n}" for n in range(count)]
        certificate = proof.certify(
            shown.model, chosen, "image", (names, labels), gathered.evidence(count), {}, (), seed
        )
    record = _record(model, chosen, target, none, seed, shown.notices, image_size)
    scale = Scale(model.classes, model.logit_scale, model.logit_bias)
    return Jacobian(maps.float(), gathered.scores.float(), scale, record, certificate, model)


def explain_words(
    model: Model,
    images: Images,
    prompts: PromptInput,
    *,
    method: str | Method = "attention-x-gradient",
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int = 16,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> WordExplanation:
    """Explain each score by the prompt's words: one signed value a token, and merged to words.

    Arguments are those of `explain`. BOS, end-of-text and padding carry no words and are left out
    of the values; what the causal mask hides from the readout gets none.
    """
    if model.text is None:
        raise InputError(f"{model.spec} is a classifier and reads no words; try without words")
    chosen, target = _chosen(model, method, score, "text")
    shown = inputs.pictures(model, images, image_size)
    asked = inputs.prompts(model, prompts, memory)
    target.check(model, len(asked.labels))
    if asked.tokens is None:
        raise InputError("embeddings have no words; pass the prompts as texts or token ids")
    see, pixels = shown.model.image.encode, shown.pixels
    together = encoded_together(shown.model, lambda: see(pixels[:1]), memory, batch_size)
    job = TextJob(shown, asked, target, together)
    first = inputs.select(asked.tokens, 0, 1)
    encode = model.text.encode
    sites = sites_of(model, "text", lambda: encode(first))
    gathered = _gather(
        model, chosen, sites, job.chunks, certify, seed, progress, batch_size, memory
    )
    certificate = Certificate((), *_factors(chosen, "text"))
    if certify:
        names = _names(shown)
        certificate = proof.certify(
            model,
            chosen,
            "text",
            (asked.labels, names),
            gathered.evidence(len(job.images)),
            {},
            (),
            seed,
        )
    notices = (*shown.notices, *asked.notices)
    record = _record(model, chosen, target, asked, seed, notices, image_size)
    return _word_explanation(gathered, asked, certificate, record, shown)


# --- running chunks and putting them together ------------------------------------------------


class _Gathered:
    """The outcomes of all chunks, side by side, on the CPU."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.outcomes: list[Outcome] = []
        self.untouched: list[Tensor] = []
        self.readout: list[int | None] = []
        self.content = slice(0)

    def add(self, chunk: Chunk, outcome: Outcome, certify: bool) -> None:
        self.outcomes.append(outcome)
        if certify:
            self.untouched.append(untouched_scores(chunk).cpu())
            self.content = chunk.content
            items = len(outcome.scores)
            rows = [None] * items if chunk.readout is None else chunk.readout.tolist()
            self.readout.extend(rows)

    @property
    def values(self) -> Float[Tensor, "item target token"]:
        return torch.cat([outcome.values.cpu() for outcome in self.outcomes])

    @property
    def scores(self) -> Float[Tensor, "item target"]:
        return torch.cat([outcome.scores.cpu() for outcome in self.outcomes])

    def evidence(self, targets: int) -> proof.Evidence:
        values, first = self.values[:, :targets], self.outcomes[0]
        totals = [o.total.cpu() for o in self.outcomes if o.total is not None]
        rows = [o.live_rows.cpu() for o in self.outcomes if o.live_rows is not None]
        return proof.Evidence(
            torch.cat(self.untouched)[:, :targets],
            self.scores[:, :targets],
            values.sum(-1),
            torch.cat(totals)[:, :targets] if totals else None,
            torch.cat(rows),
            self.readout,
            self.content,
            {
                path: any(o.reached.get(path, False) for o in self.outcomes)
                for path in first.reached
            },
            bool(values.isfinite().all()),
        )


def _gather(
    model: Model,
    method: Method,
    sites: Any,
    chunks: Callable[[int], list[Chunk]],
    certify: bool,
    seed: int,
    progress: Progress | None,
    batch_size: int,
    memory: int | str | None,
    by: Callable[..., Outcome] = run,
) -> _Gathered:
    one = partial(by, model, method, sites, seed=seed, evidence=certify)
    fit = fitted(model, chunks, one, memory, batch_size)
    parts = [replace(chunk, memory=fit.gradients) for chunk in chunks(fit.items)]
    gathered = _Gathered(model)
    for number, chunk in enumerate(parts):
        gathered.add(chunk, one(chunk), certify)
        if progress is not None:
            progress(number + 1, len(parts))
    return gathered


def _check_layout(layout: Layout, keys: int) -> None:
    if layout.tokens != keys:
        others = len(layout.prefix) + len(layout.suffix)
        raise ReadingError(
            f"got {keys} key tokens for a {layout.rows} x {layout.cols} grid with {others} other "
            "token(s); the model's description is wrong"
        )


# --- pieces -----------------------------------------------------------------------------------


def _chosen(
    model: Model,
    method: str | Method | Callable[[Any, str], Any],
    score: str | scores.Score | None,
    side: Side,
) -> tuple[Method, scores.Score]:
    if isinstance(method, str):
        chosen = methods.create(method)
    else:
        chosen = method if isinstance(method, Method) else methods.Foreign(method)
    if side not in chosen.card.sides:
        raise InputError(
            f"method {chosen.card.name} explains the {chosen.card.sides[0]} side alone"
        )
    score = scores.default(model) if score is None else score
    return chosen, scores.create(score) if isinstance(score, str) else score


def _factors(method: Method, side: Side) -> tuple[tuple[str, ...], tuple[str, ...]]:
    factors = method.factors(side)
    return factors.native, factors.substituted


def _names(shown: Pictures) -> list[str]:
    """What the pictures are called: where they came from, else by number."""
    return [photo.source for photo in shown.photos] or [
        f"image {n}" for n in range(len(shown.pixels))
    ]


def _null_prompts(model: Model) -> tuple[Prompts | None, tuple[str, ...]]:
    """The null prompts, or why there are none."""
    if model.text is None:
        return None, ()
    try:
        return inputs.embed(model, list(proof.NULL_PROMPTS.values())), ()
    except PromptError as error:
        return None, (f"null prompts were not measured: {error}",)


def _null_changes(
    values: Float[Tensor, "image target token"], count: int, nulls: Prompts | None
) -> dict[str, float]:
    if nulls is None:
        return {}
    return {
        kind: float(proof.change(values[:, :count], values[:, count + n]).mean())
        for n, kind in enumerate(proof.NULL_PROMPTS)
    }


def _drift(native: Model, shown: Pictures, job: ImageJob) -> tuple[str, ...]:
    """How far the scores at this input size are from those at the model's own."""
    if shown.model is native:
        return ()
    size = native.image.preprocess
    if shown.photos:
        pixels = torch.stack([size(photo.image) for photo in shown.photos])
        pixels = pixels.to(native.device, native.dtype)
    else:
        pixels = torch.nn.functional.interpolate(
            shown.pixels, (size.height, size.width), mode="bicubic", antialias=True
        )
    with torch.no_grad():
        here = job.compare(job.model.image.encode(job.pixels).to(job.asked.embeddings.dtype))
        there = job.compare(native.image.encode(pixels).to(job.asked.embeddings.dtype))
    count = len(job.asked.labels)
    drift = float((here - there)[:, :count].abs().max())
    height, width = shown.pixels.shape[-2:]
    return (
        f"at {height} x {width} instead of {size.height} x {size.width} pixels the scores drift by "
        f"up to {drift:.3g}: position embeddings were interpolated",
    )


def _record(
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
        "x".join(map(str, size)) if isinstance(size, tuple) else size or "native",
    )


# --- words ------------------------------------------------------------------------------------


def _word_explanation(
    gathered: _Gathered,
    asked: Prompts,
    certificate: Certificate,
    record: Record,
    shown: Pictures,
) -> WordExplanation:
    assert asked.tokens is not None
    values = gathered.values.float()
    pieces, texts = asked.tokens.pieces, asked.tokens.texts
    positions = [torch.tensor([p.position for p in each], dtype=torch.long) for each in pieces]
    maps = [
        [values[prompt, image, positions[prompt]] for prompt in range(len(texts))]
        for image in range(values.shape[1])
    ]
    words = [
        [tuple(merge(texts[n], pieces[n], each)) for n, each in enumerate(row)] for row in maps
    ]
    return WordExplanation(
        maps,
        words,
        [tuple(piece.text for piece in each) for each in pieces],
        gathered.scores.T.float(),
        certificate,
        record,
        shown.photos,
    )


def merge(text: str, pieces: Sequence[Piece], values: Float[Tensor, " token"]) -> Iterator[Word]:
    """Words of `text` (runs of letters, digits and apostrophes; other marks stand alone), each
    with the sum over the tokens that begin in it."""
    for found in re.finditer(r"[\w'\u2019]+|[^\w\s]", text):
        inside = [
            float(value)
            for piece, value in zip(pieces, values, strict=True)
            if found.start() <= piece.start < found.end()
        ]
        if inside:
            yield Word(found.group(), found.start(), found.end(), sum(inside))
