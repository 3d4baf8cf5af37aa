"""Is the explained quantity the model's output, read where the model reads it, or a surrogate?

What a method explains is what it differentiates. While it attributes, everything that is handed to
autograd is noted and held against the model's scores; so is every vector other than the model's
embedding that it has scored (a mean of tokens, a patch); and the score's gradient tells which rows
of the last attention feed it.
"""

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from heatproof import scores as score_pairs
from heatproof.auditing.base import Finding, Verdict
from heatproof.auditing.checks.nearness import Nearness, nearness
from heatproof.auditing.measures import code_of, unless_refused
from heatproof.auditing.method_proxy import Wrapped
from heatproof.engine import inputs
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.reading.hooks import hooked
from heatproof.reading.weight_edits import coarsest, formats, in_dtype
from heatproof.tolerances import TOLERANCE

QUESTION = "Is the explained quantity the model's own output, or a surrogate?"
FOREIGN_TOLERANCE = 1e-3
"""Code from outside works in the model's own dtype, on a picture that it preprocesses itself."""
ROUNDINGS = 4
"""How many roundings of the coarsest number format a score may be off."""


class Noted(Wrapped):
    """A method that notes what it differentiates, and what other vectors it has scored.

    `scores` (item, target) are those of the pass that it explains, `differentiated` and `others`
    plain numbers, `elsewhere` the scores of passes that it ran on other inputs or states.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.foreign = method.foreign  # pyright: ignore[reportAttributeAccessIssue]
        self.scores = torch.zeros(0, 0)
        self.differentiated: list[float] = []
        self.others: list[Tensor] = []
        self.elsewhere: list[Tensor] = []
        self.live: Tensor | None = None
        self.last = ""

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(layers, side)
        return plan if plan.differentiates else replace(plan, start=plan.paths[-1])

    def attribute(self, read: ReadPass) -> Tensor:
        self.scores, self.last = read.scores.detach(), read.last.path
        self._look_at_rows(read)
        compare, rerun = read.batch.compare, read.rerun

        def noted_compare(embedding: Tensor) -> Tensor:
            found = compare(embedding)
            self.others.append(found.detach())
            return found

        def noted_rerun(*args: Any, **kwargs: Any) -> Tensor:
            found = rerun(*args, **kwargs)
            self.elsewhere.append(found.detach())
            return found

        with _noting(self.differentiated):
            return super().attribute(
                replace(read, batch=replace(read.batch, compare=noted_compare), rerun=noted_rerun)
            )

    def _look_at_rows(self, read: ReadPass) -> None:
        if read.scores.requires_grad:
            (gradient,) = torch.autograd.grad(
                read.scores[:, 0].sum(),
                [read.last.output],
                retain_graph=True,
                materialize_grads=True,
            )
            self.live = (gradient.abs().sum((1, 3)) > 0)[0].cpu()


class _Noted(threading.local):
    """Where this thread's differentiated numbers go."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []


_noted = _Noted()
_lock = threading.Lock()
_noting_now = 0
_own = torch.autograd.grad, torch.autograd.backward


@contextmanager
def _noting(values: list[float]) -> Generator[None]:
    """Every number that this thread differentiates inside. Torch's functions are replaced for the
    process, put back when no thread notes any more, and do for other threads what they always do.
    """
    global _noting_now, _own
    with _lock:
        if _noting_now == 0:
            _own = torch.autograd.grad, torch.autograd.backward
            torch.autograd.grad, torch.autograd.backward = _noted_grad, _noted_backward  # pyright: ignore
        _noting_now += 1
    _noted.values.append(values)
    try:
        yield
    finally:
        _noted.values.pop()
        with _lock:
            _noting_now -= 1
            if _noting_now == 0:
                torch.autograd.grad, torch.autograd.backward = _own


def _noted_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **kwargs: Any) -> Any:
    _note(outputs, grad_outputs, kwargs.get("is_grads_batched", False))
    return _own[0](outputs, inputs, grad_outputs, **kwargs)


def _noted_backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
    _note(tensors, grad_tensors)
    return _own[1](tensors, grad_tensors, *args, **kwargs)


