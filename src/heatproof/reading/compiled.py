"""Modules compiled in place (`nn.Module.compile`), run as python where they are read.

Compiled code does not see hooks that come later, nor the function at which attention is read. But
the module still has its python: inside `as_python` it is what runs, in this thread; all else stays
compiled.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from heatproof.reading.checkpointing import without_checkpoints

# Where torch keeps what it compiled; it has no public switch.
CALL = "_compiled_call_impl"

_lock = threading.Lock()
_aside: WeakKeyDictionary[nn.Module, "_ByThread"] = WeakKeyDictionary()


class _ByThread:
    """Stands where torch keeps a compiled call: python in the threads that read, compiled in all
    others."""

    def __init__(self, part: nn.Module, compiled: Callable[..., Any]) -> None:
        self.python: Callable[..., Any] = part._call_impl  # pyright: ignore[reportPrivateUsage]
        self.compiled = compiled
        self.readers: Counter[int] = Counter()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reads = self.readers[threading.get_ident()] > 0
        return (self.python if reads else self.compiled)(*args, **kwargs)


@contextmanager
def as_python(
    module: nn.Module, paths: Collection[str] | None = None, *, behind: bool = True
) -> Generator[None]:
    """Whatever is around or inside the modules at `paths` (by default: all) runs uncompiled.

    behind: so does all that was registered after the first of them, for gradients will go through
        it, several at once or twice, which compiled code does not allow.
    """
    named = list(module.named_modules())
    if paths is not None:
        first = next((n for n, (name, _) in enumerate(named) if name in paths), len(named))
        named = [
            (name, part)
            for n, (name, part) in enumerate(named)
            if (behind and n > first) or any(_concerns(name, path) for path in paths)
        ]
    held = [part for _, part in named if _set_aside(part)]
    try:
        with without_checkpoints(module):
            yield
    finally:
        for part in held:
            _put_back(part)


def _concerns(name: str, path: str) -> bool:
    return f"{path}.".startswith(f"{name}." if name else "") or name.startswith(f"{path}.")


def _set_aside(part: nn.Module) -> bool:
    with _lock:
        if part not in _aside:
            compiled = getattr(part, CALL, None)
            if compiled is None:
                return False
            _aside[part] = _ByThread(part, compiled)
            setattr(part, CALL, _aside[part])
        _aside[part].readers[threading.get_ident()] += 1
        return True


def _put_back(part: nn.Module) -> None:
    with _lock:
        call = _aside[part]
        call.readers[threading.get_ident()] -= 1
        if not any(call.readers.values()):
            setattr(part, CALL, call.compiled)
            del _aside[part]
