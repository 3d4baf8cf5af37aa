"""Weights changed in place, so that user code on the same module sees it, and put back."""

import hashlib
import itertools
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from heatproof.models import Model
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer, tied ones once."""
    every = itertools.chain(module.parameters(), module.buffers())
    yield from {id(tensor): tensor for tensor in every}.values()


@contextmanager
def kept(module: nn.Module) -> Generator[None]:
    """What is written to weights by `write`, or cast, inside this context is gone after it, after
    errors too: every tensor has its own bits again, in its own memory."""
    before = [(tensor, tensor.data) for tensor in tensors_of(module)]
    try:
        yield
    finally:
        for tensor, data in before:
            tensor.data = data


@contextmanager
def restored(module: nn.Module) -> Generator[None]:
    """As `kept`, against user code that writes into the very memory of the weights."""
    before = [(tensor, tensor.data, tensor.data.clone()) for tensor in tensors_of(module)]
    try:
        yield
    finally:
        for tensor, data, values in before:
            if not torch.equal(data, values):
                data.copy_(values)
            tensor.data = data


def write(tensor: Tensor, values: Tensor) -> None:
    """Give `tensor` other values without touching the memory that `kept` will give back to it."""
    tensor.data = values.to(tensor.dtype)


@contextmanager
def in_dtype(module: nn.Module, dtype: torch.dtype) -> Generator[None]:
    """The same module with all of its weights in `dtype`, for as long as the context lasts.

    Autocast, which would compute in another one, is off meanwhile.
    """
    device = next(tensors_of(module)).device.type
    with kept(module), torch.autocast(device, enabled=False):
        for tensor in tensors_of(module):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        yield


@contextmanager
def formats(model: Model) -> Generator[set[torch.dtype]]:
    """The number formats that the model's modules compute in meanwhile: autocast, which the code
    may turn on by itself, leaves the weights as they are and rounds all the same."""
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
    """The one that rounds most."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def fingerprint(module: nn.Module) -> str:
    """A hash of every parameter and buffer as they now are (`Model.weights_hash` is made once)."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors_of(module):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
