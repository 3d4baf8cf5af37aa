"""Maps made anew for a metric, in batches: of other pictures, other prompts, another model."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.metrics.base import Trial
from heatproof.metrics.imputers import pictures


def made_again(
    trial: Trial,
    change: Callable[[Float[Tensor, "row 3 height width"]], Float[Tensor, "row 3 height width"]]
    | None = None,
    *,
    prompt: str | None = None,
    seed: int | None = None,
) -> Float[Tensor, "item cell"]:
    """The maps of all items by the trial's method, in float64 on the CPU.

    Args:
        change: of the items' pictures, `Trial.batch_size` of them at a time.
    """
    assert trial.explain is not None
    found: list[Tensor] = []
    for rows in torch.arange(len(trial)).split(trial.batch_size):
        pixels = None
        if change is not None:
            pixels = change(pictures(trial, slice(int(rows[0]), int(rows[-1]) + 1)))
        maps = trial.explain(rows, pixels, prompt=prompt, seed=seed)
        found.append(maps.detach().cpu().double().flatten(1))
    return torch.cat(found)


def own_maps(trial: Trial) -> Float[Tensor, "item cell"]:
    return trial.maps.cpu().double().flatten(1)
