"""Hide patches, by removing their tokens or filling their pixels, and score what is left."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.auditing.task import AuditTask
from heatproof.evaluation.task import EvaluationTask
from heatproof.imputers.fills import blurred_by_a_patch, mean_colour
from heatproof.reading.token_dropping import encode_visible

Fill = Callable[[Tensor], Tensor]
"""(image, 3, height, width) -> what stands in the place of hidden pixels, of the same shape."""


def fills(task: EvaluationTask) -> Mapping[str, Fill]:
    """Return fills by name: the image's mean colour, the image blurred over a patch, black."""
    black = task.model.image.preprocess.level(0)
    return {
        "mean": lambda pixels: mean_colour(pixels).expand_as(pixels),
        "blur": partial(blurred_by_a_patch, grid=task.grid),
        "black": lambda pixels: black.to(pixels).view(3, 1, 1).expand_as(pixels),
    }


def scores_without(
    task: AuditTask,
    rows: Tensor,
    hidden: Bool[Tensor, "image row col"],
    only: Collection[str] = ("tokens", "mean", "blur", "black"),
) -> dict[str, Float[Tensor, "image prompt"]]:
    """Score these images with patches hidden, by each way of hiding them.

    "tokens" takes the patches' tokens out of every attention layer; it is left out where the tokens
    of a layer are not the patches.
    """
    pixels = task.pixels[rows]
    # A patch of the grid covers a block of pixels.
    place = F.interpolate(hidden[:, None].float(), pixels.shape[-2:], mode="nearest").bool()
    place = place.to(pixels.device)
    scores: dict[str, Tensor] = {}
    if "tokens" in only and _tokens_are_patches(task):
        item, cells = torch.arange(len(pixels)), ~hidden.flatten(1)
        with torch.no_grad():
            images = encode_visible(
                task.model, task.attention_layers, pixels, item, cells, task.batch_size
            )
        scores["tokens"] = task.compare(images, task.embeddings)
    for name, fill in fills(task).items():
        if name in only:
            images = task.encode(torch.where(place, fill(pixels), pixels))
            scores[name] = task.compare(images, task.embeddings)
    return scores


def _tokens_are_patches(task: AuditTask) -> bool:
    process = task.model.image.preprocess
    tokens = task.model.image.layout(process.height, process.width).tokens
    return all(layer.keys == tokens for layer in task.attention_layers)
