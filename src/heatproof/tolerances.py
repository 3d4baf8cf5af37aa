"""Whether a cheaper way of running a model gives what the model itself gives."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.checking import memory_is_full
from heatproof.errors import ReadingError

log = logging.getLogger(__name__)

# Relative, by the dtype in which the model runs: what its own rounding moves, with some room.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}

# What a block raises that cannot run on some of its rows: rotary positions, masks, windows.
UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ReadingError)


def says_unfit(error: Exception, what: str) -> bool:
    """Return whether an error of the kinds `UNFIT` is about the block itself; if so, log it.

    what: names the block, for the log.
    """
    # A full memory or a failing device says nothing about the block: the caller raises it again and
    # remembers nothing.
    message = str(error)
    if memory_is_full(error) or "CUDA error" in message:
        return False
    reason = f"{type(error).__name__}: {message.strip().partition(chr(10))[0]}"
    log.debug("%s cannot be run the cheaper way, so the whole pass is taken (%s)", what, reason)
    return True


def agree(
    cheap: Float[Tensor, "item dim"], own: Float[Tensor, "item dim"], dtype: torch.dtype
) -> bool:
    """Return whether two embeddings agree, item by item, relative to the length of the model's own.

    dtype: the one in which the model runs.
    """
    if cheap.shape != own.shape:
        return False
    return bool((relative_gaps(cheap, own) <= TOLERANCE[dtype]).all())


def relative_gaps(
    cheap: Float[Tensor, "item dim"], own: Float[Tensor, "item dim"]
) -> Float[Tensor, " item"]:
    """Return how far two embeddings are from each other, relative to the length of the second."""
    gaps, lengths = (cheap - own).norm(dim=-1), own.norm(dim=-1)
    return gaps / lengths.clamp(min=torch.finfo(own.dtype).tiny)
