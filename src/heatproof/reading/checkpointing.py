"""Gradient checkpointing, switched off where a model is read."""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

# The attributes by which open_clip and timm, and Hugging Face's models, turn it on.
ATTRIBUTES = ("grad_checkpointing", "gradient_checkpointing", "activation_checkpointing")

_lock = threading.Lock()
# Which attributes are held off, and by how many contexts: two threads may read one model, and the
# one that ends first must not turn checkpointing on again for the other.
_held_off: WeakKeyDictionary[nn.Module, Counter[str]] = WeakKeyDictionary()


@contextmanager
def without_checkpoints(module: nn.Module) -> Generator[None]:
    """Switch gradient checkpointing off in all parts of `module`; restore it at the end.

    What the model computes is the same.
    """
    # Checkpointing runs blocks a second time in the backward pass, when no reading is open any
    # more: what was read would be of another pass than what gradients go through.
    with _lock:
        held = [
            (part, name)
            for part in module.modules()
            for name in ATTRIBUTES
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
