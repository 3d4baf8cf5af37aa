"""The doors `explain`, `explain_words` and `jacobian`; `explain_each` is in `streaming`."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import scores
from heatproof.certificate import Certificates
from heatproof.engine import following, inputs
from heatproof.engine.batches import NO_PROMPTS, CoordinateBatches, TextBatches
from heatproof.engine.forward import is_linear
from heatproof.engine.input_check import InputCheck, InputDifferences, check_coordinates
from heatproof.engine.inputs import Images, ImageSize, ModelInput, PromptInput, Prompts
from heatproof.engine.jacobians import Jacobian, Scale
from heatproof.engine.memory import largest_batch
from heatproof.engine.pipeline import (
    Certify,
    ExplainOptions,
    ExplainRun,
    MethodInput,
    Pipeline,
    Progress,
    names_of,
)
from heatproof.engine.results import BatchResults
from heatproof.errors import InputError
from heatproof.explanation import Explanation, WordExplanation
from heatproof.image_maps import Word
from heatproof.methods.base import Method
from heatproof.models.towers import Piece
from heatproof.words import word_tokens


@torch.inference_mode(False)
def explain(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    method: MethodInput = None,
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: Certify = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Draw a heat map of each image for each prompt, from the model's own forward pass.

    Args:
        model: a model of `load` or `wrap`, or what these take (a name such as "scenes").
        images: path | PIL image | uint8 array (height, width, 3) | list of these | preprocessed
            tensor (image, 3, height, width).
        prompts: texts | token ids (prompt, context) | embeddings (prompt, dim); for a classifier
            class names or indices.
        method: a catalogue name, a method object with its options set, or any callable
            (PIL image, prompt) -> map, whose maps no certificate can vouch for (see `Foreign`).
            "default" (or None) and "fast" stand for the methods that a study of quality and cost
            chose; the explanation records the method itself.
        score: the score that the maps explain; by default the cosine, or a classifier's logit.
        image_size: (height, width), one number for both, "keep" (the images' own aspect ratio)
            or "native".
        certify: compare with the untouched model and with null prompts. Of more than four images,
            one in eight, drawn at random, is compared with a pass of its own; the certificate
            states the risk. "full" compares all of them, which costs one more inference pass.
            Without a certificate nothing is established (`holds` is None).
        batch_size: how many images go through the model together, at most; by default as many as
            suit the device (`pipeline.default_batch_size`).
        memory: memory limit ("2GiB", or bytes) on top of the model, the images and the maps: as
            many images and prompts go together as fit.
        seed: random seed, for methods that draw.
        progress: called with (batches done, batches in all).

    Returns:
        Signed, unnormalised maps (image, prompt, row, col) in float32 with their certificate, and
        the untouched model's scores.

    Raises:
        InputError: an argument is wrong. ReadingError: the model cannot be read.
    """
    model = inputs.model_of(model)
    options = ExplainOptions(
        method=method, score=score, image_size=image_size, certify=certify, batch_size=batch_size,
        memory=memory, seed=seed, progress=progress,
    )  # fmt: skip
    run = ExplainRun(model, prompts, options)
    shown = inputs.images(model, images, options.image_size)
    return run.explain(shown, progress, fresh=True)


