"""Where a model calls attention: found by running it once, not described by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from heatproof.errors import ReadingError
from heatproof.reading.activations import block_path
from heatproof.reading.attention import reading


@dataclass(frozen=True)
class AttentionLayer:
    """One attention call of a tower: the path of its module and the sizes that it had.

    `block` is the path of the residual block around it; None where it stands in none (a pool).
    """

    path: str
    heads: int
    queries: int
    keys: int
    block: str | None = field(default=None, compare=False)


def find_attention_layers(
    module: nn.Module, run: Callable[[], object], batch: int
) -> tuple[AttentionLayer, ...]:
    """The attention calls of the pass `run`, in their order, over a batch of `batch` inputs.

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
    for layer in trace.layers:
        seen = layer.query.shape[0]
        if seen != batch:
            raise ReadingError(
                f"attention at {layer.path!r} is windowed or folded: {seen} groups of "
                f"{layer.query.shape[2]} tokens for {batch} input(s), expected one group an input; "
                "windowed models (Swin) have no token that sees the whole image"
            )
    return tuple(
        AttentionLayer(
            layer.path,
            layer.query.shape[1],
            layer.query.shape[2],
            layer.key.shape[2],
            _block(module, layer.path),
        )
        for layer in trace.layers
    )


def _block(module: nn.Module, path: str) -> str | None:
    try:
        return block_path(module, path)
    except ReadingError:
        return None
