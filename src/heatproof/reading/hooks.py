"""Forward hooks that serve one thread.

A module's hooks run in every thread that runs the module. Those registered here answer to the
thread that registered them, for the module that they were registered on, while their context is
open; in any other thread, and in a copy of the module, they do nothing.
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
    """Hooks on `module` for this thread, gone when the context ends.

    before: (module, args, kwargs), before its forward; returns None or new (args, kwargs).
    after: (module, args, kwargs, output), after its forward; returns None or another output.
    always: call `after` where the forward failed, too; its output is then None.
    """
    hooks = [_Own(module, hook) for hook in (before, after) if hook is not None]
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
        for hook in hooks:
            hook.close()
        with _lock:
            for handle in handles:
                handle.remove()


@contextmanager
def no_hooks_change() -> Generator[None]:
    """No hook of ours comes or goes in here, in any thread: a module can be copied."""
    with _lock:
        yield


class _Own:
    """One thread's hook on one module."""

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        self.module: nn.Module | None = module
        self.hook: Hook | None = hook
        self.thread = threading.get_ident()

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        # Torch may call a hook that is gone, and then forgets that it takes keyword arguments.
        if threading.get_ident() != self.thread or self.hook is None or module is not self.module:
            return None
        return self.hook(module, *given)

    def __deepcopy__(self, memo: Any) -> Hook:
        """In a copy of the module: nothing, and nothing of the pass is kept alive by it."""
        del memo
        return _nothing

    def close(self) -> None:
        self.module = self.hook = None


def _nothing(*_given: Any) -> None:
    """A hook that does nothing."""
