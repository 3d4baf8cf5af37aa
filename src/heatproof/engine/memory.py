"""How many inputs go through a model together within a memory limit, found by measuring one."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heatproof.checking import size_in_bytes
from heatproof.errors import InputError
from heatproof.methods.pass_context import GRADIENTS_AT_ONCE, Batch
from heatproof.models.model import Model


@dataclass(frozen=True)
class BatchPlan:
    """How many inputs go together, and how many bytes several targets' gradients may take."""

    items: int
    gradient_bytes: int = GRADIENTS_AT_ONCE


def plan_batches(
    model: Model,
    probe: Batch,
    run: Callable[[Batch], object],
    memory: int | str,
    most: int,
) -> BatchPlan:
    """Return what fits `memory`, at most `most` inputs, by what running `probe` (one input) takes.

    The limit is on tensors beside the model, the inputs and the maps.

    Raises:
        InputError: it is too little for one input.
    """
    limit = size_in_bytes(memory)
    with MemoryTracker(_present(model, probe.pixels)) as tracker:
        run(probe)
    if tracker.peak > limit:
        raise InputError(
            f"one input takes {tracker.peak / 2**20:.0f} MiB with this model and method, got "
            f"memory={memory!r}; try more memory, a smaller image size, or attention-x-gradient"
        )
    # Half is for the passes and their graphs; what they leave is for several targets' gradients,
    # which the probe took one by one.
    items = max(1, min(most, limit // 2 // max(1, tracker.peak)))
    return BatchPlan(items, max(1, limit - items * tracker.peak))


def largest_batch(
    model: Model, encode: Callable[[], Tensor], memory: int | str | None, most: int
) -> int:
    """Return how many inputs fit `memory` on their way to embeddings.

    encode: encodes one input, which is measured; it is not called where there is no limit.
    """
    if memory is None:
        return most
    with torch.no_grad(), MemoryTracker(_present(model)) as tracker:
        encode()
    return max(1, min(most, size_in_bytes(memory) // max(1, tracker.peak)))


def _present(model: Model, *inputs: Tensor | None) -> list[Tensor]:
    """List the tensors that are there before the measurement and do not count."""
    own = [*model.module.parameters(), *model.module.buffers()]
    return own + [tensor for tensor in inputs if tensor is not None]


class MemoryTracker(TorchDispatchMode):
    """Count the bytes of all storages that operators return, while these are alive.

    `live` are the bytes now, `peak` the most at any time. Unlike a device's own statistics it works
    on the processor too, and sees what this thread allocates alone.
    """

    def __init__(self, present: Iterable[Tensor] = ()) -> None:
        """present: tensors that exist already and do not count."""
        super().__init__()
        self.live, self.peak = 0, 0
        # By address, which names a storage as long as it is alive.
        self._sizes: dict[int, int] = {t.untyped_storage().data_ptr(): 0 for t in present}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            # A view shares the storage of what it was made from: nothing new was allocated.
            if storage.data_ptr() not in given and storage.data_ptr() not in self._sizes:
                self._enter(storage)
        return result

    def _enter(self, storage: Any) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        self._sizes[address] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, address)

    def _leave(self, address: int) -> None:
        self.live -= self._sizes.pop(address, 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
