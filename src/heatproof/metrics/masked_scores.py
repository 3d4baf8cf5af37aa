"""Score a trial's images with parts of them hidden, by any imputer of `heatproof.imputers`.

`masked_scores` makes `Trial.batch_size` changed images at once on the trial's device and keeps
their scores alone, so that memory does not grow with the number of images or of steps.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from heatproof.errors import InputError
from heatproof.imputers.fills import between, blurred_by_a_patch, enlarged, mean_colour, noise
from heatproof.imputers.inpainting import inpainted
from heatproof.metrics.base import Need, Trial

Imputer = Literal["zero", "mean", "black", "blur", "noise", "inpainting", "other", "tokens"]
Fill = Literal["zero", "mean", "black", "blur", "noise", "other"]
Of = Literal["score", "accuracy"]
ROAD_NOISE = 0.01
# Masks of tokens are small; whoever scores them can put those together that hide as much.
TOKEN_BATCHES = 16


def needs_of(imputer: Imputer, of: Of = "score") -> tuple[Need, ...]:
    """Return what a trial must have for images to be changed and scored so.

    Raises:
        InputError: no accuracy is known of images without some of their tokens.
    """
    if imputer == "tokens":
        if of == "accuracy":
            raise InputError("with imputer=tokens only the score is known; try of=score")
        return ("tokens",)
    target: Need = "score" if of == "score" else "hit"
    return (target, "levels") if imputer in ("black", "noise") else (target,)


@runtime_checkable
class Masks(Protocol):
    """What variants still show of their images.

    `rows` are the trial's items of this batch; variant n is of the item `rows.start + within[n]`,
    at the point `point[n]`. Bool (variant, cell) of the patch grid, or (variant, 1, height, width):
    bool, or the share that is shown.
    """

    def __call__(
        self, rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
    ) -> Shaped[Tensor, "variant ..."]: ...


def masked_scores(
    trial: Trial, imputer: Imputer, points: int, masks: Masks, of: Of = "score"
) -> Float[Tensor, "item point"]:
    """Return the score of every item at every point, in float64 on the CPU."""
    look = _scorer(trial, imputer, of)
    count = len(trial) * points
    size = trial.batch_size * (TOKEN_BATCHES if imputer == "tokens" else 1)
    block: Tensor | None = None
    for start in range(0, count, size):
        stop = min(start + size, count)
        # A batch may end within an item: variants are numbered through all items.
        index = torch.arange(start, stop, device=trial.place)
        rows = slice(start // points, (stop - 1) // points + 1)
        within, point = index // points - rows.start, index % points
        scores = look(masks(rows, within, point), rows, within).detach()
        # One block for all: small ones that are kept between large ones fragment the memory.
        block = scores.new_empty(count) if block is None else block
        block[start:stop] = scores
    if block is None:
        return torch.zeros(len(trial), points, dtype=torch.float64)
    return block.cpu().double().view(len(trial), points)


_Scorer = Callable[[Tensor, slice, Tensor], Tensor]


def _scorer(trial: Trial, imputer: Imputer, of: Of) -> _Scorer:
    if imputer == "tokens":
        tokens = trial.tokens
        assert tokens is not None
        return lambda keep, rows, within: tokens(keep, within + rows.start)
    score = trial.score if of == "score" else trial.hit
    assert score is not None
    paint = _Inpainting(trial) if imputer == "inpainting" else _Painting(trial, imputer)

    def look(keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        if keep.dim() == 2:
            keep = enlarged(keep, trial.grid, (trial.pixels.shape[2], trial.pixels.shape[3]))
        return score(paint(keep, rows, within), within + rows.start)

    return look


class _Inpainting:
    """Images whose hidden pixels follow from those that are shown."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        generator = torch.Generator().manual_seed(trial.seed)
        rough = torch.randn(trial.pixels.shape[1:], generator=generator)
        self.rough = (ROAD_NOISE * rough).to(trial.place, trial.pixels.dtype)

    def __call__(self, keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        solved = inpainted(self.trial.images(rows)[within], keep)
        return torch.where(keep, solved, solved + self.rough)


class _Painting:
    """Images, and where they are hidden a fill that does not depend on what is hidden."""

    def __init__(self, trial: Trial, fill: Fill) -> None:
        self.trial, self.fill = trial, fill
        self.same = _same_for_all(trial, fill)
        self.others = _others(trial) if fill == "other" else None

    def __call__(self, keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        pixels = self.trial.images(rows)
        shown = pixels[within]
        under = self._under(rows, pixels)[within] if self.same is None else self.same
        if keep.dtype == torch.bool:
            return torch.where(keep, shown, under)
        return under + keep.to(shown.dtype) * (shown - under)

    def _under(
        self, rows: slice, pixels: Float[Tensor, "row 3 height width"]
    ) -> Float[Tensor, "row 3 #height #width"]:
        if self.others is not None:
            others = self.others[rows].to(self.trial.pixels.device)
            return self.trial.pixels[others].to(pixels.device)
        if self.fill == "blur":
            return blurred_by_a_patch(pixels, self.trial.grid)
        return mean_colour(pixels)


def _same_for_all(trial: Trial, fill: Fill) -> Float[Tensor, "1 3 _ _"] | None:
    like = trial.images(slice(0, 1))
    if fill == "zero":
        return torch.zeros_like(like[:, :, :1, :1])
    if fill not in ("black", "noise"):
        return None
    assert trial.levels is not None
    black, white = trial.levels.to(like)[:, None, :, None, None]
    if fill == "black":
        return black
    return between(black, white, noise(like.shape[1:], trial.seed).to(like))


def _others(trial: Trial) -> Int[Tensor, " item"]:
    """Return for each item one whose image is another, whatever order the items come in."""
    means = torch.cat([part.cpu().double().mean((1, 2, 3)) for part in trial.pixels.split(64)])
    distinct, group = means.unique(return_inverse=True)
    if len(distinct) < 2:
        raise InputError("imputer=other needs two different images, this trial has one")
    first = torch.full((len(distinct),), len(means)).scatter_reduce(
        0, group, torch.arange(len(means)), "amin"
    )
    return first[(group + 1) % len(distinct)]
