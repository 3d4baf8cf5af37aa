"""Is the explained quantity the model's output, read where the model reads it, or a surrogate?

What a method explains is what it differentiates. While it attributes, everything that is handed to
autograd is noted and held against the model's scores; so is every vector other than the model's
embedding that it has scored (a mean of tokens, a patch); and the score's gradient tells which rows
of the last attention feed it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from heatproof import inputs
from heatproof import scores as score_pairs
from heatproof.agreement import TOLERANCE
from heatproof.auditing.finding import Finding, Verdict
from heatproof.auditing.in_place import in_dtype
from heatproof.auditing.measures import code_of
from heatproof.auditing.subject import Subject
from heatproof.auditing.wrapped import Wrapped
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.passes import sites_of
from heatproof.reading import Site

QUESTION = "Is the explained quantity the model's own output, or a surrogate?"
FOREIGN_TOLERANCE = 1e-3
"""Code from outside works in the model's own dtype, on a picture that it preprocesses itself."""


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

    def plan(self, sites: Sequence[Site], side: Side) -> Plan:
        plan = super().plan(sites, side)
        return plan if plan.differentiates else replace(plan, start=plan.paths[-1])

    def attribute(self, read: ReadPass) -> Tensor:
        self.scores, self.last = read.scores.detach(), read.last.path
        self._look_at_rows(read)
        compare, rerun = read.compare, read.rerun

        def noted_compare(embedding: Tensor) -> Tensor:
            found = compare(embedding)
            self.others.append(found.detach())
            return found

        def noted_rerun(*args: Any, **kwargs: Any) -> Tensor:
            found = rerun(*args, **kwargs)
            self.elsewhere.append(found.detach())
            return found

        with _noting(self.differentiated):
            return super().attribute(replace(read, compare=noted_compare, rerun=noted_rerun))

    def _look_at_rows(self, read: ReadPass) -> None:
        if read.scores.requires_grad:
            (gradient,) = torch.autograd.grad(
                read.scores[:, 0].sum(),
                [read.last.output],
                retain_graph=True,
                materialize_grads=True,
            )
            self.live = (gradient.abs().sum((1, 3)) > 0)[0].cpu()


@contextmanager
def _noting(values: list[float]) -> Generator[None]:
    """Every number that is differentiated inside; torch's functions are put back after it."""
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def note(outputs: Any, weights: Any, batched: bool = False) -> None:
        many: list[Any] = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        given = [weights] if weights is None or isinstance(weights, Tensor) else list(weights)
        given = given if len(given) == len(many) else [None] * len(many)
        for output, weight in zip(many, given, strict=True):
            if isinstance(output, Tensor):
                each = output.detach() if weight is None else output.detach() * weight.detach()
                # Batched cotangents are one gradient each.
                values.extend(each.flatten(1).sum(1).tolist() if batched else [float(each.sum())])

    def noted_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **kwargs: Any) -> Any:
        note(outputs, grad_outputs, kwargs.get("is_grads_batched", False))
        return grad(outputs, inputs, grad_outputs, **kwargs)

    def noted_backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        note(tensors, grad_tensors)
        return backward(tensors, grad_tensors, *args, **kwargs)

    torch.autograd.grad, torch.autograd.backward = noted_grad, noted_backward  # pyright: ignore
    try:
        yield
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


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
        numbers = _of_stranger(method, model, shown, asked, seed)
        return _judged(method, *_foreign_verdict(numbers), numbers)
    with in_dtype(model.module, torch.float64):
        noted = Noted(method)
        replace(subject, method=noted).maps(model, shown, asked, seed=seed)
        numbers = _numbers(model, noted, shown)
    return _judged(method, *_verdict(method, numbers), numbers)


def _judged(method: Method, verdict: Verdict, text: str, numbers: dict[str, Any]) -> Finding:
    code = code_of(method, "attribute")
    return Finding("readout", 1, QUESTION, verdict, text, numbers, code)


def _numbers(model: Model, noted: Noted, shown: Any) -> dict[str, Any]:
    pixels = inputs.pictures(model, shown, None).pixels
    sites = sites_of(model, "image", lambda: model.image.encode(pixels))
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


def _rows_agree(model: Model, noted: Noted, pixels: Tensor, sites: Sequence[Site]) -> bool | None:
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


def _of_stranger(
    method: Foreign, model: Model, shown: Any, prompts: Any, seed: int
) -> dict[str, Any]:
    values: list[float] = []

    def call(picture: Any, prompt: str) -> Any:
        with _noting(values):
            return method.call(picture, prompt)

    asked = inputs.prompts(model, prompts if isinstance(prompts, Tensor) else list(prompts))
    watched = Subject(Foreign(call, takes=method.takes, name=method.name))
    watched.maps(model, shown, prompts, seed=seed)
    pixels = inputs.pictures(model, shown, None).pixels
    with torch.no_grad():
        image = model.image.encode(pixels).to(asked.embeddings.dtype)
    known = _known_scores(model, image, asked.embeddings)
    matching = [
        value
        for value in values
        if any(abs(value - each) <= FOREIGN_TOLERANCE * max(abs(each), 0.1) for each in known)
    ]
    return {
        "scores": known,
        "values differentiated": values[:50],
        "differentiated": len(values),
        "equal to a score of the model": len(matching),
        "tolerance": FOREIGN_TOLERANCE,
    }


def _known_scores(model: Model, image: Tensor, texts: Tensor) -> list[float]:
    """The scores that people explain: cosine, logit, product of embeddings."""
    pairs = score_pairs.pairs(model, image, texts)
    found = [pairs.logit, image @ texts.T, torch.nn.functional.normalize(image, dim=-1) @ texts.T]
    if pairs.cosine is not None:
        found += [pairs.cosine, model.logit_scale * pairs.cosine]
    return sorted({float(each) for tensor in found for each in tensor.flatten()})


def _foreign_verdict(numbers: dict[str, Any]) -> tuple[Verdict, str]:
    if numbers["equal to a score of the model"]:
        return "holds", (
            f"{numbers['equal to a score of the model']} of {numbers['differentiated']} quantities "
            "that were differentiated equal the model's own score of the picture and prompt."
        )
    if numbers["differentiated"]:
        return "cannot tell", (
            f"None of {numbers['differentiated']} quantities that were differentiated "
            f"({numbers['values differentiated'][0]:.4g} first) equals a score of this picture: "
            "another input, or another quantity."
        )
    return "cannot tell", "Nothing was differentiated: what the map explains is not seen here."
