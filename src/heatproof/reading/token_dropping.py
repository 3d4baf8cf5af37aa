"""Tokens taken away from images in every layer: masked as keys, or really dropped.

Nothing attends to a masked key: its token is gone, but its row is still computed. Where the readout
is the row of a token that stays, the rows themselves can go before the first block, and a pass
costs less the more is taken away. Both ways must agree; where they do not (a mean over rows, rotary
positions), keys are masked.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.models.model import Model, precision_of
from heatproof.reading.attention import reading, readings_open
from heatproof.reading.attention_layers import AttentionLayer
from heatproof.reading.blocks import block_path, select_rows
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked
from heatproof.reading.interventions import masked_keys
from heatproof.tolerances import UNFIT, agree, says_unfit

Encoder = Callable[[Int[Tensor, " variant"]], Float[Tensor, "variant ..."]]
"""The numbers of some variants -> what the model makes of them."""

# Variants go together while the smallest keeps this share of the largest one's tokens: the smaller
# ones are filled up with tokens that are masked, which are computed for nothing.
ALIKE = 3 / 4

DISAGREE = -1
# With how few tokens left both ways were seen to agree, by first block and number of tokens.
_seen_to_agree: WeakKeyDictionary[nn.Module, dict[tuple[str, int], int]] = WeakKeyDictionary()


def without_tokens(
    module: nn.Module,
    paths: Sequence[str],
    keep: Bool[Tensor, "variant token"],
    run: Encoder,
    batch_size: int,
) -> Float[Tensor, "variant ..."]:
    """Return what `run` gives for variants of which only the tokens in `keep` are left.

    paths: all attention calls of the tower, first to last.
    run: the model's own encoder, and what follows it, on some of the variants (at most
        `batch_size` of them, in no particular order).
    """
    dropper = _TokenDropper(module, tuple(paths), run)
    result: Tensor | None = None
    for rows in _groups(keep.sum(1).cpu(), batch_size):
        values = dropper(keep[rows], rows)
        if result is None:
            result = values.new_empty(len(keep), *values.shape[1:])
        result[rows] = values
    assert result is not None, "no variant"
    return result


def encode_visible(
    model: Model,
    layers: Sequence[AttentionLayer],
    pixels: Float[Tensor, "image 3 height width"],
    item: Int[Tensor, " variant"],
    cells: Bool[Tensor, "variant cell"],
    batch_size: int,
) -> Float[Tensor, "variant dim"]:
    """Return embeddings of images of which the model sees some cells alone.

    Class tokens and registers stay. Variant n is of the image `pixels[item[n]]`.
    layers: all attention calls of the image tower. cells: row by row, True where a cell stays.
    """
    layout = model.image.layout(*pixels.shape[-2:])
    start, item = len(layout.prefix), item.cpu()
    keep = torch.ones(len(cells), layout.tokens, dtype=torch.bool, device=model.device)
    keep[:, start : start + cells.shape[1]] = cells.to(model.device)

    def run(rows: Int[Tensor, " _"]) -> Tensor:
        return model.image.encode(pixels[item[rows].to(pixels.device)].to(model.device))

    return without_tokens(model.module, [layer.path for layer in layers], keep, run, batch_size)


def _groups(counts: Int[Tensor, " variant"], batch_size: int) -> Iterator[Int[Tensor, " _"]]:
    """Divide variants, by the number of their tokens, into groups that are run together: all of one
    number, or of similar ones where there are few of each."""
    order = counts.argsort(stable=True).tolist()
    ordered = counts[order].tolist()
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order):
            # A change of size ends a group that is large enough to be worth a pass of its own.
            enough = ordered[end] > ordered[end - 1] and end - start >= batch_size // 4
            alike = ordered[start] >= ALIKE * ordered[end]
            if end - start < batch_size and not enough and alike:
                continue
        yield torch.tensor(order[start:end])
        start = end


@dataclass(frozen=True)
class _TokenDropper:
    """Runs variants that go together: `keep` are their tokens, `rows` their numbers."""

    module: nn.Module
    paths: tuple[str, ...]
    run: Encoder

    def __call__(self, keep: Tensor, rows: Tensor) -> Tensor:
        if keep.all():
            return self.run(rows)
        fewest = int(keep.sum(1).min())
        block = self.first_block() if fewest else None
        if block is None:
            return self.masked(keep, rows)
        known = _seen_to_agree.setdefault(self.module, {})
        key = (block, keep.shape[1])
        if known.get(key) == DISAGREE:
            return self.masked(keep, rows)
        # Where far more is taken away than was checked, both ways are compared once more.
        if key in known and 2 * fewest > known[key]:
            return self.dropped(block, keep, rows)
        masked = self.masked(keep, rows)
        known[key] = fewest if self.agrees(block, keep, rows, masked) else DISAGREE
        return masked

    def first_block(self) -> str | None:
        """Return the first block's path, if tokens may be dropped before it."""
        if readings_open():  # whoever else intervenes now may count on the number of tokens
            return None
        return block_path(self.module, self.paths[0])

    def masked(self, keep: Tensor, rows: Tensor) -> Tensor:
        changes = dict.fromkeys(self.paths, masked_keys(keep))
        with reading(self.module, (), interventions=changes):
            return self.run(rows)

    def dropped(self, block: str, keep: Tensor, rows: Tensor) -> Tensor:
        counts = keep.sum(1)
        # As many tokens for every variant: those that stay, then others to fill up, in their order.
        left = keep.byte().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        left = left.sort(dim=1).values
        first = self.module.get_submodule(block)
        with as_python(self.module, [block], behind=False), _given(first, left, keep.shape[1]):
            if counts.min() == counts.max():
                return self.run(rows)
            return self.masked(keep.take_along_dim(left, 1), rows)

    def agrees(self, block: str, keep: Tensor, rows: Tensor, masked: Tensor) -> bool:
        try:
            dropped = self.dropped(block, keep, rows)
        except UNFIT as error:
            if not says_unfit(error, f"the tower with fewer tokens before {block}"):
                raise
            return False
        # Together: a single score near zero says nothing of its own precision.
        dtype = precision_of(self.module)
        return agree(dropped.double().flatten()[None], masked.double().flatten()[None], dtype)


@contextmanager
def _given(block: nn.Module, left: Int[Tensor, "variant left"], tokens: int) -> Generator[None]:
    """Give `block` the rows of these tokens alone."""

    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return select_rows(args, kwargs, left, tokens)

    with hooked(block, before=hook):
        yield
