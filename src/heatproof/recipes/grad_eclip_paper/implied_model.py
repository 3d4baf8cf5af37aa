"""(b) "Not those of the original model": what one head does to scores, rankings and accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.evaluation.store import Part
from heatproof.models import Model
from heatproof.reading import AttentionLayer, Intervention
from heatproof.reading.interventions import one_head
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels
from heatproof.recipes.grad_eclip_paper.inputs import Task
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, image_sites, text_sites
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired, share
from heatproof.statistics import SHARE, of_differences, spearman

PROMPTS = 6
COSINE = of_differences(SHARE)
"""The bounds of a cosine and of a correlation."""


def measure(study: Study) -> Part | None:
    """Measure what one head changes.

    Accuracy and embedding cosine with the last n layers one-headed, on either side; scores and
    rankings of the published forward pass (one layer); and an example of six prompts.
    """
    if not study.material.tasks:
        return None
    tasks = [_task(study, task) for task in study.material.tasks]
    return {"tasks": tasks, "example": tasks[-1]["example"]}


def _task(study: Study, task: Task) -> Part:
    part = study.store.part(f"b-{task.name.replace(' ', '-')}", lambda: _measured(study, task))
    return {"name": task.name, "classes": len(task.names), "chance": task.chance, **part}


def _measured(study: Study, task: Task) -> Part:
    model, labels = study.model, task.labels
    study.watch(f"one head in place of many, {task.name}", 0, 1)
    pixels = native_pixels(model, task.photos)
    pictures, texts = encode_pictures(model, pixels), task.classifier(model)
    tokens = _tokens(model, task)
    sides: dict[str, list[Part]] = {"image": [], "text": []}
    published: Tensor = pictures
    for side, sites in (("image", image_sites(model, pixels)), ("text", text_sites(model, tokens))):
        # 0 is the untouched model: its row checks the measurement itself.
        for count in range(len(sites) + 1):
            changes = one_headed(sites, count)
            if side == "image":
                here, classes = encode_pictures(model, pixels, changes), texts
                cosine = (here * pictures).sum(-1)
                published = here if count == 1 else published
            else:
                here, classes = pictures, task.classifier(model, interventions=changes)
                cosine = (classes * texts).sum(-1)
            # Rounding may put a cosine of equal vectors above one, out of its bounds.
            cosine = cosine.clamp(-1, 1)
            hits = (here @ classes.T).argmax(1) == labels
            sides[side].append(
                {
                    "layers": count,
                    "accuracy": share(hits),
                    "embedding cosine": mean(cosine, COSINE),
                }
            )
    study.watch(f"one head in place of many, {task.name}", 1, 1)
    before, after = pictures @ texts.T, published @ texts.T
    return {
        "pictures": len(labels),
        "sides": sides,
        "forward": _forward(before, after, labels),
        "example": _example(before, after, task),
    }


def one_headed(sites: Sequence[AttentionLayer], count: int) -> Mapping[str, Intervention]:
    """Return one head over the full width for the last `count` attention layers."""
    return {site.path: one_head() for site in sites[len(sites) - count :]}


def _tokens(model: Model, task: Task) -> Any:
    assert model.text is not None
    return model.text.tokenize([task.prompts[0][0]])


def _forward(
    before: Float[Tensor, "item class"],
    after: Float[Tensor, "item class"],
    labels: Int[Tensor, " item"],
) -> Part:
    gap = (after - before).abs()
    changed = before.argmax(1) != after.argmax(1)
    right = [(scores.argmax(1) == labels) for scores in (before, after)]
    return {
        "mean gap": mean(gap.mean(1)),
        "largest gap": float(gap.max()),
        "spread of the original": float(before.std(1).mean()),
        "rank correlation": mean(spearman(before, after), COSINE),
        "best match changes": share(changed),
        "accuracy change": paired(right[1].double(), right[0].double(), SHARE),
        "right to wrong": share(right[0] & ~right[1]),
        "wrong to right": share(~right[0] & right[1]),
    }


def _example(before: Tensor, after: Tensor, task: Task) -> Part:
    """The six classes that the original model likes best of one picture: the first picture whose
    best match is right and changes, else the first whose best match changes, else the first."""
    changed: Bool[Tensor, " item"] = before.argmax(1) != after.argmax(1)
    right = before.argmax(1) == task.labels
    lists = (torch.nonzero(changed & right)[:, 0], torch.nonzero(changed)[:, 0], torch.tensor([0]))
    picture = int(next(rows[0] for rows in lists if len(rows)))
    shown = before[picture].topk(min(PROMPTS, before.shape[1])).indices
    return {
        "task": task.name,
        "picture": picture,
        "changed pictures": int(changed.sum()),
        "of pictures": len(changed),
        "changes": bool(changed[picture]),
        "label": task.names[int(task.labels[picture])],
        "prompts": [task.prompts[int(n)][0] for n in shown],
        "original": before[picture, shown].tolist(),
        "grad-eclip": after[picture, shown].tolist(),
    }