def _note(outputs: Any, weights: Any, batched: bool = False) -> None:
    many: list[Any] = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    given = [weights] if weights is None or isinstance(weights, Tensor) else list(weights)
    given = given if len(given) == len(many) else [None] * len(many)
    for values in _noted.values:
        for output, weight in zip(many, given, strict=True):
            if isinstance(output, Tensor):
                each = output.detach() if weight is None else output.detach() * weight.detach()
                # Batched cotangents are one gradient each.
                values.extend(each.flatten(1).sum(1).tolist() if batched else [float(each.sum())])


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    seed: int = 0,
) -> Finding:
    """What the method differentiates for one picture and two prompts, in float64 for our own."""
    shown = images[:1] if isinstance(images, Tensor) else list(images[:1])
    asked = prompts[:2]
    method = subject.method
    if isinstance(method, Foreign):
        numbers = _of_user_code(method, model, shown, asked, seed)
        return _judged(method, *_verdict_of_user_code(numbers), numbers)
    with in_dtype(model.module, torch.float64):
        noted = Noted(method)
        replace(subject, method=noted).maps(model, shown, asked, seed=seed)
        numbers = _numbers(model, noted, shown)
    return _judged(method, *_verdict(method, numbers), numbers)


def _judged(method: Method, verdict: Verdict, text: str, numbers: dict[str, Any]) -> Finding:
    code = code_of(method, "attribute")
    return Finding("readout", 1, QUESTION, verdict, text, numbers, code)


def _numbers(model: Model, noted: Noted, shown: Any) -> dict[str, Any]:
    pixels = inputs.images(model, shown, None).pixels
    sites = model.attention_layers("image", pixels.shape[-2:])
    tolerance = TOLERANCE[torch.float64]
    own, others = _sums([noted.scores]), _sums(noted.others)
    elsewhere = _sums(noted.elsewhere)
    kinds = [_kind(value, own, others, elsewhere, tolerance) for value in noted.differentiated]
    first = next((v for v, k in zip(noted.differentiated, kinds, strict=True) if k != "own"), None)
    return {
        "scores": noted.scores[0].tolist(),
        "differentiated": {
            kind: kinds.count(kind) for kind in ("own", "elsewhere", "another vector", "unknown")
        },
        "first that is not the score": first,
        "scores elsewhere": sum(len(each) for each in noted.elsewhere),
        "vectors scored beside the embedding": sum(len(each) for each in noted.others),
        "rows described": _described(model, noted, pixels),
        "rows that feed the score": None if noted.live is None else int(noted.live.sum()),
        "rows agree": _rows_agree(model, noted, pixels, sites),
        "readout": model.image.readout.name,
        "last call read": noted.last == sites[-1].path,
        "tolerance": tolerance,
    }


def _sums(found: Sequence[Tensor]) -> list[float]:
    """What a gradient may be taken of: a column, an entry or all of some scores."""
    values: list[float] = []
    for scores in found:
        scores = scores.double()
        values += scores.sum(0).flatten().tolist()
        values += scores.flatten().tolist()[:64]
        values.append(float(scores.sum()))
    return values


def _kind(
    value: float, own: list[float], others: list[float], elsewhere: list[float], tolerance: float
) -> str:
    for kind, known in (("own", own), ("elsewhere", elsewhere), ("another vector", others)):
        if any(abs(value - each) <= tolerance * max(1.0, abs(each)) for each in known):
            return kind
    return "unknown"


def _described(model: Model, noted: Noted, pixels: Tensor) -> int | None:
    if noted.live is None:
        return None
    layout = model.image.layout(*pixels.shape[-2:])
    return layout.rows * layout.cols if model.image.readout.row is None else 1


def _rows_agree(
    model: Model, noted: Noted, pixels: Tensor, sites: Sequence[AttentionLayer]
) -> bool | None:
    """None where the method does not read the call that the readout is described at."""
    if noted.live is None or noted.last != sites[-1].path:
        return None
    layout, row = model.image.layout(*pixels.shape[-2:]), model.image.readout.row
    expected = torch.zeros_like(noted.live)
    start = len(layout.prefix)
    expected[slice(start, start + layout.rows * layout.cols) if row is None else row] = True
    return torch.equal(expected, noted.live)


