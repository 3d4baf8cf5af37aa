"""Tokens taken away from pictures in every layer: masked as keys, or really dropped.

Nothing attends to a masked key: its token is gone, but its row is still computed. Where the readout
is the row of a token that stays, the rows themselves can go before the first block, and a pass
costs less the more is taken away. That both ways agree is checked on the first inputs of a tower
and size, and again where far more is taken away than was checked; where they do not (a mean over
rows, rotary positions), keys are masked.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.models.model import Model, precision_of
from heatproof.reading import AttentionLayer, block_path, reading, readings_open, rows_of
from heatproof.reading.compiled import as_python
from heatproof.reading.hooks import hooked
from heatproof.reading.interventions import masked_keys
from heatproof.tolerances import UNFIT, agree, says_unfit

Run = Callable[[Int[Tensor, " variant"]], Float[Tensor, "variant ..."]]

# Variants go together while the smallest keeps this share of the largest one's tokens.
ALIKE = 3 / 4

NEVER = -1
# With how few tokens left both ways were seen to agree, by first block and number of tokens.
_seen_to_agree: WeakKeyDictionary[nn.Module, dict[tuple[str, int], int]] = WeakKeyDictionary()


def each_without(
    module: nn.Module,
    paths: Sequence[str],
    keep: Bool[Tensor, "variant token"],
    run: Run,
    batch_size: int,
) -> Float[Tensor, "variant ..."]:
    """What `run` gives for variants of which only the tokens in `keep` are left.

    Args:
        paths: all attention calls of the tower, first to last.
        run: the model's own encoder, and what follows it, on these of the variants (by number, at
            most `batch_size` of them, in no particular order).
    """
    remover = _Remover(module, tuple(paths), run)
    found: Tensor | None = None
    for rows in _runs(keep.sum(1).cpu(), batch_size):
        values = remover(keep[rows], rows)
        if found is None:
            found = values.new_empty(len(keep), *values.shape[1:])
        found[rows] = values
    assert found is not None, "no variant"
    return found


def seen_in(
    model: Model,
    sites: Sequence[AttentionLayer],
    pixels: Float[Tensor, "image 3 height width"],
    item: Int[Tensor, " variant"],
    cells: Bool[Tensor, "variant cell"],
    batch_size: int,
) -> Float[Tensor, "variant dim"]:
    """Embeddings of pictures (variant n is of `pixels[item[n]]`) of which the model sees these
    cells' tokens alone, beside its class tokens and registers.

    sites: all attention calls of the image tower.
    """
    layout = model.image.layout(*pixels.shape[-2:])
    start, item = len(layout.prefix), item.cpu()
    keep = torch.ones(len(cells), layout.tokens, dtype=torch.bool, device=model.device)
    keep[:, start : start + cells.shape[1]] = cells.to(model.device)

    def run(rows: Int[Tensor, " _"]) -> Tensor:
        return model.image.encode(pixels[item[rows].to(pixels.device)].to(model.device))

    return each_without(model.module, [site.path for site in sites], keep, run, batch_size)


def _runs(counts: Int[Tensor, " variant"], batch_size: int) -> Iterator[Int[Tensor, " _"]]:
    """Variants that go together: of one number of tokens, or of similar ones where they are few."""
    order = counts.argsort(stable=True).tolist()
    of = counts[order].tolist()
    start = 0
    for end in range(1, len(order) + 1):
        if end < len(order):
            enough = of[end] > of[end - 1] and end - start >= batch_size // 4
            if end - start < batch_size and not enough and of[start] >= ALIKE * of[end]:
                continue
        yield torch.tensor(order[start:end])
        start = end


@dataclass(frozen=True)
class _Remover:
    """`keep` and `rows` are those of variants that go together."""

    module: nn.Module
    paths: tuple[str, ...]
    run: Run

    def __call__(self, keep: Tensor, rows: Tensor) -> Tensor:
        if keep.all():
            return self.run(rows)
        fewest = int(keep.sum(1).min())
        block = self.block() if fewest else None
        if block is None:
            return self.masked(keep, rows)
        known = _seen_to_agree.setdefault(self.module, {})
        key = (block, keep.shape[1])
        if known.get(key) == NEVER:
            return self.masked(keep, rows)
        if key in known and 2 * fewest > known[key]:
            return self.dropped(block, keep, rows)
        masked = self.masked(keep, rows)
        known[key] = fewest if self.agrees(block, keep, rows, masked) else NEVER
        return masked

    def block(self) -> str | None:
        """The first block, if tokens may be dropped before it: whoever else intervenes now may
        count on their number."""
        if readings_open():
            return None
        try:
            return block_path(self.module, self.paths[0])
        except ReadingError:
            return None

    def masked(self, keep: Tensor, rows: Tensor) -> Tensor:
        changes = dict.fromkeys(self.paths, masked_keys(keep))
        with reading(self.module, (), interventions=changes):
            return self.run(rows)

    def dropped(self, block: str, keep: Tensor, rows: Tensor) -> Tensor:
        """Variants that keep fewer tokens than the others have some more, which are masked."""
        counts = keep.sum(1)
        kept = keep.byte().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        kept = kept.sort(dim=1).values
        first = self.module.get_submodule(block)
        with as_python(self.module, [block], behind=False), _left(first, kept, keep.shape[1]):
            if counts.min() == counts.max():
                return self.run(rows)
            return self.masked(keep.take_along_dim(kept, 1), rows)

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
def _left(block: nn.Module, kept: Int[Tensor, "variant kept"], tokens: int) -> Generator[None]:
    """`block` is given the rows of these tokens alone."""

    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return rows_of(args, kwargs, kept, tokens)

    with hooked(block, before=hook):
        yield
