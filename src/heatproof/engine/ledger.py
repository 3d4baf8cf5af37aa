"""What tensors take while they live, and how many inputs fit a given memory on that evidence."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heatproof.checking import size_in_bytes
from heatproof.models.model import Model


def encoded_together(
    model: Model, encode: Callable[[], Tensor], memory: int | str | None, most: int
) -> int:
    """How many inputs fit `memory` on their way to embeddings, by what `encode` takes for one."""
    if memory is None:
        return most
    with torch.no_grad(), Ledger(own(model)) as ledger:
        encode()
    return max(1, min(most, size_in_bytes(memory) // max(1, ledger.peak)))


def own(model: Model, *inputs: Tensor | None) -> list[Tensor]:
    mine = [*model.module.parameters(), *model.module.buffers()]
    return mine + [each for each in inputs if each is not None]


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
