"""Hooks on a model's own modules while somebody's code runs: which ran, on what, and what came out.

A call that no other module of the model makes is a *top* call. What an untouched pass calls at the
top (its *entries*: the image tower, a projection), user code may call as well: below it,
the model runs itself. Any other top call is user code's own pass, layer by layer.
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

SAMPLE = 4096
OWN_BYTES = 1 << 28
"""How much of user code's own pass is kept whole; what comes after is not compared."""
KEPT = 8
"""Of how many calls of one entry the input is kept, to run it again: the 1st, 2nd, 3rd, 5th, ..."""


@dataclass(frozen=True)
class Sketch:
    """Evenly picked elements of an output: enough to tell two outputs of one input apart."""

    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, output: Tensor) -> "Sketch":
        flat = output.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLE)
        return cls(tuple(output.shape), flat[::step].double().cpu())


@dataclass(frozen=True)
class Event:
    """One module call. `sketch` is None where it returned no tensor of numbers; `whole` is kept of
    user code's own pass. `pixels` and `ids` are the latest that any top call was given."""

    path: str
    sketch: Sketch | None
    whole: Tensor | None = None
    pixels: Tensor | None = None
    ids: Tensor | None = None


@dataclass
class TopCall:
    """A call that no module of the model made. `args` is None where the input was not kept."""

    path: str
    entry: bool
    phase: str
    args: tuple[tuple[Any, ...], dict[str, Any]] | None
    grad: bool
    autocast: torch.dtype | None
    events: list[Event] = field(default_factory=list[Event])


class Watch:
    """What was seen. Nothing is recorded while `active` is False or in other threads.

    `weights` counts the model's parameters that were used while none of its modules ran.
    """

    def __init__(
        self, root: nn.Module, entries: Collection[str] | None, *, active: bool = True
    ) -> None:
        self.root, self.entries, self.active = root, entries, active
        self.phase = ""
        self.tops: list[TopCall] = []
        self.weights: Counter[str] = Counter()
        self.running: list[nn.Module] = []
        self.counts: Counter[str] = Counter()
        self.thread = threading.get_ident()
        self._pixels: Tensor | None = None
        self._ids: Tensor | None = None
        self._bytes = 0

    def called(self, path: str) -> int:
        return self.counts[path]

    @contextmanager
    def hooked(self) -> Generator["Watch"]:
        """All hooks are gone when this context ends, after errors too."""
        with ExitStack() as stack:
            stack.enter_context(as_python(self.root))
            for path, module in self.root.named_modules():
                before, after = self._before(path), self._after(path)
                stack.enter_context(hooked(module, before=before, after=after, always=True))
            stack.enter_context(_WeightUse(self))
            yield self

    def watching(self) -> bool:
        return self.active and threading.get_ident() == self.thread

    def _before(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self.watching():
                return
            if not self.running:
                self._top(path, args, kwargs)
            self.running.append(module)

        return hook

    def _top(self, path: str, args: Any, kwargs: dict[str, Any]) -> None:
        for tensor in _tensors((args, kwargs)):
            if tensor.dim() == 4 and tensor.shape[1] == 3 and tensor.is_floating_point():
                self._pixels = tensor.detach().clone()
            elif tensor.dim() == 2 and not tensor.dtype.is_floating_point:
                self._ids = tensor.detach().clone()
        entry = self.entries is None or path in self.entries
        count = self.counts[path]
        self.counts[path] += 1
        kept = None
        if entry and _is_kept(count):
            kept = tree_map(_copied, (tuple(args), kwargs))
        device = next(self.root.parameters()).device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        made = TopCall(path, entry, self.phase, kept, torch.is_grad_enabled(), cast)
        self.tops.append(made)

    def _after(self, path: str) -> Any:
        def hook(module: nn.Module, *args_and_output: Any) -> None:
            if not self.watching() or all(module is not each for each in self.running):
                return
            while self.running.pop() is not module:
                pass
            top = self.tops[-1]
            if top.entry and top.args is None:
                return
            output = next(_tensors(args_and_output[-1]), None)
            if output is not None:
                top.events.append(self._event(path, output, top.entry))

        return hook

    def _event(self, path: str, output: Tensor, entry: bool) -> Event:
        if not output.is_floating_point():
            return Event(path, None)
        if entry:
            return Event(path, Sketch.of(output))
        self._bytes += output.numel() * output.element_size()
        whole = output.detach().clone() if self._bytes <= OWN_BYTES else None
        return Event(path, Sketch.of(output), whole, self._pixels, self._ids)


class _WeightUse(TorchFunctionMode):
    """Notes parameters that torch functions are given while no module of the model runs."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self.names = {id(each): name for name, each in watch.root.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if self.watch.watching() and not self.watch.running:
            for each in (*args, *(kwargs or {}).values()):
                name = self.names.get(id(each)) if isinstance(each, Tensor) else None
                if name is not None and not _is_a_question(func):
                    self.watch.weights[name] += 1
        return func(*args, **(kwargs or {}))


def _is_a_question(func: Any) -> bool:
    """Shape, dtype and device of a weight are no use of its values."""
    name = getattr(func, "__name__", "")
    owner = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    asked = ("shape", "dtype", "device", "requires_grad", "ndim", "grad", "is_cuda", "is_leaf")
    return name in ("size", "dim", "numel", "is_floating_point") or (
        name == "__get__" and owner in asked
    )


def _is_kept(count: int) -> bool:
    """The first three, then every call whose number is one above a power of two."""
    return count < 3 or (count & (count - 1) == 0 and count < 1 << (KEPT - 2))


def _tensors(values: Any) -> Generator[Tensor]:
    leaves: list[Any] = tree_flatten(values)[0]
    for each in leaves:
        if isinstance(each, Tensor):
            yield each
        elif hasattr(each, "to_tuple"):  # outputs of Hugging Face models that are no plain trees
            yield from _tensors(each.to_tuple())


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
