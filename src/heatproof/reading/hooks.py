"""Forward hooks that serve one thread: `hooked` is the library's only way to hook a module.

A module's hooks run in every thread that runs the module. Hooks registered here answer in the
thread that registered them, on the module that they were registered for, while their context is
open. In any other thread, and in a copy of the module, they do nothing.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

# Torch numbers hooks by a counter that two threads can read at once, and a module cannot be copied
# while its hooks change.
_lock = threading.RLock()

Hook = Callable[..., Any]


@contextmanager
def hooked(
    module: nn.Module,
    *,
    before: Hook | None = None,
    after: Hook | None = None,
    always: bool = False,
) -> Generator[None]:
    """Hook `module` for this thread; the hooks are gone when the context ends.

    before: called with (module, args, kwargs) before its forward; returns None or new
        (args, kwargs).
    after: called with (module, args, kwargs, output) after its forward; returns None or another
        output.
    always: call `after` where the forward failed, too; its output is then None.
    """
    hooks = [_ThreadHook(module, hook) for hook in (before, after) if hook is not None]
    handles: list[Any] = []
    try:
        with _lock:
            own = iter(hooks)
            if before is not None:
                handles.append(module.register_forward_pre_hook(next(own), with_kwargs=True))
            if after is not None:
                handles.append(
                    module.register_forward_hook(next(own), with_kwargs=True, always_call=always)
                )
        yield
    finally:
        # Silent first: another thread may be about to call a hook that is being removed.
        for hook in hooks:
            hook.close()
        with _lock:
            for handle in handles:
                handle.remove()


@contextmanager
def no_hooks_change() -> Generator[None]:
    """Let no thread add or remove a hook of this library: a module can be copied meanwhile."""
    with _lock:
        yield


class _ThreadHook:
    """A hook of one thread on one module."""

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        self.module: nn.Module | None = module
        self.hook: Hook | None = hook
        self.thread = threading.get_ident()

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        # Torch lists a module's hooks, then calls them: one removed in between by its own thread is
        # still called by another, and without keyword arguments. It must not run.
        if threading.get_ident() != self.thread or self.hook is None or module is not self.module:
            return None
        return self.hook(module, *given)

    def __deepcopy__(self, memo: Any) -> Hook:
        """Return a hook that does nothing: a copied module keeps nothing of the pass alive."""
        del memo
        return _nothing

    def close(self) -> None:
        self.module = self.hook = None


def _nothing(*_given: Any) -> None:
    """Do nothing."""
