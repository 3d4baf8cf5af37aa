"""`explain` what a model saw in pictures, `explain_words` what it read in prompts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import scores
from heatproof.certificate import Certificate
from heatproof.engine import arguments, following, inputs
from heatproof.engine import certify as proof
from heatproof.engine.arguments import ModelInput
from heatproof.engine.batches import ImageBatches, TextBatches
from heatproof.engine.forward import (
    Reader,
    coordinates_of,
    is_linear,
)
from heatproof.engine.input_check import InputCheck, coordinates_check
from heatproof.engine.inputs import ImageInputs, Images, ImageSize, PromptInput, Prompts
from heatproof.engine.jacobians import Jacobian, Scale
from heatproof.engine.ledger import encoded_together
from heatproof.engine.memory import fitted
from heatproof.engine.pipeline import (
    BatchResults,
    Progress,
    Question,
    check_layout,
    default_batch_size,
    gather,
    names_of,
    record_of,
    resolve_method,
)
from heatproof.errors import InputError
from heatproof.explanation import Explanation, Record, Word, WordExplanation
from heatproof.methods.base import Method
from heatproof.methods.pass_context import Batch
from heatproof.models.towers import Piece
from heatproof.words import word_tokens


@torch.inference_mode(False)
def explain(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    method: str | Method | Callable[[Any, str], Any] = "attention-x-gradient",
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Explain each image's score with each prompt, from the model's own forward pass.

    Args:
        model: a model of `load` or `wrap`, or what these take (a name such as "scenes").
        images: path | PIL image | uint8 array (height, width, 3) | list of them | preprocessed
            tensor (image, 3, height, width).
        prompts: texts | token ids (prompt, context) | embeddings (prompt, dim); for a classifier
            class names or indices.
        method: a catalogue name, a method object with its options set, or any callable
            (PIL image, prompt) -> map, whose maps no certificate can vouch for (see `Foreign`).
        score: what is explained; by default the cosine, or a classifier's class logit.
        image_size: (height, width), one number for both, "keep" (the pictures' own aspect ratio)
            or "native".
        certify: compare with the untouched model and with null prompts. Costs one inference pass
            and six more gradients; without it nothing is established (`holds` is None).
        batch_size: how many images go through the model together, at most; by default as many as
            suit the device (`pipeline.default_batch_size`).
        memory: what explaining may take beside the model, the images and the maps ("2GiB", or
            bytes): as many images and prompts go together as fit.

    Returns:
        Signed, unnormalised maps (image, prompt, row, col) in float32 with their certificate, and
        the untouched model's scores.

    Raises:
        InputError: something handed in is at fault. ReadingError: the model cannot be read.
    """
    model = arguments.model_of(model)
    image_size = arguments.check_options(
        certify=certify, batch_size=batch_size, memory=memory, seed=seed, progress=progress,
        image_size=image_size,
    )  # fmt: skip
    prompts = arguments.prompts_of(model, prompts)
    chosen, target = resolve_method(model, method, score, "image")
    shown = inputs.pictures(model, images, image_size)
    size = default_batch_size(model, batch_size)
    question = Question(model, prompts, chosen, target, image_size, certify, size, memory, seed)
    return question.answered(shown, progress)


