"""Check which model a map is really of: put what the method uses in its place, and measure it."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof import scores
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    register_check,
)
from heatproof.auditing.comparison import code_of, percent, rank_agreement
from heatproof.auditing.drawing import reference
from heatproof.auditing.zero_shot import Accuracy, accuracy
from heatproof.evaluation.subject import Subject
from heatproof.methods import ExplainedTower
from heatproof.models import Model
from heatproof.plots import chart
from heatproof.plots.chart import IntervalPoint
from heatproof.reading import Intervention, reading
from heatproof.tolerances import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 32
Changes = Mapping[str, Intervention]


@register_check
@dataclass(frozen=True)
class ImpliedModelCheck(AuditCheck):
    """Measure every model that the method implies: embedding, ranks of prompts, accuracy.

    What the method uses in the model's place is put back as interventions (`Method.implied`).
    Violated where the embedding moves by more than ten roundings.
    """

    card = CheckCard(
        name="implied-model",
        title="implied model",
        principle=1,
        place=5,
        question="Which model is the map of, and how good is that model?",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure the model and those in its place on a few images, and on `zero_shot`."""
        method = subject.method
        # What user code does inside is unknown; another check watches its forward pass.
        if method.foreign:
            text = "What user code puts in the model's place is not known."
            return self.finding("not applicable", text)
        few = context.first(2 * context.extra, 6)
        implied = method.implied(tower_of(few.model, few.pixels()))
        code = code_of(method, "implied")
        if not implied:
            substituted = method.factors("image").substituted
            if substituted:
                text = (
                    "The method puts no model in the place of yours, but its maps contain "
                    f"{'; '.join(substituted)}."
                )
                return self.finding("not applicable", text, code=code)
            text = "The method replaces nothing that your model computes: the map is of your model."
            return self.finding("holds", text, code=code)
        numbers = _measure(few, implied)
        # Ten roundings: an embedding is longer than one score, whose tolerance this is.
        limit = 10 * numbers["limit"]
        # `not <=` in place of `>`: a NaN counts as moved.
        moved = any(not one["embedding change"] <= limit for one in numbers["models"].values())
        verdict = "violated" if moved else "holds"
        return self.finding(verdict, _in_words(numbers), numbers, code)

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw the accuracy of your model and of those in its place, and how near they are."""
        models: dict[str, Numbers] = numbers["models"]
        if not models:
            return None
        named = {
            "your model": numbers.get("yours", {}),
            **{f"with {name}": model for name, model in models.items()},
        }
        accuracies = {name: chart.point(model.get("accuracy")) for name, model in named.items()}
        labelled = any(accuracies.values())
        figure, panels = chart.new_chart(len(named), 2 if labelled else 1)
        rows = [fill(name, 30) for name in named]
        if labelled:
            chart.label_rows(panels[0], rows)
            for row, value in enumerate(accuracies.values()):
                if value is not None:
                    chart.bar(panels[0], row, value, chart.INK if row == 0 else chart.OURS)
            chance = chart.finite(numbers["yours"]["accuracy"].get("chance"))
            if chance is not None:
                reference(panels[0], "chance", x=chance)
                chart.legend(panels[0], [("chance", chart.RIVAL, "--")])
            panels[0].set_xlim(0, 1)
            panels[0].set_xlabel("accuracy")
        chart.label_rows(panels[-1], [""] * len(rows) if labelled else rows)
        for row, model in enumerate(named.values()):
            mean = 1.0 if row == 0 else chart.finite(model["embedding cosine"])
            if mean is not None:
                low = chart.finite(model.get("lowest embedding cosine", mean))
                point = IntervalPoint(mean, mean if low is None else low, mean)
                chart.dot(panels[-1], point, row, name="yours" if row == 0 else "ours")
        panels[-1].axvline(1, color=chart.RIVAL, linestyle="--")
        short = "cosine to your embedding" if labelled else "cosine to your model's embedding"
        panels[-1].set_xlabel(short)
        return figure


def tower_of(model: Model, pixels: Tensor) -> ExplainedTower:
    """Return the image tower as `Method.implied` takes it, for images of this size."""
    layers = model.attention_layers("image", pixels.shape[-2:])
    layout = model.image.layout(*pixels.shape[-2:])
    start = len(layout.prefix)
    content = slice(start, start + layout.rows * layout.cols)
    return ExplainedTower(model.module, "image", layers, model.image.readout.row, content)


def _measure(context: CheckContext, implied: Mapping[str, Changes]) -> dict[str, Any]:
    model, pixels, texts = context.model, context.pixels(), context.embeddings().cpu()
    task = context.zero_shot
    prepared = None if task is None else task.prepared(model)

    def accuracy_with(changes: Changes | None) -> Accuracy | None:
        if task is None or prepared is None:
            return None
        embeddings = _encode(model, prepared[0], changes)
        return accuracy(model, embeddings, prepared[1].cpu(), task.right)

    original, own_accuracy = _encode(model, pixels, None), accuracy_with(None)
    models: dict[str, Any] = {}
    for name, changes in implied.items():
        embeddings, its_accuracy = _encode(model, pixels, changes), accuracy_with(changes)
        cosine = F.cosine_similarity(embeddings, original, dim=1)
        models[name] = {
            "embedding cosine": float(cosine.mean()),
            "lowest embedding cosine": float(cosine.min()),
            "embedding change": float((embeddings - original).norm() / original.norm()),
            **rank_agreement(_logits(model, original, texts), _logits(model, embeddings, texts)),
            **_plain(its_accuracy),
            **(its_accuracy.against(own_accuracy) if its_accuracy and own_accuracy else {}),
        }
    return {
        "models": models,
        "yours": _plain(own_accuracy),
        "task": None if task is None else task.name,
        "images": len(pixels),
        "limit": TOLERANCE[model.precision],
    }


def _encode(model: Model, pixels: Tensor, changes: Changes | None) -> Float[Tensor, "image dim"]:
    parts: list[Tensor] = []
    with torch.no_grad():
        for some in pixels.split(BATCH):
            context = reading(model.module, [], interventions=changes)
            with context if changes else nullcontext():
                parts.append(model.image.encode(some).cpu())
    embeddings = torch.cat(parts)
    # Cosines of half-precision embeddings would round to a few steps.
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def _plain(measured: Accuracy | None) -> dict[str, Any]:
    if measured is None:
        return {}
    return {"accuracy": measured.plain(), "accuracy text": str(measured)}


def _logits(model: Model, embeddings: Tensor, texts: Tensor) -> Tensor:
    return scores.pairs(model, embeddings.to(texts), texts).logit


def _in_words(numbers: dict[str, Any]) -> str:
    models: dict[str, dict[str, Any]] = numbers["models"]
    moves = "; ".join(
        f"with {name}, embeddings move by {percent(one['embedding change'])} "
        f"(cosine {one['embedding cosine']:.3f}){_flips(one)}"
        for name, one in models.items()
    )
    moves = f"{moves[0].upper()}{moves[1:]}."
    if numbers["task"] is None:
        return f"{moves} (No images with labels: no accuracy.)"
    accuracies = ", ".join(
        f"{one['accuracy text']} with {name}: {one['lost']} lost, {one['gained']} gained"
        for name, one in models.items()
    )
    # The last model has all changes together.
    whole = list(models)[-1]
    return (
        f"This is the map of a model with {models[whole]['accuracy']['value']:.1%} accuracy at "
        f"{numbers['task']}; yours has {numbers['yours']['accuracy text']} ({accuracies}). {moves}"
    )


def _flips(model: dict[str, Any]) -> str:
    if model["prompts"] < 2:
        return ""
    return f", the best prompt changes for {model['best prompt flips']} of {model['images']} images"
