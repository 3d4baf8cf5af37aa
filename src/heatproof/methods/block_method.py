"""Methods that take the output of a residual block, and run the encoder again with another one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import Method, Plan, Side
from heatproof.methods.pass_context import ReadPass
from heatproof.reading import AttentionLayer, Edit, by_token


class BlockMethod(Method):
    """Abstract: a method that works on a block's output, through `ReadPass.rerun`."""

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        # All calls, without weights: they say where the blocks are.
        return Plan(paths=tuple(layer.path for layer in layers))


def module_output(read: ReadPass, path: str, pixels: Tensor | None = None) -> Tensor:
    """Return the output of the module at `path`, on the pass's own inputs or on other images."""
    outputs: list[Tensor] = []

    def record(output: Tensor) -> Tensor:
        outputs.append(output.detach().clone())  # models add to it in place
        return output

    with torch.no_grad():
        read.rerun(pixels, edits={path: record})
    return outputs[-1]


def replacing(states: Tensor) -> Edit:
    """Return an edit that puts `states` in the place of a module's output and starts a graph there.

    Call `rerun` under `torch.no_grad`: so nothing before the module is in the graph.
    """

    def edit(output: Tensor) -> Tensor:
        del output
        torch.set_grad_enabled(True)  # the end of `torch.no_grad` restores the caller's mode
        return states

    return edit


def check_tokens(read: ReadPass, state: Tensor) -> None:
    """Raise a `ReadingError` where a block's tokens are not the keys that a map is made of."""
    tokens, keys = by_token(state).shape[1], read.last.key.shape[2]
    if tokens != keys:
        raise ReadingError(
            f"the method reads blocks of {tokens} tokens, and the last attention call has {keys} "
            "keys: values cannot be carried from one to the other"
        )
