"""When a cheaper way of running a model gives what the model itself gives."""

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import HeatproofError

# Relative, by the dtype in which the model runs.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}

# What a block says when it is not made for other rows than all: rotary positions, masks, windows.
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, HeatproofError)


def agree(
    cheap: Float[Tensor, "item dim"], own: Float[Tensor, "item dim"], dtype: torch.dtype
) -> bool:
    """Item by item, relative to the length of the model's own."""
    if cheap.shape != own.shape:
        return False
    gaps = (cheap - own).norm(dim=-1)
    return bool((gaps <= TOLERANCE[dtype] * own.norm(dim=-1)).all())
