"""Residual blocks of a tower, and their activations as one row of channels per token."""

from collections.abc import Iterable
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from heatproof.errors import ReadingError

TokenStates = Float[Tensor, "item token width"]
"""Activations with one row of channels per token."""


class _InBlock(Protocol):
    """An attention call that knows its block: an `AttentionLayer` or an `Attention`."""

    @property
    def path(self) -> str: ...
    @property
    def block(self) -> str | None: ...


def block_path(module: nn.Module, path: str) -> str | None:
    """Return the path of the residual block around the attention call at `path`: the innermost
    entry of a list of modules. None where the call stands in no list (an attention pool)."""
    parts = path.split("#")[0].split(".")
    for end in range(len(parts) - 1, 0, -1):
        # From the inside out: blocks may stand in stages, which are lists, too.
        if _is_list(module.get_submodule(".".join(parts[: end - 1]))):
            return ".".join(parts[:end])
    return None


def block_of(layer: _InBlock) -> str:
    """Return the path of the block around one attention call.

    Raises:
        ReadingError: it stands in none.
    """
    if layer.block is None:
        raise ReadingError(
            f"attention at {layer.path!r} stands in no residual block (an attention pool): this "
            "method has no stream to read there; try attention-x-gradient"
        )
    return layer.block


def blocks_of(layers: Iterable[_InBlock], at_least: int = 1) -> tuple[str, ...]:
    """Return the paths of the blocks around attention calls, first to last, each once.

    Calls in no block (pools) are left out.

    Raises:
        ReadingError: there are fewer than `at_least` (an attention-pooled ResNet has none).
    """
    # Each once: a block may hold several attention calls.
    blocks = tuple(dict.fromkeys(layer.block for layer in layers if layer.block is not None))
    if len(blocks) < at_least:
        raise ReadingError(
            f"this method needs at least {at_least} residual block(s) with attention, and this "
            f"tower has {len(blocks)}; try attention-x-gradient or grad-cam"
        )
    return blocks


def by_token(state: Float[Tensor, "item ..."]) -> TokenStates:
    """Return activations as (item, token, channel); feature maps (item, channel, row, col) are
    unrolled row by row.

    Raises:
        ReadingError: the state has another number of axes.
    """
    if state.dim() == 4:
        return state.flatten(2).transpose(1, 2)
    if state.dim() != 3:
        raise ReadingError(
            f"got a state of shape {tuple(state.shape)}, expected (item, token, channel) or "
            "(item, channel, row, col)"
        )
    return state


def is_token_first(module: nn.Module, path: str) -> bool:
    """Return whether the module at `path` stands in a block whose states are (token, item,
    channel)."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        if not _is_list(module.get_submodule(".".join(parts[: end - 1]))):
            continue
        # OpenAI's clip: torch's attention with `batch_first=False`, and so the block around it.
        block = module.get_submodule(".".join(parts[:end]))
        attentions = (part for part in block.modules() if isinstance(part, nn.MultiheadAttention))
        if any(not part.batch_first for part in attentions):
            return True
    return False


def select_rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: Int[Tensor, "item row"], tokens: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's arguments cut down to some of their `tokens` rows.

    Tensors of shape (item, token, channel) lose the other rows; all else stays as it is.
    """

    def cut(argument: Any) -> Any:
        size = (len(rows), tokens)
        if (
            not isinstance(argument, Tensor)
            or argument.dim() != 3
            or tuple(argument.shape[:2]) != size
        ):
            return argument
        # Masks and position biases have other shapes and are left as they are.
        return argument.take_along_dim(rows.to(argument.device)[:, :, None], 1)

    return tuple(map(cut, args)), {name: cut(argument) for name, argument in kwargs.items()}


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)
