"""The cost of two methods on one model: passes, gradients, saved tensors, time, memory.

Each quantity has a run of its own, after a warm-up, so that no meter runs while time is taken.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.engine.api import explain
from heatproof.engine.memory import MemoryTracker
from heatproof.methods import Method, ReadPass
from heatproof.models import load
from heatproof.models.model import Model
from heatproof.proofs.models import ValueRecorder
from heatproof.specimens import embeddings, picture

REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """The cost of one method for one image and one prompt.

    saved_tensors: tensors that autograd saves for the backward pass, parameters not counted;
        `saved_bytes` their size.
    peak_bytes: the most memory allocated at once.
    """

    method: str
    reads: str
    passes: int
    gradients: int
    saved_tensors: int
    saved_bytes: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """Both methods measured in one run on the named model."""

    model: str
    device: str
    threads: int
    sides: tuple[MethodCost, MethodCost]

    def ratio(self, quantity: str) -> float | None:
        """Return the second method's cost over the first's; None where the first needs none."""
        one, other = (getattr(side, quantity) for side in self.sides)
        return other / one if one else None


class _Metered(ValueRecorder):
    """Counts how often a gradient is taken of the scores."""

    gradients = 0

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        # Methods without gradients get scores that have no graph.
        if read.scores.requires_grad:
            read.scores.register_hook(self._count)
        return super().attribute(read)

    def _count(self, gradient: Tensor) -> None:
        del gradient
        self.gradients += 1


def measure(methods: tuple[Method, Method], spec: str = "scenes", device: str = "cpu") -> Cost:
    """Measure both methods on one image and one prompt, in float32, in turn."""
    model = load(spec, device=device)
    pixels = picture(model, 1)
    targets: Any = list(model.classes[:1]) if model.classes else embeddings(model, 1)
    runs = [_Run(model, method, pixels, targets) for method in methods]
    # The first run pays for lazy initialisation and caches: it is not measured.
    for run in runs:
        run()
    timed: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        # In turn, so that a slow moment of the machine hits both methods.
        for run, seconds in zip(runs, timed, strict=True):
            seconds.append(run.timed())
    sides = [run.side(statistics.median(s)) for run, s in zip(runs, timed, strict=True)]
    return Cost(spec, str(model.device), torch.get_num_threads(), (sides[0], sides[1]))


class _Run:
    """One method on one input, as often as it is called."""

    def __init__(self, model: Model, method: Method, pixels: Tensor, targets: Any) -> None:
        self.passes = 0
        self.method, self.pixels, self.targets = method, pixels, targets
        # The encoder itself is counted: a method may call it more often than once per explanation.
        encode = model.image.encode

        def counted(images: Tensor) -> Tensor:
            self.passes += 1
            return encode(images)

        self.model = replace(model, image=replace(model.image, encode=counted))

    def __call__(self, method: Method | None = None) -> None:
        method = method or self.method
        explain(self.model, self.pixels, self.targets, method=method, certify=False)

    def timed(self) -> float:
        _wait(self.model.device)
        start = time.perf_counter()
        self()
        _wait(self.model.device)
        return time.perf_counter() - start

    def side(self, seconds: float) -> MethodCost:
        metered = _Metered(self.method)
        self.passes = 0
        self(metered)
        passes = self.passes
        # Parameters and the input exist with or without a gradient: no method pays for them.
        own = [*self.model.module.parameters(), *self.model.module.buffers(), self.pixels]
        with saved_for_backward(own) as saved:
            self()
        peak = _peak(self, self.model.device, own)
        name = self.method.card.name
        size = sum(storage.nbytes() for storage in saved.values())
        return MethodCost(
            method=name,
            reads=self.method.card.reads,
            passes=passes,
            gradients=metered.gradients,
            saved_tensors=len(saved),
            saved_bytes=size,
            seconds=seconds,
            peak_bytes=peak,
        )


@contextmanager
def saved_for_backward(own: Iterable[Tensor]) -> Generator[dict[int, Any]]:
    """Collect the storages that autograd saves for a backward pass, without those of `own`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    saved: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # By storage: several views of one tensor cost its memory once.
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _peak(run: Callable[[], None], device: torch.device, own: Iterable[Tensor]) -> int:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # The CPU has no counter of its own: allocations are tracked operation by operation.
    with MemoryTracker(own) as tracker:
        run()
    return tracker.peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
