"""Check that what a method explains is the model's output, read where the model reads it.

What a method explains is what it differentiates. While it attributes, everything that is handed to
autograd is recorded and compared with the model's scores; so is every vector other than the model's
embedding that it has scored (a mean of tokens, a patch); and the score's gradient tells which rows
of the last attention layer feed it. The model's own score at a recorded input tells at which input
user code differentiates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from heatproof import scores as scoring
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Verdict,
    register_check,
)
from heatproof.auditing.comparison import code_of, unless_refused
from heatproof.auditing.input_comparison import InputComparison, compare_input
from heatproof.auditing.recording import InputRecorder, differentiated
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.methods.proxy import MethodProxy
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.reading.weight_edits import coarsest, computed_dtypes, in_dtype
from heatproof.tolerances import TOLERANCE

# User code works in the model's own number format, on an image that it preprocesses itself.
FOREIGN_TOLERANCE = 1e-3
# How many roundings of the coarsest number format a score may be off.
ROUNDINGS = 4
SOME_NAMES = 3


@register_check
@dataclass(frozen=True)
class ReadoutCheck(AuditCheck):
    """Compare what is differentiated, for one image and two prompts, with the model's scores.

    Methods of the catalogue are run in float64, user code in the model's own number format.
    """

    card = CheckCard(
        name="readout",
        title="readout",
        principle=1,
        place=4,
        question="Is the explained quantity the model's own output, or a surrogate?",
        answers="own output",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Run the method once, recorded."""
        few, method = context.first(1, 2), subject.method
        if isinstance(method, Foreign):
            numbers = _of_user_code(method, few)
            verdict, evidence = _verdict_of_user_code(numbers)
        else:
            with in_dtype(few.model.module, torch.float64):
                recorder = _ReadoutRecorder(method)
                few.maps(replace(subject, method=recorder))
                numbers = _of_method(recorder, few)
            verdict, evidence = _verdict(method, numbers)
        return self.finding(verdict, evidence, numbers, code_of(method, "attribute"))


# --- methods of the catalogue ------------------------------------------------------------------


