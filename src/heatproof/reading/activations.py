"""Activations beside attention: the inputs and outputs of modules, recorded or edited.

Attention is read at torch's own function (`attention`). Residual streams, norms and blocks are read
here, by forward hooks of this thread (`hooks`), which are gone when the context ends.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading.blocks import is_token_first
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked

Edit = Callable[[Tensor], Tensor]
"""A function of a module's output (items first) that gives another one of the same shape."""


@dataclass(frozen=True)
class Activation:
    """The first tensor that a module was given and the first that it returned, in the graph.

    Items come first, whatever the layout of the module.
    """

    input: Tensor
    output: Tensor


@contextmanager
def record_activations(
    module: nn.Module, paths: Sequence[str], *, leaf: str | None = None
) -> Generator[dict[str, Activation]]:
    """Record the activations of the modules at `paths` in the pass that runs in this context.

    leaf: path of a module whose input becomes the leaf of the graph. What runs before it runs
        without one; gradients are on from there to the end of the context.

    Raises:
        ReadingError: no such module, or the pass never went through it.
    """
    activations: dict[str, Activation] = {}
    inputs: dict[str, Tensor] = {}
    leaves = () if leaf is None else (leaf,)
    asked = tuple(dict.fromkeys((*leaves, *paths)))
    with ExitStack() as stack:
        stack.enter_context(as_python(module, asked))
        if leaf is not None:
            stack.enter_context(torch.no_grad())
        for path in asked:
            part = _submodule(module, path)
            token_first = is_token_first(module, path)
            if path == leaf or token_first:
                before = _input_hook(inputs, path, token_first, leaf=path == leaf)
                stack.enter_context(hooked(part, before=before))
            if path in paths:
                after = _output_hook(activations, inputs, path, token_first)
                stack.enter_context(hooked(part, after=after))
        yield activations
        for path in asked:
            if path not in activations and path not in inputs:
                raise ReadingError(f"this forward pass never went through the module {path!r}")


@contextmanager
def edit_activations(module: nn.Module, edits: Mapping[str, Edit]) -> Generator[None]:
    """Replace the output of each module at a path by `edits[path](output)` in this context."""
    with ExitStack() as stack:
        stack.enter_context(as_python(module, edits))
        for path, edit in edits.items():
            part = _submodule(module, path)
            hook = _edit_hook(edit, is_token_first(module, path))
            stack.enter_context(hooked(part, after=hook))
        yield


def _submodule(root: nn.Module, path: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError:
        raise ReadingError(f"the model has no module {path!r}") from None


def _input_hook(inputs: dict[str, Tensor], path: str, token_first: bool, *, leaf: bool) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any) -> Any:
        del part
        given = _first(args or kwargs)
        if leaf:
            torch.set_grad_enabled(True)
            inputs[path] = _swapped(given.detach(), token_first).requires_grad_()
        else:
            inputs[path] = _swapped(given, token_first)
        # The module itself is given a view of the kept tensor, so that gradients reach that one.
        view = _swapped(inputs[path], token_first)
        named = {name: view if value is given else value for name, value in kwargs.items()}
        return _replaced(args, given, view), named

    return hook


def _output_hook(
    activations: dict[str, Activation], inputs: dict[str, Tensor], path: str, token_first: bool
) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del part
        given = inputs[path] if path in inputs else _first(args or kwargs)
        first = _first(output)
        activations[path] = Activation(given, _swapped(first, token_first))
        if not token_first:
            return None
        # What follows must go through the tensor that was kept: only so does it get a gradient.
        return _replaced(output, first, _swapped(activations[path].output, token_first))

    return hook


def _edit_hook(edit: Edit, token_first: bool) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del part, args, kwargs
        first = _first(output)
        edited = _swapped(edit(_swapped(first, token_first)), token_first)
        return _replaced(output, first, edited)

    return hook


def _swapped(state: Tensor, token_first: bool) -> Tensor:
    """Swap tokens and items, where the state has both."""
    return state.transpose(0, 1) if token_first and state.dim() == 3 else state


def _first(values: Any) -> Tensor:
    """Return the first tensor of an output, of arguments or of a mapping."""
    if isinstance(values, Tensor):
        return values
    several = values.values() if isinstance(values, Mapping) else values
    return next(value for value in several if isinstance(value, Tensor))


def _replaced(values: Any, old: Tensor, new: Tensor) -> Any:
    """Return an output, or positional arguments, with one tensor replaced."""
    if isinstance(values, Tensor):
        return new
    return type(values)(new if value is old else value for value in values)
