"""Change a module's weights for a while, so that user code that runs the module sees the change."""

import hashlib
import itertools
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from heatproof.models import Model
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer, tied ones once."""
    every = itertools.chain(module.parameters(), module.buffers())
    yield from {id(tensor): tensor for tensor in every}.values()


@contextmanager
def temporary_weights(
    module: nn.Module,
    values: Mapping[str, Tensor] | None = None,
    *,
    restore: Literal["swap", "copy"],
) -> Generator[None]:
    """Restore the module's weights exactly when the context ends, after errors too.

    Args:
        values: new values by their names in the state dict. They are written into the weights' own
            memory, so that views of a weight change as well; only these weights are restored.
        restore: "swap" remembers each tensor's memory and costs nothing: it undoes casts and
            `write`, which leave that memory alone. "copy" remembers the values too, against
            code that writes into the memory itself, and takes as much memory as the weights.
    """
    own = module.state_dict() if values else {}
    tensors = [own[name] for name in values] if values else list(tensors_of(module))
    memory = [tensor.data for tensor in tensors]
    saved = [data.clone() for data in memory] if restore == "copy" else memory
    try:
        with torch.no_grad():
            for name, new in (values or {}).items():
                own[name].copy_(new)
        yield
    finally:
        for tensor, data, before in zip(tensors, memory, saved, strict=True):
            # Weights made in inference mode refuse any write, even of equal values.
            if before is not data and not torch.equal(data, before):
                data.copy_(before)
            tensor.data = data


def write(tensor: Tensor, values: Tensor) -> None:
    """Give a weight other values in new memory, so that `restore="swap"` can undo it."""
    tensor.data = values.to(tensor.dtype)


@contextmanager
def in_dtype(module: nn.Module, dtype: torch.dtype) -> Generator[None]:
    """Hold all of the module's floating-point weights in `dtype` while the context lasts."""
    device = next(tensors_of(module)).device.type
    # Autocast would compute in yet another format.
    with temporary_weights(module, restore="swap"), torch.autocast(device, enabled=False):
        for tensor in tensors_of(module):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        yield


@contextmanager
def computed_dtypes(model: Model) -> Generator[set[torch.dtype]]:
    """Collect the number formats of what the model's modules return while the context lasts.

    Code may turn on autocast by itself: it leaves the weights as they are, and rounds all the same.
    """
    dtypes = {model.dtype}

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        del module, args, kwargs
        if isinstance(output, Tensor) and output.is_floating_point():
            dtypes.add(output.dtype)

    with ExitStack() as stack:
        stack.enter_context(as_python(model.module))
        for module in model.module.modules():
            stack.enter_context(hooked(module, after=note))
        yield dtypes


def coarsest(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the number format that rounds most."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def fingerprint(module: nn.Module) -> str:
    """Hash every parameter and buffer as it now is (`Model.weights_hash` is computed once)."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors_of(module):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