@torch.inference_mode(False)
def jacobian(
    model: ModelInput,
    images: Images,
    *,
    method: str | Method = "attention-x-gradient",
    image_size: ImageSize = None,
    certify: Certify = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Jacobian:
    """Compute maps of each image's embedding once, for any later prompt: see `Jacobian`.

    Arguments are those of `explain`; the method must be linear in the score's gradient.

    Raises:
        InputError: the method is not, or an argument is wrong.
    """
    model = inputs.model_of(model)
    options = ExplainOptions(
        method=method, image_size=image_size, certify=certify, batch_size=batch_size,
        memory=memory, seed=seed, progress=progress,
    )  # fmt: skip
    run = Pipeline(model, options, "image")
    # Another method than this one may not be linear.
    run.others = ()
    if not is_linear(run.method):
        raise InputError(
            f"method {run.method.card.name} is not linear in the score's gradient with these "
            "settings, so that no later prompt can be mapped; try attention-x-gradient, or explain"
        )
    shown = inputs.images(model, images, options.image_size)
    batches = CoordinateBatches(shown, run.score)
    results = run.attribute(batches, progress)
    maps = batches.layout.grid(results.values)

    def check_input(batch_size: int) -> InputDifferences:
        return check_coordinates(shown, results.untouched, batch_size, run.sample(batches))

    names = names_of(shown), [f"coordinate {n}" for n in range(maps.shape[1])]
    coordinates = Prompts(tuple(names[1]), torch.zeros(0, 0))
    tracking = following.declared(coordinates, run.factors, "image")
    findings = run.findings(shown.model, names, results, tracking, check_input)
    return Jacobian(
        by_coordinate=maps.float(),
        embeddings=results.untouched.float(),
        explained=results.explained.float(),
        scale=Scale(model.classes, model.logit_scale, model.logit_bias),
        record=run.record(NO_PROMPTS, shown),
        certificate=findings.certify(range(len(maps)), range(maps.shape[1])),
        model=model,
    )


@torch.inference_mode(False)
def explain_words(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    method: str | Method | None = None,
    score: str | scores.Score | None = None,
    image_size: ImageSize = None,
    certify: Certify = True,
    batch_size: int | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> WordExplanation:
    """Explain each score by the prompt's words: one signed value per token, summed up per word.

    Arguments are those of `explain`. BOS, end-of-text and padding carry no words and are left out
    of the values; tokens that the causal mask hides from the readout get 0.

    Raises:
        InputError: an argument is wrong, or the model or the prompts have no words.
    """
    model = inputs.model_of(model)
    options = ExplainOptions(
        method=method, score=score, image_size=image_size, certify=certify, batch_size=batch_size,
        memory=memory, seed=seed, progress=progress,
    )  # fmt: skip
    prompts = inputs.check_prompts(model, prompts)
    if model.text is None:
        raise InputError(f"{model.spec} has no text tower and reads no words; try without words")
    run = Pipeline(model, options, "text")
    shown = inputs.images(model, images, options.image_size)
    embedded = inputs.prompts(model, prompts, memory)
    run.score.check(model, len(embedded.labels))
    if embedded.tokens is None:
        raise InputError("embeddings have no words; pass the prompts as texts or token ids")
    encode, pixels = shown.model.image.encode, shown.pixels
    # The plan is about prompts; how many images are encoded together is a question of its own.
    together = largest_batch(shown.model, lambda: encode(pixels[:1]), memory, run.batch_size)
    results = run.attribute(TextBatches(model, shown, embedded, run.score, together), progress)

    def check_input(_: int) -> InputDifferences:  # the plan is one of prompts
        check = InputCheck(prompts, embedded, run.score)
        everything = torch.arange(len(shown.pixels))
        return check(shown, results.untouched.T, run.batch_size, everything)

    tracking = following.declared(embedded, run.factors, "text")
    names = embedded.labels, names_of(shown)
    maps, errors, words = _by_word(results, embedded)
    findings = run.findings(model, names, results, tracking, check_input)
    certificates = Certificates(findings.certify, len(maps), len(embedded.labels))
    return WordExplanation(
        maps=maps,
        errors=errors,
        words=words,
        tokens=[tuple(piece.text for piece in pieces) for pieces in embedded.tokens.pieces],
        scores=results.untouched.T.float(),
        explained_scores=results.explained.T.float(),
        certificate=certificates.worst,
        certificates=certificates,
        record=run.record(embedded, shown),
        photos=shown.photos,
    )


# --- words ------------------------------------------------------------------------------------


def _by_word(
    results: BatchResults, prompts: Prompts
) -> tuple[list[list[Tensor]], list[list[Tensor]] | None, list[list[tuple[Word, ...]]]]:
    """Return the values and the errors of each image's and prompt's tokens, and both per word."""
    assert prompts.tokens is not None
    # Pieces leave out BOS, end of text and padding.
    pieces, texts = prompts.tokens.pieces, prompts.tokens.texts
    positions = [torch.tensor([p.position for p in row], dtype=torch.long) for row in pieces]

    def by_image(tokens: Float[Tensor, "item target token"]) -> list[list[Tensor]]:
        tokens = tokens.float()
        return [
            [tokens[prompt, image, positions[prompt]] for prompt in range(len(texts))]
            for image in range(tokens.shape[1])
        ]

    maps = by_image(results.values)
    errors = None if results.errors is None else by_image(results.errors)
    words = [
        [
            tuple(merge(text, row, own, None if errors is None else errors[image][prompt]))
            for prompt, (text, row, own) in enumerate(zip(texts, pieces, of_image, strict=True))
        ]
        for image, of_image in enumerate(maps)
    ]
    return maps, errors, words


def merge(
    text: str,
    pieces: Sequence[Piece],
    values: Float[Tensor, " token"],
    errors: Float[Tensor, " token"] | None = None,
) -> Iterator[Word]:
    """Yield the words of `text`, each with the sum over its tokens, and its error."""
    for start, end, tokens in word_tokens(text, pieces):
        # As if the tokens' errors were independent: a word's covariances are not kept.
        error = None if errors is None else float(errors[tokens].square().sum().sqrt())
        yield Word(text[start:end], start, end, float(values[tokens].sum()), error)
