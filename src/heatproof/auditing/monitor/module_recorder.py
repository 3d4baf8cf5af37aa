"""Record which of a model's modules run while code runs, on what, and what they return.

A call that no other module of the model makes is a *top* call. What an untouched forward pass calls
at the top (its *entries*: the image tower, a projection), user code may call as well: below it, the
model runs itself. Any other top call belongs to a pass of the code's own, layer by layer.
"""

import threading
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map  # pyright: ignore[reportUnknownVariableType]

from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked

# How many elements of an output are enough to tell it from another output of the same input.
SAMPLE = 4096
# How much of the code's own pass is stored whole; what comes after is not compared.
OWN_BYTES = 1 << 28
# Of how many calls of an entry the input is stored: the 1st, 2nd, 3rd, 5th, 9th, ... call.
STORED_INPUTS = 8


@dataclass(frozen=True)
class OutputSample:
    """Evenly picked elements of an output."""

    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "OutputSample":
        """Pick some `SAMPLE` elements."""
        flat = output.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLE)
        return cls(tuple(output.shape), flat[::step].double().cpu())


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module.

    sample: of its output; None where it returned no floating-point tensor.
    whole: its output, stored in passes of the code's own.
    pixels, ids: the latest pixels and token ids that any top call was given.
    """

    path: str
    sample: OutputSample | None
    whole: Tensor | None = None
    pixels: Tensor | None = None
    ids: Tensor | None = None


@dataclass(kw_only=True)
class TopCall:
    """A call that no module of the model made, and the calls below it.

    inputs: positional and keyword arguments; None where they were not stored.
    phase: what a method was doing, "pass" or "attribution"; empty for user code.
    grad, autocast: whether gradients were on, and autocast's number format.
    """

    path: str
    entry: bool
    phase: str
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None
    grad: bool
    autocast: torch.dtype | None
    calls: list[ModuleCall] = field(default_factory=list[ModuleCall])


class ModuleRecorder:
    """Record the calls of a model's modules, and direct uses of its weights.

    Nothing is recorded while `active` is False, nor in other threads.

    entries: paths that an untouched pass calls at the top; None takes every top call for one.
    tops: the top calls, in their order.
    weights: how often each parameter was used while none of the model's modules ran.
    """

    def __init__(
        self, root: nn.Module, entries: Collection[str] | None, *, active: bool = True
    ) -> None:
        self.root, self.entries, self.active = root, entries, active
        self.phase = ""
        self.tops: list[TopCall] = []
        self.weights: Counter[str] = Counter()
        self.running: list[nn.Module] = []
        self._counts: Counter[str] = Counter()
        self._thread = threading.get_ident()
        self._pixels: Tensor | None = None
        self._ids: Tensor | None = None
        self._bytes = 0

    @contextmanager
    def hooked(self) -> Generator["ModuleRecorder"]:
        """Record while the context lasts; no hook is left behind, after errors either."""
        with ExitStack() as stack:
            stack.enter_context(as_python(self.root))
            for path, module in self.root.named_modules():
                before, after = self._before(path), self._after(path)
                stack.enter_context(hooked(module, before=before, after=after, always=True))
            stack.enter_context(_WeightUse(self))
            yield self

    def recording(self) -> bool:
        """Say whether a call made now is recorded."""
        return self.active and threading.get_ident() == self._thread

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self.recording():
                return
            if not self.running:
                self._top(path, args, kwargs)
            self.running.append(module)

        return hook

    def _top(self, path: str, args: Any, kwargs: dict[str, Any]) -> None:
        for tensor in _tensors((args, kwargs)):
            # Pixels and token ids are recognised by their shape: code may feed them to any module.
            if tensor.dim() == 4 and tensor.shape[1] == 3 and tensor.is_floating_point():
                self._pixels = tensor.detach().clone()
            elif tensor.dim() == 2 and not tensor.dtype.is_floating_point:
                self._ids = tensor.detach().clone()
        entry = self.entries is None or path in self.entries
        number = self._counts[path]
        self._counts[path] += 1
        stored = entry and _is_stored(number)
        device = next(self.root.parameters()).device.type
        top = TopCall(
            path=path,
            entry=entry,
            phase=self.phase,
            inputs=tree_map(_copied, (tuple(args), kwargs)) if stored else None,
            grad=torch.is_grad_enabled(),
            autocast=(
                torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            ),
        )
        self.tops.append(top)

    def _after(self, path: str) -> Any:
        def hook(module: nn.Module, *args_and_output: Any) -> None:
            if not self.recording() or all(module is not other for other in self.running):
                return
            # Modules that an error left behind on the stack have no output.
            while self.running.pop() is not module:
                pass
            top = self.tops[-1]
            if top.entry and top.inputs is None:
                return
            output = next(_tensors(args_and_output[-1]), None)
            if output is not None:
                top.calls.append(self._call(path, output, top.entry))

        return hook

    def _call(self, path: str, output: Tensor, entry: bool) -> ModuleCall:
        if not output.is_floating_point():
            return ModuleCall(path, None)
        if entry:
            return ModuleCall(path, OutputSample.of(output))
        self._bytes += output.numel() * output.element_size()
        whole = output.detach().clone() if self._bytes <= OWN_BYTES else None
        return ModuleCall(path, OutputSample.of(output), whole, self._pixels, self._ids)


class _WeightUse(TorchFunctionMode):
    """Count parameters that torch functions are given while no module of the model runs."""

    def __init__(self, recorder: ModuleRecorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.names = {id(weight): name for name, weight in recorder.root.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if self.recorder.recording() and not self.recorder.running:
            for value in (*args, *(kwargs or {}).values()):
                name = self.names.get(id(value)) if isinstance(value, Tensor) else None
                if name is not None and not _asks_for_metadata(func):
                    self.recorder.weights[name] += 1
        return func(*args, **(kwargs or {}))


def _asks_for_metadata(func: Any) -> bool:
    """Say whether a function asks for shape, dtype or device alone, which uses no values."""
    name = getattr(func, "__name__", "")
    owner = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    metadata = ("shape", "dtype", "device", "requires_grad", "ndim", "grad", "is_cuda", "is_leaf")
    return name in ("size", "dim", "numel", "is_floating_point") or (
        name == "__get__" and owner in metadata
    )


def _is_stored(number: int) -> bool:
    """Choose the first three calls, then those whose number is one above a power of two."""
    return number < 3 or (number & (number - 1) == 0 and number < 1 << (STORED_INPUTS - 2))


def _tensors(values: Any) -> Generator[Tensor]:
    leaves: list[Any] = tree_flatten(values)[0]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "to_tuple"):  # outputs of Hugging Face models that are no plain trees
            yield from _tensors(leaf.to_tuple())


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
