"""Run a model as plain Python while it is read: neither compiled in place nor checkpointed."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# Where torch keeps a module's compiled call; it has no public switch.
CALL = "_compiled_call_impl"
# The attributes by which open_clip and timm, and Hugging Face's models, turn checkpointing on.
CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing", "activation_checkpointing")

_lock = threading.Lock()
_replaced: WeakKeyDictionary[nn.Module, "_ByThread"] = WeakKeyDictionary()
# Which attributes are held off, and by how many contexts: two threads may read one model, and the
# one that ends first must not turn checkpointing on again for the other.
_held_off: WeakKeyDictionary[nn.Module, Counter[str]] = WeakKeyDictionary()


class _ByThread:
    """Stands in for a module's compiled call: Python in the threads that read the module, compiled
    code in all others."""

    def __init__(self, part: nn.Module, compiled: Callable[..., Any]) -> None:
        self.python: Callable[..., Any] = part._call_impl  # pyright: ignore[reportPrivateUsage]
        self.compiled = compiled
        # How many contexts are open, by thread.
        self.readers: Counter[int] = Counter()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reads = self.readers[threading.get_ident()] > 0
        return (self.python if reads else self.compiled)(*args, **kwargs)


@contextmanager
def as_python(
    module: nn.Module, paths: Collection[str] | None = None, *, behind: bool = True
) -> Generator[None]:
    """Run what is around or inside the modules at `paths` (by default: all) uncompiled.

    Compiled code sees neither hooks that come later nor the function at which attention is read,
    but the module still has its Python. Gradient checkpointing is off as well.

    behind: so does all that was registered after the first of them.
    """
    named = list(module.named_modules())
    if paths is not None:
        first = next((n for n, (name, _) in enumerate(named) if name in paths), len(named))
        # What comes behind too: gradients will go through it, several at once or twice, which
        # compiled code does not allow.
        named = [
            (name, part)
            for n, (name, part) in enumerate(named)
            if (behind and n > first) or any(_is_related(name, path) for path in paths)
        ]
    parts = [part for _, part in named if _replace_call(part)]
    try:
        with _without_checkpoints(module):
            yield
    finally:
        for part in parts:
            _restore_call(part)


def _is_related(name: str, path: str) -> bool:
    """Return whether a module holds the one at `path`, or is inside it."""
    return f"{path}.".startswith(f"{name}." if name else "") or name.startswith(f"{path}.")


def _replace_call(part: nn.Module) -> bool:
    with _lock:
        if part not in _replaced:
            compiled = getattr(part, CALL, None)
            if compiled is None:
                return False
            _replaced[part] = _ByThread(part, compiled)
            setattr(part, CALL, _replaced[part])
        _replaced[part].readers[threading.get_ident()] += 1
        return True


def _restore_call(part: nn.Module) -> None:
    with _lock:
        call = _replaced[part]
        call.readers[threading.get_ident()] -= 1
        if not any(call.readers.values()):
            setattr(part, CALL, call.compiled)
            del _replaced[part]


@contextmanager
def _without_checkpoints(module: nn.Module) -> Generator[None]:
    """Switch gradient checkpointing off in all parts of `module`; restore it at the end.

    What the model computes is the same.
    """
    # Checkpointing runs blocks a second time in the backward pass, when no reading is open any
    # more: what was read would be of another pass than what gradients go through.
    with _lock:
        held = [
            (part, name)
            for part in module.modules()
            for name in CHECKPOINTING
            if vars(part).get(name) is True or _held_off.get(part, Counter())[name]
        ]
        for part, name in held:
            _held_off.setdefault(part, Counter())[name] += 1
            setattr(part, name, False)
    try:
        yield
    finally:
        with _lock:
            for part, name in held:
                _held_off[part][name] -= 1
                if not _held_off[part][name]:
                    setattr(part, name, True)