@torch.inference_mode(False)
def jacobian(
    model: ModelInput,
    images: Images,
    *,
    method: str | Method = "attention-x-gradient",
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Jacobian:
    """Read images once, for prompts that come later: see `Jacobian`.

    Arguments are those of `explain`; the method must be linear in the score's gradient.

    Raises:
        InputError: the method is not, or something handed in is at fault.
    """
    model = arguments.model_of(model)
    image_size = arguments.check_options(
        certify=certify, batch_size=batch_size, memory=memory, seed=seed, progress=progress,
        image_size=image_size,
    )  # fmt: skip
    chosen, target = resolve_method(model, method, None, "image")
    if not is_linear(chosen):
        raise InputError(
            f"method {chosen.card.name} is not linear in the score's gradient with these settings, "
            "so that no later prompt can be mapped; try attention-x-gradient, or explain"
        )
    shown = inputs.pictures(model, images, image_size)
    none = Prompts((), torch.zeros(0, 0))
    job = ImageBatches(shown, none, target, None)
    sites = shown.model.attention_layers("image", shown.pixels.shape[-2:])
    check_layout(job.layout, sites[-1].keys)

    def chunks(size: int) -> list[Batch]:
        return [replace(chunk, compare=coordinates_of) for chunk in job.chunks(size)]

    reader = Reader(model=job.model, method=chosen, layers=sites, seed=seed, evidence=certify)
    one = reader.attribute_coordinates
    fit = fitted(job.model, chunks, one, memory, default_batch_size(model, batch_size))
    gathered = gather(one, chunks, fit, certify, progress)
    maps = job.layout.grid(gathered.values)
    follows = following.declared(none, chosen.factors("image"), "image")
    certificate = proof.unchecked(shown.model, chosen, "image", follows)
    if certify:
        names, count = names_of(shown), maps.shape[1]
        labels = [f"coordinate {n}" for n in range(count)]
        certificate = proof.certify(
            shown.model,
            chosen,
            "image",
            (names, labels),
            gathered.evidence(count),
            follows,
            (),
            seed,
            (coordinates_check(shown, gathered.untouched, fit.items),),
        )
    record = record_of(model, chosen, target, none, seed, shown.notices, image_size)
    scale = Scale(model.classes, model.logit_scale, model.logit_bias)
    own, explained = gathered.untouched.float(), gathered.explained.float()
    return Jacobian(maps.float(), own, explained, scale, record, certificate, model)


@torch.inference_mode(False)
def explain_words(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    method: str | Method = "attention-x-gradient",
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: bool = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> WordExplanation:
    """Explain each score by the prompt's words: one signed value a token, and merged to words.

    Arguments are those of `explain`. BOS, end-of-text and padding carry no words and are left out
    of the values; what the causal mask hides from the readout gets none.
    """
    model = arguments.model_of(model)
    image_size = arguments.check_options(
        certify=certify, batch_size=batch_size, memory=memory, seed=seed, progress=progress,
        image_size=image_size,
    )  # fmt: skip
    prompts = arguments.prompts_of(model, prompts)
    if model.text is None:
        raise InputError(f"{model.spec} has no text tower and reads no words; try without words")
    chosen, target = resolve_method(model, method, score, "text")
    shown = inputs.pictures(model, images, image_size)
    asked = inputs.prompts(model, prompts, memory)
    target.check(model, len(asked.labels))
    if asked.tokens is None:
        raise InputError("embeddings have no words; pass the prompts as texts or token ids")
    see, pixels = shown.model.image.encode, shown.pixels
    size = default_batch_size(model, batch_size)
    fitting = encoded_together(shown.model, lambda: see(pixels[:1]), memory, size)
    job = TextBatches(shown, asked, target, fitting)
    sites = model.attention_layers("text", asked.tokens.ids.shape[-1:])
    one = Reader(model=model, method=chosen, layers=sites, seed=seed, evidence=certify).attribute
    fit = fitted(model, job.chunks, one, memory, size)
    gathered = gather(one, job.chunks, fit, certify, progress)
    follows = following.declared(asked, chosen.factors("text"), "text")
    certificate = proof.unchecked(shown.model, chosen, "text", follows)
    if certify:
        names = names_of(shown)
        certificate = proof.certify(
            model,
            chosen,
            "text",
            (asked.labels, names),
            gathered.evidence(len(job.images)),
            follows,
            (),
            seed,
            (InputCheck(prompts, asked, target)(shown, gathered.untouched.T, size),),
        )
    notices = (*shown.notices, *asked.notices)
    record = record_of(model, chosen, target, asked, seed, notices, image_size)
    return _word_explanation(gathered, asked, certificate, record, shown)


# --- words ------------------------------------------------------------------------------------


def _word_explanation(
    gathered: BatchResults,
    asked: Prompts,
    certificate: Certificate,
    record: Record,
    shown: ImageInputs,
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
        gathered.untouched.T.float(),
        gathered.explained.T.float(),
        certificate,
        record,
        shown.photos,
    )


def merge(text: str, pieces: Sequence[Piece], values: Float[Tensor, " token"]) -> Iterator[Word]:
    """Words of `text`, each with the sum over its tokens."""
    for start, end, tokens in word_tokens(text, pieces):
        yield Word(text[start:end], start, end, float(values[tokens].sum()))