def _verdict(method: Method, numbers: dict[str, Any]) -> tuple[Verdict, str]:
    kinds, score = numbers["differentiated"], numbers["scores"][0]
    declared = method.factors("image").substituted
    scored = numbers["vectors scored beside the embedding"]
    if numbers["rows agree"] is False:
        live = numbers["rows that feed the score"]
        text = f"The map reads the {numbers['readout']}, but {live} rows feed the explained score."
        return "violated", text
    if kinds["another vector"]:
        return "violated", (
            f"What is differentiated is the score of another vector than the model's embedding "
            f"({numbers['first that is not the score']:.4g}; the model's own is {score:.4g}): a "
            "surrogate."
        )
    if scored and declared:
        return "violated", (
            f"The map is made of the scores of {scored} vectors that are not the model's embedding "
            f"({'; '.join(declared)}): a surrogate."
        )
    if kinds["own"] or kinds["elsewhere"]:
        return "holds", _own_output(numbers)
    if kinds["unknown"]:
        return "violated" if declared else "cannot tell", (
            f"What is differentiated ({numbers['first that is not the score']:.4g} first) is no "
            f"score of the model's (its own is {score:.4g})"
            f"{': ' + '; '.join(declared) if declared else ''}."
        )
    if declared:
        return "violated", f"No output of the model is explained: the map is {declared[0]}."
    if numbers["vectors scored beside the embedding"] or numbers["scores elsewhere"]:
        return "holds", "The map is made of scores that the model gives."
    return "not applicable", (
        "No score is explained: the method differentiates nothing and asks for no other score."
    )


def _own_output(numbers: dict[str, Any]) -> str:
    kinds = numbers["differentiated"]
    text = (
        f"What is differentiated is the output of the pass that is explained "
        f"({numbers['scores'][0]:.4g}"
        f"{', ' + str(kinds['elsewhere']) + ' times on other inputs' if kinds['elsewhere'] else ''}"
        f"), read at the {numbers['readout']}"
    )
    if kinds["unknown"]:
        text += f"; {kinds['unknown']} further quantities are differentiated with it"
    return f"{text}."


# --- user code -----------------------------------------------------------------------------------


