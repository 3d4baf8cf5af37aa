"""Does the pass that was explained score as the untouched model does, in every dtype?"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from heatproof.auditing.base import Finding
from heatproof.auditing.measures import code_of, ranking
from heatproof.auditing.method_proxy import Wrapped
from heatproof.engine.api import explain, explain_words
from heatproof.errors import PromptError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Method, ReadPass, Side
from heatproof.models import Model
from heatproof.reading.weight_edits import in_dtype
from heatproof.tolerances import TOLERANCE

QUESTION = "Does the pass that was explained score as the untouched model does?"
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


class Scores(Wrapped):
    """A method's own pass, of which only the scores are kept, beside those of an untouched pass.

    Both are (item, target): pictures and prompts on the image side, the other way on the text side.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self._scored: list[Tensor] = []
        self._untouched: list[Tensor] = []

    def attribute(self, read: ReadPass) -> Tensor:
        with torch.no_grad():
            self._untouched.append(read.rerun().cpu())
        items, keys = read.last.key.shape[0], read.last.key.shape[2]
        return torch.zeros(items, read.targets, keys)

    def total(self, read: ReadPass) -> None:
        del read

    def explained(self, read: ReadPass) -> Tensor:
        scored = super().explained(read)
        self._scored.append(scored.detach().cpu())
        return scored

    @property
    def scored(self) -> Tensor:
        return torch.cat(self._scored)

    @property
    def untouched(self) -> Tensor:
        return torch.cat(self._untouched)


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    dtypes: Sequence[torch.dtype] = DTYPES,
    score: str | None = None,
) -> Finding:
    """Scores of the method's own pass against untouched ones: pictures in every dtype, words in
    the model's own.

    The weights are cast in place and put back. The tolerance is the certificate's.
    """
    if subject.method.foreign:
        text = "user code makes its own passes; the forward monitor watches them"
        return Finding("parity", 1, QUESTION, "not applicable", text)
    numbers: dict[str, Any] = {"sides": {}, "left out": {}}
    for side in subject.method.card.sides:
        if side == "text" and not _has_words(model, prompts):
            numbers["left out"]["text"] = "no words: prompts were handed in as embeddings"
            continue
        found: dict[str, Any] = {}
        for dtype in dtypes if side == "image" else (model.dtype,):
            try:
                with in_dtype(model.module, dtype):
                    found[_name(dtype)] = _compare(subject, model, images, prompts, side, score)
            except PromptError as error:
                numbers["left out"][side] = str(error)
        if found:
            numbers["sides"][side] = found
    return _judge(subject, numbers)


def _has_words(model: Model, prompts: Sequence[str] | Tensor) -> bool:
    if model.text is None:
        return False
    return not (isinstance(prompts, Tensor) and prompts.is_floating_point())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compare(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    side: Side,
    score: str | None,
) -> dict[str, Any]:
    scores = Scores(subject.method)
    shown = images if isinstance(images, Tensor) else list(images)
    run = explain if side == "image" else explain_words
    run(model, shown, prompts, method=scores, score=score, certify=False)
    explained, untouched = scores.scored, scores.untouched
    if side == "text":
        explained, untouched = explained.T, untouched.T
    gaps = (explained - untouched).abs()
    where = divmod(int(gaps.argmax()), gaps.shape[1])
    limit = TOLERANCE[model.dtype] * max(1.0, float(untouched.abs().max()))
    return {
        "gap": float(gaps.max()),
        "limit": limit,
        "image": where[0],
        "prompt": where[1],
        "untouched": float(untouched[where]),
        "explained": float(explained[where]),
        **ranking(untouched, explained),
    }


def _judge(subject: Subject, numbers: dict[str, Any]) -> Finding:
    sides: Mapping[str, Mapping[str, dict[str, Any]]] = numbers["sides"]
    cells = [(side, dtype, cell) for side, by in sides.items() for dtype, cell in by.items()]
    wrong = [each for each in cells if not each[2]["gap"] <= each[2]["limit"]]
    code = code_of(subject.method, "plan")
    if wrong:
        text = " ".join(_violated(side, by) for side, by in sides.items() if _first_wrong(by))
        return Finding("parity", 1, QUESTION, "violated", text, numbers, code)
    if not cells:
        why = "; ".join(f"{side} side: {told}" for side, told in numbers["left out"].items())
        return Finding(
            "parity", 1, QUESTION, "cannot tell", f"Nothing was compared: {why}.", numbers
        )
    gaps = ", ".join(f"{cell['gap']:.1g} in {dtype} ({side})" for side, dtype, cell in cells)
    text = f"the explained pass scores as the untouched model does: largest gaps {gaps}"
    text += "".join(
        f"; {side} side not compared: {told}" for side, told in numbers["left out"].items()
    )
    return Finding("parity", 1, QUESTION, "holds", text, numbers, code)


def _first_wrong(by_dtype: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    wrong = (cell for cell in by_dtype.values() if not cell["gap"] <= cell["limit"])
    return next(wrong, None)


def _violated(side: str, by_dtype: Mapping[str, dict[str, Any]]) -> str:
    cell = _first_wrong(by_dtype)
    assert cell is not None
    dtypes = [name for name, each in by_dtype.items() if not each["gap"] <= each["limit"]]
    text = (
        f"The pass that is explained on the {side} side scores {cell['explained']:.4g} where the "
        f"untouched model scores {cell['untouched']:.4g} (allowed gap {cell['limit']:.1g}; "
        f"{', '.join(dtypes)})"
    )
    if cell["prompts"] > 1:
        text += f"; the best prompt changes for {cell['best prompt flips']} of {cell['images']}"
        if cell["spearman"] is not None:
            text += f", ranks of prompts agree to {cell['spearman']:.2f} (Spearman)"
    return f"{text}."
