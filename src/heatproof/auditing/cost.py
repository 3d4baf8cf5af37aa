"""Count the forward passes that code takes: the same number on every machine, idle or busy."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from heatproof.models import Model
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked


def forward_passes(model: Model, run: Callable[[], object]) -> int:
    """Count the images that go through the image tower while `run` runs.

    A batch of n images counts n. Every attention module of the tower is counted by itself and the
    highest count is taken, so that code that calls the layers one by one, or some of them, counts
    too. Backward passes are not counted, nor is a model that the code holds a copy of.
    """
    axes = _batch_axes(model)
    counts: Counter[str] = Counter()
    with _input_shapes(model, list(axes)) as calls:
        run()
    for path, shape in calls:
        axis = axes[path]
        # A call on fewer axes than the model's own (one image without a batch axis) is one image.
        counts[path] += shape[axis] if axis < len(shape) else 1
    return max(counts.values(), default=0)


def _batch_axes(model: Model) -> dict[str, int]:
    """Find the axis of each attention module's input that counts images: 1 long for one image."""
    size = model.image.preprocess
    blank = torch.zeros(1, 3, size.height, size.width).to(model.device, model.dtype)
    paths = [layer.path.split("#")[0] for layer in model.attention_layers("image")]
    with torch.no_grad(), _input_shapes(model, paths) as calls:
        model.image.encode(blank)
    return {path: shape.index(1) if 1 in shape else 0 for path, shape in calls}


@contextmanager
def _input_shapes(
    model: Model, paths: Sequence[str]
) -> Generator[list[tuple[str, tuple[int, ...]]]]:
    """Collect the shape of the first tensor that each call of these modules is given, in order."""
    calls: list[tuple[str, tuple[int, ...]]] = []

    def hook(path: str) -> Any:
        def note(module: Any, args: Any, kwargs: Any) -> None:
            del module
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor):
                    calls.append((path, tuple(value.shape)))
                    return

        return note

    with ExitStack() as stack:
        stack.enter_context(as_python(model.module))
        for path in dict.fromkeys(paths):
            module = model.module.get_submodule(path)
            stack.enter_context(hooked(module, before=hook(path)))
        yield calls