class _Fed:
    """Inputs that the image tower is given while user code runs: preprocessed pixels, one by one
    up to `SOME_INPUTS`; `count` counts all."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batches: list[Tensor] = []
        self.count = 0
        self._last: Tensor | None = None

    @contextmanager
    def noted(self) -> Generator[None]:
        with ExitStack() as stack:
            for module in self.model.module.modules():
                stack.enter_context(hooked(module, before=self._note))
            yield

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        del module
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() == 4 and value.shape[1] == 3:
                self._add(value.detach())

    def _add(self, pixels: Tensor) -> None:
        if self._last is not None and _same(self._last, pixels):
            return  # a module inside of the one that was given it
        self._last = pixels.clone()
        self.count += len(pixels)
        if sum(map(len, self.batches)) + len(pixels) <= SOME_INPUTS:
            self.batches.append(self._last)


SOME_INPUTS = 256


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _of_user_code(
    method: Foreign, model: Model, shown: Any, prompts: Any, seed: int
) -> dict[str, Any]:
    values: list[float] = []
    fed, dtypes = _Fed(model), {model.dtype}

    def call(picture: Any, prompt: str) -> Any:
        with _noting(values), fed.noted(), formats(model) as seen:
            try:
                return method.call(picture, prompt)
            finally:
                dtypes.update(seen)

    asked = inputs.prompts(model, prompts if isinstance(prompts, Tensor) else list(prompts))
    watched = Subject(Foreign(call, takes=method.takes, name=method.name))
    watched.maps(model, shown, prompts, seed=seed)
    pixels = inputs.images(model, shown, None).pixels
    known = [_scores_at(model, batch, asked.embeddings) for batch in fed.batches]
    own = _scores_of(model, pixels, asked.embeddings)
    tolerance = max(FOREIGN_TOLERANCE, ROUNDINGS * torch.finfo(coarsest(dtypes)).eps)
    described = [[nearness(each, pixels[0]) for each in batch] for batch in fed.batches]
    far = [not all(one.near or one.on_the_way for one in each) for each in described]
    places = [_place_of(value, known, far, tolerance) for value in values]
    blind = [value for value, place in zip(values, places, strict=True) if place is None]
    return {
        "scores": own.flatten().tolist(),
        "values differentiated": values[:50],
        "differentiated": len(values),
        "equal to a score of the model": len(values) - len(blind),
        "equal to a score of this image, which the model was not seen to be given": sum(
            _equals(value, own, tolerance) for value in blind
        ),
        "inputs given": fed.count,
        "inputs differentiated at": [
            {
                "quantities": places.count(place),
                "inputs": _gathered(each),
                "near": not far[place],
                "reaches the image": any(one.near for one in each),
            }
            for place, each in enumerate(described)
            if place in places
        ],
        "tolerance": tolerance,
    }


def _scores_of(model: Model, pixels: Tensor, texts: Tensor) -> Tensor:
    """(kind, input, prompt): the scores that people explain: cosine, logit, product."""
    with torch.no_grad():
        image = model.image.encode(pixels.to(model.device, model.dtype)).to(texts.dtype)
    pairs = score_pairs.pairs(model, image, texts)
    unit = torch.nn.functional.normalize(image, dim=-1)
    found = [pairs.logit, image @ texts.T, unit @ texts.T]
    if pairs.cosine is not None:
        found += [pairs.cosine, model.logit_scale * pairs.cosine]
    return torch.stack([each.double().cpu() for each in found])


def _scores_at(model: Model, pixels: Tensor, texts: Tensor) -> Tensor | None:
    """None where the model itself does not take such an input."""
    return unless_refused(lambda: _scores_of(model, pixels, texts))


def _place_of(
    value: float, known: Sequence[Tensor | None], far: Sequence[bool], tolerance: float
) -> int | None:
    """The number of the batch of inputs whose score was differentiated: one input's, or the sum or
    mean of all. Where several have this score, one that is far from the image."""
    matches = [
        place
        for place, scores in enumerate(known)
        if scores is not None
        and any(_equals(value, each, tolerance) for each in (scores, scores.sum(1), scores.mean(1)))
    ]
    return max(matches, key=lambda place: far[place], default=None)


def _equals(value: float, scores: Tensor, tolerance: float) -> bool:
    gaps = (value - scores).abs()
    return bool((gaps <= tolerance * scores.abs().clamp(min=0.1)).any())


def _gathered(described: Sequence[Nearness]) -> list[dict[str, Any]]:
    """Inputs of one name together, with the range of their distances."""
    by_name: dict[str, list[Nearness]] = {}
    for each in described:
        by_name.setdefault(each.name, []).append(each)
    return [
        {
            "name": name,
            "inputs": len(alike),
            "distance": max(each.distance for each in alike),
            "noise": max(each.noise for each in alike),
        }
        for name, alike in by_name.items()
    ]


def _verdict_of_user_code(numbers: dict[str, Any]) -> tuple[Verdict, str]:
    count, matched = numbers["differentiated"], numbers["equal to a score of the model"]
    if not count:
        return "cannot tell", (
            "Nothing was differentiated: what the map explains is not seen here."
        )
    unseen = numbers["equal to a score of this image, which the model was not seen to be given"]
    if not matched and unseen:
        return "holds", (
            f"{unseen} of {count} quantities that were differentiated equal the model's own score "
            "of the image and prompt."
        )
    if not matched:
        return "cannot tell", (
            f"None of {count} quantities that were differentiated "
            f"({numbers['values differentiated'][0]:.4g} first) is a score of the model's, at any "
            f"of {numbers['inputs given']} inputs that it was given: another quantity, or a model "
            "of its own."
        )
    places: list[dict[str, Any]] = numbers["inputs differentiated at"]
    where = (
        f"{matched} of {count} quantities that were differentiated are the model's own score of "
    )
    far = [each for each in places if not each["near"]]
    if far:
        return "cannot tell", (
            f"{where}another input: {_told(far)}. That is further than noise: the map is of the "
            "model at an input that is not the image."
        )
    if not any(each["reaches the image"] for each in places):
        return "cannot tell", f"{where}an input that is not the image: {_told(places)}."
    return "holds", f"{where}the image and prompt: {_told(places)}."


def _told(places: Sequence[dict[str, Any]]) -> str:
    """The inputs of these batches in words, each name once."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for each in (each for place in places for each in place["inputs"]):
        by_name.setdefault(each["name"], []).append(each)
    parts: list[str] = []
    for name, alike in list(by_name.items())[:SOME_NAMES]:
        count = sum(each["inputs"] for each in alike)
        distance, noise = (max(each[key] for each in alike) for key in ("distance", "noise"))
        part = f"{name} ({count} input{'s' if count > 1 else ''}"
        if distance > FOREIGN_TOLERANCE:
            part += f", {distance:.2f} of the image's contrast away, where noise is {noise:.2f}"
        parts.append(f"{part})")
    more = len(by_name) - len(parts)
    return ", ".join(parts) + (f", and {more} more" if more else "")


SOME_NAMES = 3
