"""Check that the forward pass that a method explains scores as the untouched model does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    register_check,
)
from heatproof.auditing.comparison import code_of, rank_agreement
from heatproof.auditing.drawing import against_limits
from heatproof.engine.api import explain, explain_words
from heatproof.errors import PromptError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Method, ReadPass, Side
from heatproof.methods.proxy import MethodProxy
from heatproof.plots import chart
from heatproof.reading.weight_edits import in_dtype
from heatproof.tolerances import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
Cell = dict[str, Any]
"""What was measured of one side in one number format."""


@register_check
@dataclass(frozen=True)
class ParityCheck(AuditCheck):
    """Compare the scores of the method's own pass with those of an untouched one.

    Images in every number format, words in the model's own. The tolerance is the certificate's.
    """

    card = CheckCard(
        name="parity",
        title="parity",
        principle=1,
        place=1,
        question="Does the pass that was explained score as the untouched model does?",
        answers="own pass",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Compare both passes; the weights are cast in place and restored."""
        # There is no pass of ours to compare.
        if subject.method.foreign:
            text = "User code makes its own passes; the forward monitor watches them."
            return self.finding("not applicable", text)
        few = context.first(2 * context.extra, 6)
        numbers: dict[str, Any] = {"sides": {}, "left out": {}}
        for side in subject.method.card.sides:
            if side == "text" and not _has_words(few):
                numbers["left out"]["text"] = "no words: prompts were given as embeddings"
                continue
            cells: dict[str, Cell] = {}
            for dtype in DTYPES if side == "image" else (few.model.dtype,):
                try:
                    # Rounding differs by format, so each is compared with its own tolerance.
                    with in_dtype(few.model.module, dtype):
                        cells[str(dtype).removeprefix("torch.")] = _compare(subject, few, side)
                except PromptError as error:
                    numbers["left out"][side] = str(error)
            if cells:
                numbers["sides"][side] = cells
        return self._judge(subject, numbers)

    def _judge(self, subject: Subject, numbers: dict[str, Any]) -> Finding:
        sides: Mapping[str, Mapping[str, Cell]] = numbers["sides"]
        left_out = [f"{side} side: {why}" for side, why in numbers["left out"].items()]
        code = code_of(subject.method, "plan")
        wrong = {side: _beyond_limit(cells) for side, cells in sides.items()}
        if any(wrong.values()):
            text = " ".join(_gap_in_words(side, cells) for side, cells in wrong.items() if cells)
            return self.finding("violated", text, numbers, code)
        if not sides:
            text = f"Nothing was compared: {'; '.join(left_out)}."
            return self.finding("cannot tell", text, numbers)
        gaps = ", ".join(
            f"{cell['gap']:.1g} in {dtype} ({side})"
            for side, cells in sides.items()
            for dtype, cell in cells.items()
        )
        text = f"The explained pass scores as the untouched model does; largest gaps: {gaps}"
        text += "".join(f"; not compared: {why}" for why in left_out)
        return self.finding("holds", f"{text}.", numbers, code)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw gap and limit, a row per side and number format."""
        gaps = {
            f"{side}, {dtype}": (chart.finite(cell["gap"]), float(cell["limit"]))
            for side, cells in numbers["sides"].items()
            for dtype, cell in cells.items()
        }
        label = "largest gap between the explained score and the untouched one (log)"
        return against_limits(gaps, label)


class _ScoreRecorder(MethodProxy):
    """Keep the scores of a method's own pass beside those of an untouched pass.

    Both are (item, target): images and prompts on the image side, the other way on the text side.
    No map is computed.
    """

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.explained_scores: list[Tensor] = []
        self.untouched_scores: list[Tensor] = []

    def attribute(self, read: ReadPass) -> Tensor:
        with torch.no_grad():
            # The same batch, with nothing read and nothing changed.
            self.untouched_scores.append(read.rerun().cpu())
        items, keys = read.last.key.shape[0], read.last.key.shape[2]
        # The map is not looked at: only the scores of the pass are.
        return torch.zeros(items, read.targets, keys)

    def total(self, read: ReadPass) -> None:
        del read

    def explained(self, read: ReadPass) -> Tensor:
        scores = super().explained(read)
        self.explained_scores.append(scores.detach().cpu())
        return scores


def _has_words(context: CheckContext) -> bool:
    prompts = context.prompts
    embeddings = isinstance(prompts, Tensor) and prompts.is_floating_point()
    return context.model.text is not None and not embeddings


def _compare(subject: Subject, context: CheckContext, side: Side) -> Cell:
    recorder = _ScoreRecorder(subject.method)
    images = context.images if isinstance(context.images, Tensor) else list(context.images)
    run = explain if side == "image" else explain_words
    run(context.model, images, context.prompts, method=recorder, certify=False)
    explained = torch.cat(recorder.explained_scores)
    untouched = torch.cat(recorder.untouched_scores)
    # Both sides are compared as (image, prompt).
    if side == "text":
        explained, untouched = explained.T, untouched.T
    gaps = (explained - untouched).abs()
    image, prompt = divmod(int(gaps.argmax()), gaps.shape[1])
    return {
        "gap": float(gaps.max()),
        "limit": TOLERANCE[context.model.dtype] * max(1.0, float(untouched.abs().max())),
        "image": image,
        "prompt": prompt,
        "untouched": float(untouched[image, prompt]),
        "explained": float(explained[image, prompt]),
        **rank_agreement(untouched, explained),
    }


def _beyond_limit(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return the number formats whose gap is beyond the limit; a NaN is beyond every limit."""
    return {dtype: cell for dtype, cell in cells.items() if not cell["gap"] <= cell["limit"]}


def _gap_in_words(side: str, wrong: Mapping[str, Cell]) -> str:
    cell = next(iter(wrong.values()))
    text = (
        f"The pass that is explained on the {side} side scores {cell['explained']:.4g} where the "
        f"untouched model scores {cell['untouched']:.4g} (allowed gap {cell['limit']:.1g}; "
        f"{', '.join(wrong)})"
    )
    if cell["prompts"] > 1:
        text += f"; the best prompt changes for {cell['best prompt flips']} of {cell['images']}"
        if cell["spearman"] is not None:
            text += f" images, Spearman's correlation of prompt ranks is {cell['spearman']:.2f}"
    return f"{text}."
