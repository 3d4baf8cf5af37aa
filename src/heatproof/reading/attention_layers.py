"""Where a model calls attention: found by running it once, not described by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from heatproof.errors import ReadingError
from heatproof.reading.attention import reading


@dataclass(frozen=True)
class AttentionLayer:
    """One attention call of a tower: the path of its module and the sizes that it had.

    `heads`, `queries` and `keys` are numbers. `block` is the path of the residual block around the
    call; None where it stands in none (an attention pool).
    """

    path: str
    heads: int
    queries: int
    keys: int
    block: str | None = field(default=None, compare=False)


def find_attention_layers(
    module: nn.Module, run: Callable[[], object], batch: int
) -> tuple[AttentionLayer, ...]:
    """Return the attention calls of the pass `run`, in their order, over `batch` inputs.

    Raises:
        ReadingError: no attention passed through the function that is read, or attention is
            windowed (its batch is not the batch of inputs).
    """
    with torch.no_grad(), reading(module) as trace:
        run()
    if not trace:
        raise ReadingError(
            f"no attention passed through torch's scaled_dot_product_attention in "
            f"{type(module).__name__}: it has none, or a kernel of its own (flash-attn, xformers, "
            "linear attention); try the model's 'sdpa' or 'eager' attention implementation"
        )
    layers: list[AttentionLayer] = []
    for call in trace.layers:
        groups, heads, queries = call.query.shape[:3]
        if groups != batch:
            raise ReadingError(
                f"attention at {call.path!r} is windowed or folded: {groups} groups of {queries} "
                f"tokens for {batch} input(s), expected one group per input; windowed models "
                "(Swin) have no token that sees the whole image"
            )
        layers.append(AttentionLayer(call.path, heads, queries, call.key.shape[2], call.block))
    return tuple(layers)
