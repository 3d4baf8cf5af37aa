"""How much memory explaining may take, and how many inputs go through a model together in it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from heatproof.checking import size_in_bytes
from heatproof.engine.forward import Attribution
from heatproof.engine.ledger import Ledger, own
from heatproof.errors import InputError
from heatproof.methods.pass_context import GRADIENTS_AT_ONCE, Batch
from heatproof.models.model import Model

# What is measured on one input is measured for this many targets at most.
TARGETS = 4


@dataclass(frozen=True)
class Budget:
    """How many inputs go together, and how many bytes several targets' gradients may take."""

    items: int
    gradients: int = GRADIENTS_AT_ONCE


def fitted(
    model: Model,
    chunks: Callable[[int], list[Batch]],
    run: Callable[[Batch], Attribution],
    memory: int | str | None,
    most: int,
) -> Budget:
    """What fits `memory`, at most `most` inputs, by what the first input takes on its own.

    The memory is that of tensors beside the model, the inputs and the maps. Half is for the pass
    and its graph, half for the gradients of several targets at once.

    Raises:
        InputError: it is too little for one input.
    """
    if memory is None:
        return Budget(most)
    limit = size_in_bytes(memory)
    if most < 1:
        raise InputError(f"got batch_size={most}, expected at least 1")
    first = chunks(1)[0]
    alone = replace(
        first, gradient_bytes=1, targets=TARGETS, width=0, closed_form=None, compare=_fewer(first)
    )
    with Ledger(own(model, first.pixels)) as ledger:
        run(alone)
    if ledger.peak > limit:
        raise InputError(
            f"one input takes {ledger.peak / 2**20:.0f} MiB with this model and method, got "
            f"memory={memory!r}; try more memory, a smaller image size, or attention-x-gradient"
        )
    items = max(1, min(most, limit // 2 // max(1, ledger.peak)))
    return Budget(items, max(1, limit - items * ledger.peak))


def _fewer(chunk: Batch) -> Callable[[Tensor], Tensor]:
    return lambda embedding: chunk.compare(embedding)[:, :TARGETS]
