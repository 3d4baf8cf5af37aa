"""Module states beside the attention: what goes into a module and what comes out, read or edited.

Attention is read at torch's own function (`intercept`); residual streams, norms and blocks are read
here, by forward hooks of this thread (`hooks`) that are gone when the context ends.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class State:
    """The first tensor that a module was given and the first that it returned, in the graph."""

    input: Tensor
    output: Tensor


@contextmanager
def observing(
    module: nn.Module, paths: Sequence[str], *, leaf: str | None = None
) -> Generator[dict[str, State]]:
    """Keep the states of the modules at `paths` for the pass that is run inside this context.

    leaf: path of a module whose input becomes the leaf of the graph. What runs before it runs
        without one; gradients are on from there to the end of the context.

    Raises:
        ReadingError: no such module, or the pass never went through it.
    """
    states: dict[str, State] = {}
    with ExitStack() as stack:
        stack.enter_context(as_python(module, [*paths, *([] if leaf is None else [leaf])]))
        leaves: dict[str, Tensor] = {}
        if leaf is not None:
            stack.enter_context(torch.no_grad())
            hook = _leaf_hook(leaves, leaf)
            stack.enter_context(hooked(_module(module, leaf), before=hook))
        for path in dict.fromkeys(paths):
            hook = _keep_hook(states, leaves, path)
            stack.enter_context(hooked(_module(module, path), after=hook))
        yield states
        for path in [*paths, *([leaf] if leaf is not None else [])]:
            if path not in states and path not in leaves:
                raise ReadingError(f"this forward pass never went through the module {path!r}")


@contextmanager
def editing(module: nn.Module, edits: Mapping[str, Edit]) -> Generator[None]:
    """Put `edits[path](output)` in the place of each module's output, inside this context."""
    with ExitStack() as stack:
        stack.enter_context(as_python(module, edits))
        for path, edit in edits.items():
            stack.enter_context(hooked(_module(module, path), after=_edit_hook(edit)))
        yield


def block_path(module: nn.Module, path: str) -> str:
    """The residual block that the attention call at `path` belongs to: an entry of a list.

    Raises:
        ReadingError: the call stands in no list of blocks (an attention pool).
    """
    parts = path.split("#")[0].split(".")
    for end in range(len(parts) - 1, 0, -1):
        parent = module.get_submodule(".".join(parts[: end - 1]))
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            return ".".join(parts[:end])
    raise ReadingError(f"{path!r} belongs to no residual block: it stands in no list of modules")


def rows_of(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: Int[Tensor, "item row"], tokens: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a block is given, cut down to these rows of (item, token, channel); what is no tensor of
    one row a token stays as it is."""

    def cut(given: Any) -> Any:
        size = (len(rows), tokens)
        if not isinstance(given, Tensor) or given.dim() != 3 or given.shape[:2] != size:
            return given
        return given.take_along_dim(rows.to(given.device)[:, :, None], 1)

    return tuple(map(cut, args)), {name: cut(each) for name, each in kwargs.items()}


def _module(root: nn.Module, path: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError:
        raise ReadingError(f"the model has no module {path!r}") from None


def _first(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    found = values.values() if isinstance(values, Mapping) else values
    return next(each for each in found if isinstance(each, Tensor))


def _leaf_hook(leaves: dict[str, Tensor], path: str) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any) -> Any:
        del part
        torch.set_grad_enabled(True)
        given = _first(args) if args else _first(kwargs)
        made = given.detach().requires_grad_()
        leaves[path] = made
        return tuple(made if each is given else each for each in args), {
            key: made if each is given else each for key, each in kwargs.items()
        }

    return hook


def _keep_hook(states: dict[str, State], leaves: dict[str, Tensor], path: str) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        del part
        given = leaves.get(path)
        if given is None:
            given = _first(args) if args else _first(kwargs)
        states[path] = State(given, _first(output))

    return hook


def _edit_hook(edit: Edit) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del part, args, kwargs
        if isinstance(output, Tensor):
            return edit(output)
        first = _first(output)
        return type(output)(edit(first) if each is first else each for each in output)

    return hook
