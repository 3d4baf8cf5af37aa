"""What stands in the place of what is hidden: every imputer, and how changed pictures are scored.

| imputer | what is shown instead |
|---|---|
| zero | zeros of the preprocessed picture: the colour that the preprocessing subtracts |
| mean | the picture's own mean colour |
| black | what the preprocessing makes of black |
| blur | the picture under a Gaussian whose deviation is a patch's side |
| noise | uniform colours from black to white, by the trial's seed, the same for all pictures |
| inpainting | the solution of ROAD's linear equations and its noise of 0.01 (`inpainting`) |
| other | another picture of the trial: the next one by mean brightness that is not the same |
| tokens | nothing: no token may attend to the hidden ones, in any layer (see `removal`) |

`scored` makes `Trial.batch_size` changed pictures at once on the trial's device and keeps their
scores alone, so that memory does not grow with the number of pictures or of steps.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Need, Trial
from heatproof.metrics.inpainting import inpainted
from heatproof.metrics.perturbation import noise
from heatproof.metrics.protocols import enlarged

Imputer = Literal["zero", "mean", "black", "blur", "noise", "inpainting", "other", "tokens"]
Fill = Literal["zero", "mean", "black", "blur", "noise", "other"]
Of = Literal["score", "accuracy"]
ROAD_NOISE = 0.01
# Masks of tokens are small; whoever scores them can put those together that hide as much.
TOKEN_BATCHES = 16


def needs_of(imputer: Imputer, of: Of = "score") -> tuple[Need, ...]:
    """What a trial must have for pictures to be changed and scored so."""
    if imputer == "tokens":
        if of == "accuracy":
            raise InputError("with imputer=tokens only the score is known; try of=score")
        return ("tokens",)
    seen: Need = "score" if of == "score" else "hit"
    return (seen, "levels") if imputer in ("black", "noise") else (seen,)


@runtime_checkable
class Masks(Protocol):
    """What variants still show of their pictures.

    `rows` are the trial's items of this batch; variant n is of the item `rows.start + within[n]`,
    at the point `point[n]`. Bool (variant, cell) of the patch grid, or (variant, 1, height, width):
    bool, or the share that is shown.
    """

    def __call__(
        self, rows: slice, within: Int[Tensor, " variant"], point: Int[Tensor, " variant"]
    ) -> Shaped[Tensor, "variant ..."]: ...


def scored(
    trial: Trial, imputer: Imputer, points: int, masks: Masks, of: Of = "score"
) -> Float[Tensor, "item point"]:
    """The score of every item at every point, in float64 on the CPU."""
    look = _looker(trial, imputer, of)
    count = len(trial) * points
    size = trial.batch_size * (TOKEN_BATCHES if imputer == "tokens" else 1)
    found: Tensor | None = None
    for start in range(0, count, size):
        stop = min(start + size, count)
        index = torch.arange(start, stop, device=device_of(trial))
        rows = slice(start // points, (stop - 1) // points + 1)
        within, point = index // points - rows.start, index % points
        scores = look(masks(rows, within, point), rows, within).detach()
        # One block for all: small ones that are kept between large ones fragment the memory.
        found = scores.new_empty(count) if found is None else found
        found[start:stop] = scores
    if found is None:
        return torch.zeros(len(trial), points, dtype=torch.float64)
    return found.cpu().double().view(len(trial), points)


def device_of(trial: Trial) -> torch.device:
    return trial.device or trial.pixels.device


_Look = Callable[[Tensor, slice, Tensor], Tensor]


def _looker(trial: Trial, imputer: Imputer, of: Of) -> _Look:
    if imputer == "tokens":
        tokens = trial.tokens
        assert tokens is not None
        return lambda keep, rows, within: tokens(keep, within + rows.start)
    score = trial.score if of == "score" else trial.hit
    assert score is not None
    paint = _Inpainting(trial) if imputer == "inpainting" else _Painted(trial, imputer)

    def look(keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        if keep.dim() == 2:
            grid = (trial.maps.shape[1], trial.maps.shape[2])
            size = (trial.pixels.shape[2], trial.pixels.shape[3])
            keep = enlarged(keep, grid, size)
        return score(paint(keep, rows, within), within + rows.start)

    return look


class _Inpainting:
    """ImageInputs whose hidden pixels follow from those that are shown."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        generator = torch.Generator().manual_seed(trial.seed)
        rough = torch.randn(trial.pixels.shape[1:], generator=generator)
        self.rough = (ROAD_NOISE * rough).to(device_of(trial), trial.pixels.dtype)

    def __call__(self, keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        solved = inpainted(pictures(self.trial, rows)[within], keep)
        return torch.where(keep, solved, solved + self.rough)


class _Painted:
    """ImageInputs, and where they are hidden a fill that does not depend on what is hidden."""

    def __init__(self, trial: Trial, fill: Fill) -> None:
        self.trial, self.fill = trial, fill
        self.same = _same_for_all(trial, fill)
        self.others = _others(trial) if fill == "other" else None

    def __call__(self, keep: Tensor, rows: slice, within: Tensor) -> Tensor:
        pixels = pictures(self.trial, rows)
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
            return blurred(pixels, (self.trial.maps.shape[1], self.trial.maps.shape[2]))
        return pixels.mean((2, 3), keepdim=True)


def pictures(trial: Trial, rows: slice) -> Float[Tensor, "row 3 height width"]:
    return trial.pixels[rows].to(device_of(trial))


def _same_for_all(trial: Trial, fill: Fill) -> Float[Tensor, "1 3 _ _"] | None:
    like = trial.pixels[:1].to(device_of(trial))
    if fill == "zero":
        return torch.zeros_like(like[:, :, :1, :1])
    if fill not in ("black", "noise"):
        return None
    assert trial.levels is not None
    black, white = trial.levels.to(like)[:, None, :, None, None]
    if fill == "black":
        return black
    return black + (white - black) * noise(like.shape[1:], trial.seed).to(like)


def _others(trial: Trial) -> Int[Tensor, " item"]:
    """For each item one whose picture is another, whatever order the items come in."""
    means = torch.cat([part.cpu().double().mean((1, 2, 3)) for part in trial.pixels.split(64)])
    found, group = means.unique(return_inverse=True)
    if len(found) < 2:
        raise InputError("imputer=other needs two different pictures, this trial has one")
    first = torch.full((len(found),), len(means)).scatter_reduce(
        0, group, torch.arange(len(means)), "amin"
    )
    return first[(group + 1) % len(found)]


def blurred(
    pixels: Float[Tensor, "image channel height width"], grid: tuple[int, int]
) -> Float[Tensor, "image channel height width"]:
    """Gaussian with a patch's side as its deviation."""
    for axis, cells in ((2, grid[0]), (3, grid[1])):
        size = pixels.shape[axis]
        deviation = size / cells
        reach = min(int(3 * deviation), size - 1)
        steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.exp(-(steps**2) / (2 * deviation**2))
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        channels = pixels.shape[1]
        weight = (kernel / kernel.sum()).view(shape).expand(channels, 1, *shape[2:])
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        pixels = F.conv2d(F.pad(pixels, pad, mode="reflect"), weight, groups=channels)
    return pixels
