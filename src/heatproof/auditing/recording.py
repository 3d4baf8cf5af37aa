"""Record what code differentiates, and which pixels it gives to the image tower."""

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from heatproof.models import Model
from heatproof.reading.hooks import hooked

SOME_INPUTS = 256


class _ThreadValues(threading.local):
    """Where the numbers that this thread differentiates go."""

    def __init__(self) -> None:
        self.lists: list[list[float]] = []


_values = _ThreadValues()
_lock = threading.Lock()
_open = 0
_own = torch.autograd.grad, torch.autograd.backward


@contextmanager
def differentiated(values: list[float]) -> Generator[None]:
    """Append every number that this thread differentiates while the context lasts.

    Torch's functions are replaced for the whole process, restored when no thread records any more,
    and do for other threads what they always do.
    """
    global _open, _own
    with _lock:
        if _open == 0:
            # Read anew: another library may have replaced them since the last time.
            _own = torch.autograd.grad, torch.autograd.backward
            torch.autograd.grad, torch.autograd.backward = _grad, _backward  # pyright: ignore
        _open += 1
    _values.lists.append(values)
    try:
        yield
    finally:
        _values.lists.pop()
        with _lock:
            _open -= 1
            if _open == 0:
                torch.autograd.grad, torch.autograd.backward = _own


def _grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **kwargs: Any) -> Any:
    _record(outputs, grad_outputs, kwargs.get("is_grads_batched", False))
    return _own[0](outputs, inputs, grad_outputs, **kwargs)


def _backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
    _record(tensors, grad_tensors)
    return _own[1](tensors, grad_tensors, *args, **kwargs)


def _record(outputs: Any, weights: Any, batched: bool = False) -> None:
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    weights = [weights] if weights is None or isinstance(weights, Tensor) else list(weights)
    # Of a wrong number of weights torch itself complains, in its own words.
    weights = weights if len(weights) == len(outputs) else [None] * len(outputs)
    for values in _values.lists:
        for output, weight in zip(outputs, weights, strict=True):
            if isinstance(output, Tensor):
                total = output.detach() if weight is None else output.detach() * weight.detach()
                # Batched cotangents are one gradient each.
                values.extend(total.flatten(1).sum(1).tolist() if batched else [float(total.sum())])


class InputRecorder:
    """Record the preprocessed pixels that the image tower is given.

    batches: the first of them, up to `SOME_INPUTS` images. count: of all images.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batches: list[Tensor] = []
        self.count = 0
        self._last: Tensor | None = None

    @contextmanager
    def hooked(self) -> Generator[None]:
        """Record while the context lasts."""
        with ExitStack() as stack:
            for module in self.model.module.modules():
                stack.enter_context(hooked(module, before=self._note))
            yield

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        del module
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() == 4 and value.shape[1] == 3:
                self._add(value.detach())

    def _add(self, pixels: Tensor) -> None:
        if self._last is not None and _same(self._last, pixels):
            return  # a module hands its input on to one inside of it
        self._last = pixels.clone()
        self.count += len(pixels)
        if sum(map(len, self.batches)) + len(pixels) <= SOME_INPUTS:
            self.batches.append(self._last)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
