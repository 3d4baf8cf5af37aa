"""Hiding patches: by true token removal, and by filling pixels; what the score then is."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.auditing.task import AuditTask
from heatproof.imputers.fills import blurred_by_a_patch, mean_colour
from heatproof.models import Model
from heatproof.reading import AttentionLayer
from heatproof.reading.token_dropping import encode_visible

Fill = Callable[[Tensor], Tensor]
"""(image, 3, height, width) -> what stands in the place of hidden pixels, of the same shape."""


def fills(model: Model, grid: tuple[int, int]) -> Mapping[str, Fill]:
    """The picture's own mean colour, the picture blurred over a patch, black."""
    black = model.image.preprocess.level(0)
    return {
        "mean": lambda pixels: mean_colour(pixels).expand_as(pixels),
        "blur": partial(blurred_by_a_patch, grid=grid),
        "black": lambda pixels: black.to(pixels).view(3, 1, 1).expand_as(pixels),
    }


def scores_without(
    bench: AuditTask,
    rows: Tensor,
    hidden: Bool[Tensor, "image row col"],
    only: Collection[str] = ("tokens", "mean", "blur", "black"),
) -> dict[str, Float[Tensor, "image prompt"]]:
    """Scores of these pictures with patches hidden, by the way of hiding; "tokens" where the
    model's tokens are patches in every attention call."""
    pixels = bench.pixels[rows]
    place = F.interpolate(hidden[:, None].float(), pixels.shape[-2:], mode="nearest").bool()
    place = place.to(pixels.device)
    made: dict[str, Tensor] = {}
    sites = _token_sites(bench)
    if "tokens" in only and sites:
        each, cells = torch.arange(len(pixels)), ~hidden.flatten(1)
        with torch.no_grad():
            images = encode_visible(bench.model, sites, pixels, each, cells, bench.batch_size)
        made["tokens"] = bench.compare(images, _texts(bench))
    for name, fill in fills(bench.model, bench.grid).items():
        if name in only:
            made[name] = _scored(bench, torch.where(place, fill(pixels), pixels))
    return made


def _scored(bench: AuditTask, pixels: Tensor) -> Tensor:
    return bench.compare(bench.encode(pixels), _texts(bench))


def _texts(bench: AuditTask) -> Tensor:
    from heatproof.engine import inputs

    prompts = bench.data.prompts
    return bench.kept(("texts",), lambda: inputs.prompts(bench.model, prompts).embeddings)


def _token_sites(bench: AuditTask) -> tuple[AttentionLayer, ...]:
    """All calls of the tower, or none where one of them has other tokens than patches."""
    process = bench.model.image.preprocess
    tokens = bench.model.image.layout(process.height, process.width).tokens
    return (
        bench.attention_layers
        if all(site.keys == tokens for site in bench.attention_layers)
        else ()
    )
