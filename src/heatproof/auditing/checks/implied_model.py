"""Which model is the map of? What the method uses in the model's place, put back and measured."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof import scores
from heatproof.auditing.base import Finding
from heatproof.auditing.labelled import Accuracy, Labelled, accuracy, prepared
from heatproof.auditing.measures import code_of, percent, ranking
from heatproof.engine import inputs
from heatproof.evaluation.subject import Subject
from heatproof.methods import ExplainedTower
from heatproof.models import Model
from heatproof.reading import Intervention, reading
from heatproof.tolerances import TOLERANCE

QUESTION = "Which model is the map of, and how good is that model?"
BATCH = 32


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    labelled: Labelled | None = None,
) -> Finding:
    """Embedding, ranking of prompts and accuracy of every model that the method implies."""
    if subject.method.foreign:
        text = "what user code puts in the model's place is not known"
        return Finding("implied model", 1, QUESTION, "not applicable", text)
    shown = images if isinstance(images, Tensor) else list(images)
    pixels = inputs.images(model, shown, None).pixels
    texts = inputs.prompts(model, prompts).embeddings
    implied = subject.method.implied(tower_of(model, pixels))
    code = code_of(subject.method, "implied")
    if not implied:
        declared = subject.method.factors("image").substituted
        if declared:
            text = f"the method puts no model in the place of yours, but has {'; '.join(declared)}"
            return Finding("implied model", 1, QUESTION, "not applicable", text, code=code)
        text = "the method puts nothing in the place of what your model computes: the map is of it"
        return Finding("implied model", 1, QUESTION, "holds", text, code=code)
    numbers = _measure(model, pixels, texts, implied, labelled)
    verdict = "violated" if _moved(numbers) else "holds"
    return Finding("implied model", 1, QUESTION, verdict, _sentence(numbers), numbers, code)


def tower_of(model: Model, pixels: Tensor) -> ExplainedTower:
    """The image tower as `Method.implied` takes it, for pictures of this size."""
    sites = model.attention_layers("image", pixels.shape[-2:])
    layout = model.image.layout(*pixels.shape[-2:])
    start = len(layout.prefix)
    content = slice(start, start + layout.rows * layout.cols)
    return ExplainedTower(model.module, "image", sites, model.image.readout.row, content)


def _encode(
    model: Model, pixels: Tensor, changes: Mapping[str, Intervention] | None
) -> Float[Tensor, "image dim"]:
    parts: list[Tensor] = []
    paths: list[str] = []
    with torch.no_grad():
        for some in pixels.split(BATCH):
            context = reading(model.module, paths, interventions=changes)
            with context if changes else nullcontext():
                parts.append(model.image.encode(some).cpu())
    found = torch.cat(parts)
    return found if found.dtype == torch.float64 else found.float()


def _measure(
    model: Model,
    pixels: Tensor,
    texts: Tensor,
    implied: Mapping[str, Mapping[str, Intervention]],
    labelled: Labelled | None,
) -> dict[str, Any]:
    texts = texts.cpu()
    task = None if labelled is None else prepared(model, labelled)

    def named(changes: Mapping[str, Intervention] | None) -> Accuracy | None:
        if labelled is None or task is None:
            return None
        return accuracy(model, _encode(model, task[0], changes), task[1].cpu(), labelled.right)

    original, yours = _encode(model, pixels, None), named(None)
    models: dict[str, Any] = {}
    for name, changes in implied.items():
        embeddings, theirs = _encode(model, pixels, changes), named(changes)
        cosine = F.cosine_similarity(embeddings, original, dim=1)
        models[name] = {
            "embedding cosine": float(cosine.mean()),
            "lowest embedding cosine": float(cosine.min()),
            "embedding change": float((embeddings - original).norm() / original.norm()),
            **ranking(_logits(model, original, texts), _logits(model, embeddings, texts)),
            **_plain(theirs),
            **({} if theirs is None or yours is None else theirs.against(yours)),
        }
    return {
        "models": models,
        "yours": _plain(yours),
        "task": None if labelled is None else labelled.task,
        "images": len(pixels),
        "limit": TOLERANCE[model.precision],
    }


def _plain(found: Accuracy | None) -> dict[str, Any]:
    return {} if found is None else {"accuracy": found.plain(), "accuracy text": str(found)}


def _logits(model: Model, embeddings: Tensor, texts: Tensor) -> Tensor:
    return scores.pairs(model, embeddings.to(texts), texts).logit


def _moved(numbers: dict[str, Any]) -> bool:
    limit = 10 * numbers["limit"]  # ten roundings: an embedding is longer than one score
    return any(not each["embedding change"] <= limit for each in numbers["models"].values())


def _sentence(numbers: dict[str, Any]) -> str:
    parts = [
        f"with {name}, embeddings move by {percent(each['embedding change'])} "
        f"(cosine {each['embedding cosine']:.3f})"
        f"{_flips(each)}"
        for name, each in numbers["models"].items()
    ]
    text = f"{'; '.join(parts)}."
    if numbers["task"] is None:
        return text[0].upper() + text[1:] + " (No pictures with labels: no accuracy.)"
    whole = list(numbers["models"])[-1]
    accurate = ", ".join(
        f"{each['accuracy text']} with {name}: {each['lost']} lost, {each['gained']} gained"
        for name, each in numbers["models"].items()
    )
    return (
        f"This is the map of a model with {numbers['models'][whole]['accuracy']['value']:.1%} "
        f"accuracy at {numbers['task']}; yours has {numbers['yours']['accuracy text']} "
        f"({accurate}). {text[0].upper() + text[1:]}"
    )


def _flips(each: dict[str, Any]) -> str:
    if each["prompts"] < 2:
        return ""
    return f", the best prompt changes for {each['best prompt flips']} of {each['images']}"