class _ReadoutRecorder(MethodProxy):
    """Record what a method differentiates, and which other vectors it has scored.

    own: scores (item, target) of the pass that it explains. differentiated: plain numbers.
    others: scores of vectors that are not the embedding. elsewhere: scores of passes that it ran
    on other inputs or states. live: which rows of the last layer feed the score.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.foreign = method.foreign  # pyright: ignore[reportAttributeAccessIssue]
        self.own = torch.zeros(0, 0)
        self.differentiated: list[float] = []
        self.others: list[Tensor] = []
        self.elsewhere: list[Tensor] = []
        self.live: Tensor | None = None
        self.last = ""

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(layers, side)
        # A graph is needed to see which rows feed the score, even where the method needs none.
        return plan if plan.differentiates else replace(plan, start=plan.paths[-1])

    def attribute(self, read: ReadPass) -> Tensor:
        self.own, self.last = read.scores.detach(), read.last.path
        self._look_at_rows(read)

        def compare(embedding: Tensor) -> Tensor:
            scores = read.batch.compare(embedding)
            self.others.append(scores.detach())
            return scores

        def rerun(*args: Any, **kwargs: Any) -> Tensor:
            scores = read.rerun(*args, **kwargs)
            self.elsewhere.append(scores.detach())
            return scores

        with differentiated(self.differentiated):
            batch = replace(read.batch, compare=compare)
            return super().attribute(replace(read, batch=batch, rerun=rerun))

    def _look_at_rows(self, read: ReadPass) -> None:
        if read.scores.requires_grad:
            (gradient,) = torch.autograd.grad(
                read.scores[:, 0].sum(),
                [read.last.output],
                retain_graph=True,
                materialize_grads=True,
            )
            self.live = (gradient.abs().sum((1, 3)) > 0)[0].cpu()


def _of_method(recorder: _ReadoutRecorder, context: CheckContext) -> dict[str, Any]:
    image, tolerance = context.model.image, TOLERANCE[torch.float64]
    known = {
        "own": _possible_sums([recorder.own]),
        "elsewhere": _possible_sums(recorder.elsewhere),
        "another vector": _possible_sums(recorder.others),
    }
    values = recorder.differentiated
    kinds = [_kind(value, known, tolerance) for value in values]
    first = next((v for v, kind in zip(values, kinds, strict=True) if kind != "own"), None)
    layout, live = image.layout(*context.pixels().shape[-2:]), recorder.live
    start, patches = len(layout.prefix), layout.rows * layout.cols
    described = slice(start, start + patches) if image.readout.row is None else image.readout.row
    is_last = recorder.last == context.attention_layers()[-1].path
    agree: bool | None = None
    if live is not None and is_last:
        expected = torch.zeros_like(live)
        expected[described] = True
        agree = torch.equal(expected, live)
    rows = patches if image.readout.row is None else 1
    return {
        "scores": recorder.own[0].tolist(),
        "differentiated": {kind: kinds.count(kind) for kind in (*known, "unknown")},
        "first that is not the score": first,
        "scores elsewhere": sum(map(len, recorder.elsewhere)),
        "vectors scored beside the embedding": sum(map(len, recorder.others)),
        "rows described": None if live is None else rows,
        "rows that feed the score": None if live is None else int(live.sum()),
        "rows agree": agree,
        "readout": image.readout.name,
        "last call read": is_last,
        "tolerance": tolerance,
    }


def _possible_sums(recorded: Sequence[Tensor]) -> list[float]:
    """Return what a gradient may be taken of: a column, an entry or the sum of some scores."""
    values: list[float] = []
    for scores in recorded:
        scores = scores.double()
        values += scores.sum(0).flatten().tolist()
        # Single entries of a few scores; among thousands, some would match by chance.
        values += scores.flatten().tolist()[:64]
        values.append(float(scores.sum()))
    return values


def _kind(value: float, known: dict[str, list[float]], tolerance: float) -> str:
    for kind, sums in known.items():
        if any(abs(value - total) <= tolerance * max(1.0, abs(total)) for total in sums):
            return kind
    return "unknown"


def _verdict(method: Method, numbers: dict[str, Any]) -> tuple[Verdict, str]:
    kinds, score = numbers["differentiated"], numbers["scores"][0]
    first = numbers["first that is not the score"]
    substituted = method.factors("image").substituted
    scored = numbers["vectors scored beside the embedding"]
    if numbers["rows agree"] is False:
        live = numbers["rows that feed the score"]
        return "violated", (
            f"The map reads the {numbers['readout']}, but {live} rows feed the explained score."
        )
    if kinds["another vector"]:
        return "violated", (
            "A surrogate: what is differentiated is the score of another vector than the model's "
            f"embedding ({first:.4g}; the model's own is {score:.4g})."
        )
    if scored and substituted:
        return "violated", (
            f"A surrogate: the map is made of the scores of {scored} vectors that are not the "
            f"model's embedding ({'; '.join(substituted)})."
        )
    if kinds["own"] or kinds["elsewhere"]:
        return "holds", _own_output_in_words(numbers)
    if kinds["unknown"]:
        account = f": {'; '.join(substituted)}" if substituted else ""
        return "violated" if substituted else "cannot tell", (
            f"What is differentiated ({first:.4g} first) is not a score of the model (its own is "
            f"{score:.4g}){account}."
        )
    if substituted:
        return "violated", f"No output of the model is explained: the map is {substituted[0]}."
    if scored or numbers["scores elsewhere"]:
        return "holds", "The map is made of scores that the model computes."
    return "not applicable", (
        "No score is explained: the method differentiates nothing and asks for no other score."
    )


def _own_output_in_words(numbers: dict[str, Any]) -> str:
    kinds = numbers["differentiated"]
    elsewhere = f", {kinds['elsewhere']} times on other inputs" if kinds["elsewhere"] else ""
    text = (
        "What is differentiated is the output of the pass that is explained "
        f"({numbers['scores'][0]:.4g}{elsewhere}), read at the {numbers['readout']}"
    )
    if kinds["unknown"]:
        text += f"; {kinds['unknown']} further quantities are differentiated with it"
    return f"{text}."


# --- user code -----------------------------------------------------------------------------------


def _of_user_code(method: Foreign, context: CheckContext) -> dict[str, Any]:
    model, values = context.model, list[float]()
    recorder, dtypes = InputRecorder(model), {model.dtype}

    def call(image: Any, prompt: str) -> Any:
        with differentiated(values), recorder.hooked(), computed_dtypes(model) as computed:
            try:
                return method.call(image, prompt)
            finally:
                dtypes.update(computed)

    embeddings = context.embeddings()
    context.maps(Subject(Foreign(call, takes=method.takes, name=method.name)))
    pixels = context.pixels()
    known = [_scores_at(model, batch, embeddings) for batch in recorder.batches]
    own = _scores_of(model, pixels, embeddings)
    tolerance = max(FOREIGN_TOLERANCE, ROUNDINGS * torch.finfo(coarsest(dtypes)).eps)
    compared = [[compare_input(given, pixels[0]) for given in batch] for batch in recorder.batches]
    far = [not all(one.near or one.on_the_way for one in batch) for batch in compared]
    places = [_place_of(value, known, far, tolerance) for value in values]
    blind = [value for value, place in zip(values, places, strict=True) if place is None]
    return {
        "scores": own.flatten().tolist(),
        "values differentiated": values[
            :50
        ],  # enough to look at: some code differentiates thousands
        "differentiated": len(values),
        "equal to a score of the model": len(values) - len(blind),
        "equal to a score of this image, which the model was not seen to be given": sum(
            _equals(value, own, tolerance) for value in blind
        ),
        "inputs given": recorder.count,
        "inputs differentiated at": [
            {
                "quantities": places.count(place),
                "inputs": _by_name(batch),
                "near": not far[place],
                "reaches the image": any(one.near for one in batch),
            }
            for place, batch in enumerate(compared)
            if place in places
        ],
        "tolerance": tolerance,
    }


def _scores_of(model: Model, pixels: Tensor, texts: Tensor) -> Tensor:
    """Return the scores that people explain (cosine, logit, product): (kind, input, prompt)."""
    with torch.no_grad():
        image = model.image.encode(pixels.to(model.device, model.dtype)).to(texts.dtype)
    pairs = scoring.pairs(model, image, texts)
    unit = torch.nn.functional.normalize(image, dim=-1)
    scores = [pairs.logit, image @ texts.T, unit @ texts.T]
    if pairs.cosine is not None:
        scores += [pairs.cosine, model.logit_scale * pairs.cosine]
    return torch.stack([score.double().cpu() for score in scores])


def _scores_at(model: Model, pixels: Tensor, texts: Tensor) -> Tensor | None:
    """Return the model's scores at inputs that code gave it; None where it refuses them alone."""
    return unless_refused(lambda: _scores_of(model, pixels, texts))


