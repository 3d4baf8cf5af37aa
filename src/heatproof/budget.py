"""How much memory explaining may take, and how many inputs go through a model together in it."""

import re
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heatproof.errors import InputError
from heatproof.methods.base import GRADIENTS_AT_ONCE
from heatproof.models.model import Model
from heatproof.passes import Chunk, Outcome

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
# What is measured on one input is measured for this many targets at most.
TARGETS = 4


@dataclass(frozen=True)
class Budget:
    """How many inputs go together, and how many bytes several targets' gradients may take."""

    items: int
    gradients: int = GRADIENTS_AT_ONCE


def parse(memory: int | str) -> int:
    """Bytes of "2GiB", "500 MB" or a number.

    Raises:
        InputError: something else, or nothing at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", str(memory).lower())
    size = 0 if found is None else int(float(found[1]) * UNITS[found[2] or ""])
    if size <= 0:
        raise InputError(f"got memory {memory!r}, expected a size such as '2GiB' or '500MB'")
    return size


def fitted(
    model: Model,
    chunks: Callable[[int], list[Chunk]],
    run: Callable[[Chunk], Outcome],
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
    limit = parse(memory)
    if most < 1:
        raise InputError(f"got batch_size={most}, expected at least 1")
    first = chunks(1)[0]
    alone = replace(
        first, memory=1, targets=TARGETS, width=0, linear_slopes=None, compare=_fewer(first)
    )
    own = [*model.module.parameters(), *model.module.buffers()]
    own += [] if first.pixels is None else [first.pixels]
    with Ledger(own) as ledger:
        run(alone)
    if ledger.peak > limit:
        raise InputError(
            f"one input takes {ledger.peak / 2**20:.0f} MiB with this model and method, got "
            f"memory={memory!r}; try more memory, a smaller image size, or attention-x-gradient"
        )
    items = max(1, min(most, limit // 2 // max(1, ledger.peak)))
    return Budget(items, max(1, limit - items * ledger.peak))


def _fewer(chunk: Chunk) -> Callable[[Tensor], Tensor]:
    return lambda embedding: chunk.compare(embedding)[:, :TARGETS]


class Ledger(TorchDispatchMode):
    """Bytes of all storages that operators return, while they live. What exists before is `own`."""

    def __init__(self, own: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._sizes: dict[int, int] = {t.untyped_storage().data_ptr(): 0 for t in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given and storage.data_ptr() not in self._sizes:
                self._enter(storage)
        return result

    def _enter(self, storage: Any) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        self._sizes[place] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, place)

    def _leave(self, place: int) -> None:
        self.live -= self._sizes.pop(place, 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
