"""The same weights at another input size: shells around them, resampled positions."""

import copy
import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import interpolate

from heatproof.errors import ModelError
from heatproof.reading.hooks import no_hooks_change

Size = tuple[int, int]
"""Height and width."""


def pair(size: Any) -> Size:
    """Return height and width of a size that a library gives as one side or as both."""
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)


def shell(module: nn.Module) -> Any:
    """Return new module objects around the very same parameters and buffers."""
    shared = itertools.chain(module.parameters(), module.buffers())
    with no_hooks_change():  # another thread may be reading the module
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def check_multiples(size: Size, patch: Size) -> None:
    """Raise a `ModelError`, with the nearest size that fits, unless patches fill the input."""
    if min(size) >= 1 and not (size[0] % patch[0] or size[1] % patch[1]):
        return
    near = (max(1, round(side / step)) * step for side, step in zip(size, patch, strict=True))
    raise ModelError(
        f"got an input size of {size[0]} x {size[1]}, expected positive multiples of the patch "
        f"size {patch[0]} x {patch[1]}; try {' x '.join(map(str, near))}"
    )


def interpolated(
    embedding: Float[nn.Parameter, "old width"], prefix: int, old: Size, new: Size
) -> Float[nn.Parameter, "new width"]:
    """Resample position embeddings to another grid, bicubic and antialiased as open_clip does.

    The first `prefix` ones belong to no patch and stay.
    """
    with torch.no_grad():
        named, grid = embedding[:prefix], embedding[prefix:]
        grid = grid.unflatten(0, old).permute(2, 0, 1).unsqueeze(0)
        computed = grid if grid.dtype == torch.float64 else grid.float()
        grid = interpolate(computed, size=new, mode="bicubic", antialias=True, align_corners=False)
        grid = grid.squeeze(0).flatten(1).T.to(embedding.dtype)
        return nn.Parameter(torch.cat([named, grid]), requires_grad=embedding.requires_grad)
