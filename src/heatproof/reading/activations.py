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
            hook = _leaf_hook(leaves, leaf, token_first(module, leaf))
            stack.enter_context(hooked(_module(module, leaf), before=hook))
        for path in dict.fromkeys(paths):
            part, turned = _module(module, path), token_first(module, path)
            if turned and path != leaf:
                stack.enter_context(hooked(part, before=_turn_hook(leaves, path)))
            keep = _keep_hook(states, leaves, path, turned)
            stack.enter_context(hooked(part, after=keep))
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
            edit = _turned_edit(edit) if token_first(module, path) else edit
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


def token_first(module: nn.Module, path: str) -> bool:
    """Whether the module at `path` stands in a block whose states are (token, item, channel).

    Such blocks (OpenAI's clip) have torch's attention with `batch_first=False`.
    """
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        parent = _module(module, ".".join(parts[: end - 1]))
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            block = _module(module, ".".join(parts[:end]))
            if any(
                isinstance(part, nn.MultiheadAttention) and not part.batch_first
                for part in block.modules()
            ):
                return True
    return False


def _turned(state: Tensor, turned: bool = True) -> Tensor:
    """Tokens and items swapped, where the state has both."""
    return state.transpose(0, 1) if turned and state.dim() == 3 else state


def _turned_edit(edit: Edit) -> Edit:
    return lambda state: _turned(edit(_turned(state)))


def _turn_hook(inputs: dict[str, Tensor], path: str) -> Any:
    """Keeps a module's input with items first, and in the graph: the module gets a view of it."""

    def hook(part: nn.Module, args: Any, kwargs: Any) -> Any:
        del part
        given = _first(args) if args else _first(kwargs)
        inputs[path] = _turned(given)
        back = _turned(inputs[path])
        return tuple(back if each is given else each for each in args), {
            key: back if each is given else each for key, each in kwargs.items()
        }

    return hook


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


def _leaf_hook(leaves: dict[str, Tensor], path: str, turned: bool) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any) -> Any:
        del part
        torch.set_grad_enabled(True)
        given = _first(args) if args else _first(kwargs)
        leaves[path] = _turned(given.detach(), turned).requires_grad_()
        made = _turned(leaves[path], turned)
        return tuple(made if each is given else each for each in args), {
            key: made if each is given else each for key, each in kwargs.items()
        }

    return hook


def _keep_hook(states: dict[str, State], inputs: dict[str, Tensor], path: str, turned: bool) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del part
        given = inputs.get(path)
        if given is None:
            given = _first(args) if args else _first(kwargs)
        first = _first(output)
        states[path] = State(given, _turned(first, turned))
        if not turned:
            return None
        back = _turned(states[path].output)
        if isinstance(output, Tensor):
            return back
        return type(output)(back if each is first else each for each in output)

    return hook


def _edit_hook(edit: Edit) -> Any:
    def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del part, args, kwargs
        if isinstance(output, Tensor):
            return edit(output)
        first = _first(output)
        return type(output)(edit(first) if each is first else each for each in output)

    return hook
