"""The tower's own input as a point to differentiate at: pixels, or token embeddings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.methods.block_method import module_output
from heatproof.methods.pass_context import ReadPass
from heatproof.methods.tokens import on_tokens
from heatproof.reading.attention_call import at_least_float32


@dataclass(frozen=True)
class InputLeaf:
    """`point` is what the tower was given; `score` is the model's own score at any such point.

    `per_token` adds up values shaped like the point: over channels and pixels of each patch, or
    over the channels of each token. Tokens that stand for no input (a class token) get zero.
    """

    point: Float[Tensor, "item ..."]
    score: Callable[[Float[Tensor, "item ..."]], Float[Tensor, "item target"]]
    per_token: Callable[[Float[Tensor, "item ..."]], Float[Tensor, "item token"]]

    def gradients(self, at: Float[Tensor, "item ..."]) -> Iterator[Float[Tensor, "item ..."]]:
        """Yield dS/dx at a point for each target, at least in float32."""
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            sums = self.score(leaf).sum(0).unbind()
        # Not in groups: through a whole tower they save at most a seventh of the time (ViT-B/32),
        # lose as much where a group leaves the cache (ViT-B/16), and take its memory many times.
        for total in sums:
            (grad,) = torch.autograd.grad(total, [leaf], retain_graph=True)
            yield at_least_float32(grad)


def input_leaf(read: ReadPass) -> InputLeaf:
    """Return the images of the pass, or the embeddings of its prompts' tokens."""
    if read.batch.side == "image":
        assert read.batch.pixels is not None
        return InputLeaf(read.batch.pixels.detach(), read.rerun, lambda v: _of_patches(read, v))
    path = token_embedding_path(read.root)
    return InputLeaf(
        module_output(read, path),
        lambda point: read.rerun(edits={path: lambda _: point.clone()}),
        lambda v: on_tokens(read, v.sum(-1), slice(0, v.shape[1])),
    )


def token_embedding_path(root: nn.Module) -> str:
    """Return the path of the token embeddings: of all embeddings the one with the most rows.

    Raises:
        ReadingError: the model has no `nn.Embedding`.
    """
    tables = {name: m for name, m in root.named_modules() if isinstance(m, nn.Embedding)}
    if not tables:
        raise ReadingError(
            f"{type(root).__name__} has no nn.Embedding whose output could be differentiated; "
            "try a method that reads attention, such as attention-x-gradient"
        )
    return max((table.num_embeddings, name) for name, table in tables.items())[1]


def _of_patches(
    read: ReadPass, values: Float[Tensor, "item 3 height width"]
) -> Float[Tensor, "item token"]:
    """Add up pixels by patch; the grid is laid evenly over the image."""
    rows, cols = (
        _membership(size, count, values)
        for size, count in zip(values.shape[-2:], read.batch.grid, strict=True)
    )
    # A product instead of a scatter: it adds in the same order on every device.
    maps = rows.T @ values.sum(1) @ cols
    return on_tokens(read, maps.flatten(1), read.batch.content)


def _membership(size: int, count: int, like: Tensor) -> Float[Tensor, "pixel patch"]:
    patch = torch.arange(size, device=like.device) * count // size
    return torch.nn.functional.one_hot(patch, count).to(like.dtype)