def _place_of(
    value: float, known: Sequence[Tensor | None], far: Sequence[bool], tolerance: float
) -> int | None:
    """Return the number of the batch of inputs whose score was differentiated.

    That is one input's score, or the sum or mean of all. Of several batches with this score, one
    that is far from the image is taken: doubt must not count in the method's favour.
    """
    matches = [
        place
        for place, scores in enumerate(known)
        if scores is not None
        and any(_equals(value, one, tolerance) for one in (scores, scores.sum(1), scores.mean(1)))
    ]
    return max(matches, key=lambda place: far[place], default=None)


def _equals(value: float, scores: Tensor, tolerance: float) -> bool:
    gaps = (value - scores).abs()
    # Near zero, a relative tolerance would ask for equality to the last bit.
    return bool((gaps <= tolerance * scores.abs().clamp(min=0.1)).any())


def _by_name(compared: Sequence[InputComparison]) -> list[dict[str, Any]]:
    """Put inputs of one name together, with their largest distance."""
    by_name: dict[str, list[InputComparison]] = {}
    for one in compared:
        by_name.setdefault(one.name, []).append(one)
    return [
        {
            "name": name,
            "inputs": len(alike),
            "distance": max(one.distance for one in alike),
            "noise": max(one.noise for one in alike),
        }
        for name, alike in by_name.items()
    ]


def _verdict_of_user_code(numbers: dict[str, Any]) -> tuple[Verdict, str]:
    count, matched = numbers["differentiated"], numbers["equal to a score of the model"]
    if not count:
        return "cannot tell", "Nothing was differentiated: what the map explains is not seen here."
    unseen = numbers["equal to a score of this image, which the model was not seen to be given"]
    if not matched and unseen:
        return "holds", (
            f"{unseen} of {count} differentiated quantities equal the model's own score of the "
            "image and prompt."
        )
    if not matched:
        return "cannot tell", (
            f"None of {count} differentiated quantities "
            f"({numbers['values differentiated'][0]:.4g} first) is a score of the model at any of "
            f"the {numbers['inputs given']} inputs that it was given: another quantity, or a model "
            "of its own."
        )
    places: list[dict[str, Any]] = numbers["inputs differentiated at"]
    where = f"{matched} of {count} differentiated quantities are the model's own score of "
    far = [place for place in places if not place["near"]]
    if far:
        return "cannot tell", (
            f"{where}another input: {_inputs_in_words(far)}. That is further than noise: the map "
            "is of the model at an input that is not the image."
        )
    inputs = _inputs_in_words(places)
    if not any(place["reaches the image"] for place in places):
        return "cannot tell", f"{where}an input that is not the image: {inputs}."
    return "holds", f"{where}the image and prompt: {inputs}."


def _inputs_in_words(places: Sequence[dict[str, Any]]) -> str:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for given in (given for place in places for given in place["inputs"]):
        by_name.setdefault(given["name"], []).append(given)
    parts: list[str] = []
    for name, alike in list(by_name.items())[:SOME_NAMES]:
        count = sum(given["inputs"] for given in alike)
        distance, noise = (max(given[key] for given in alike) for key in ("distance", "noise"))
        part = f"{name} ({count} input{'s' if count > 1 else ''}"
        if distance > FOREIGN_TOLERANCE:
            part += f", {distance:.2f} of the image's contrast away; noise would be {noise:.2f}"
        parts.append(f"{part})")
    more = len(by_name) - len(parts)
    return ", ".join(parts) + (f", and {more} more" if more else "")
