"""Say what an input of the model is, beside the image that is explained.

Honest code differentiates the model at the image, at the image with noise on it (SmoothGrad), or on
the way to it from a flat colour (integrated gradients). A map of the mirrored image, or of another
one, is the map of another input: these are named, with their distance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "3 height width"]
Kind = Literal["image", "noise", "faded", "moved", "other"]

NEAR = 0.1
"""Distance of two inputs, in units of the image's contrast, that another resize can make."""
WHITE = 0.9
"""Share of a difference that white noise of its own grain makes up: near 1 for noise, 0.1 to 0.5
for the difference of two photographs, whose neighbouring pixels are alike."""
SURE = 0.05
"""Standard error of the image's weight in an input, above which noise hides the image."""


@dataclass(frozen=True)
class Nearness:
    """What an input is.

    `distance` is its difference from the image and `noise` the part of it that noise of the same
    grain makes, both in units of the image's contrast (the norm of the image less the mean of each
    channel). `contrast` is that of the input, for a faded image. `name` says it in words.
    """

    kind: Kind
    name: str
    distance: float
    noise: float = 0.0
    contrast: float = 1.0

    @property
    def near(self) -> bool:
        """Whether a derivative at this input is one at the image."""
        return self.kind in ("image", "noise") or (
            self.kind == "faded" and abs(self.contrast - 1) <= NEAR
        )

    @property
    def on_the_way(self) -> bool:
        """Whether it is the image with less contrast."""
        return self.kind == "faded" and 0 <= self.contrast < 1


def nearness(given: Tensor, image: Pixels) -> Nearness:
    """Compare an input with the image; both are preprocessed pixels."""
    given, image = given.double().cpu(), image.double().cpu()
    if given.shape != image.shape:
        rows, cols = given.shape[-2:]
        return Nearness("other", f"an input of another size ({cols} x {rows})", float("nan"))
    unit = float(_centred(image).norm())
    if not unit:
        same = torch.equal(given, image)
        name = "the image" if same else "another input"
        return Nearness("image" if same else "other", name, 0.0 if same else float("inf"))
    distance = float((given - image).norm()) / unit
    noise = _grain(given - image) / unit
    if distance <= NEAR:
        return Nearness("image", "the image", distance, noise)
    if _is_with_noise(given, image):
        return Nearness("noise", "the image with noise", distance, noise)
    for name, moved in _moves(given, image):
        near = float((given - moved).norm()) / unit <= NEAR
        if near or _is_with_noise(given, moved):
            return Nearness("moved", name, distance, noise)
    contrast = float((_centred(given) * _centred(image)).sum()) / unit**2
    if float((_centred(given) - contrast * _centred(image)).norm()) / unit <= NEAR / 10:
        name = f"the image at {contrast:.0%} of its contrast"
        return Nearness("faded", name, distance, noise, contrast)
    return Nearness("other", "another input", distance, noise)


def _centred(pixels: Pixels) -> Pixels:
    return pixels - pixels.mean((1, 2), keepdim=True)


def _grain(difference: Pixels) -> float:
    """The norm of white noise whose neighbouring pixels differ as much as those of `difference`."""
    across, down = difference.diff(dim=2), difference.diff(dim=1)
    squares = torch.cat([across.flatten(), down.flatten()]).square()
    return float((squares.mean() / 2 * difference.numel()).sqrt()) if squares.numel() else 0.0


def _is_with_noise(given: Pixels, image: Pixels) -> bool:
    """Whether `given` is `image`, at its full strength, and white noise."""
    difference = given - image
    size, unit = float(difference.norm()), float(_centred(image).norm())
    if not size:
        return True
    if not unit or _grain(difference) ** 2 < WHITE * size**2:
        return False
    weight = float((_centred(given) * _centred(image)).sum()) / unit**2
    error = size / unit / image.numel() ** 0.5
    return error <= SURE and abs(weight - 1) <= max(NEAR, 4 * error)


def _moves(given: Pixels, image: Pixels) -> Iterator[tuple[str, Pixels]]:
    """The image as it is often moved, by name; the shift is the likeliest one."""
    yield "the image mirrored left to right", image.flip(2)
    yield "the image upside down", image.flip(1)
    yield "the image turned by 180 degrees", image.flip((1, 2))
    if image.shape[1] == image.shape[2]:
        yield "the image turned by 90 degrees", image.rot90(1, (1, 2))
        yield "the image turned by 270 degrees", image.rot90(3, (1, 2))
    yield "the image with red and blue exchanged", image.flip(0)
    yield "the image with its colours inverted", 2 * image.mean((1, 2), keepdim=True) - image
    spectra = [torch.fft.rfft2(_centred(each)) for each in (given, image)]
    likeness = torch.fft.irfft2((spectra[0] * spectra[1].conj()).sum(0), s=image.shape[1:])
    row, col = divmod(int(likeness.argmax()), image.shape[2])
    if row or col:
        down = row - image.shape[1] if row > image.shape[1] // 2 else row
        right = col - image.shape[2] if col > image.shape[2] // 2 else col
        shifted = image.roll((row, col), (1, 2))
        # What came in at the border is whatever the shift filled it with.
        inside = torch.zeros(image.shape[1:], dtype=torch.bool)
        inside[_kept(down, image.shape[1]), _kept(right, image.shape[2])] = True
        yield (
            f"the image shifted by {abs(right)} pixel(s) to the {'right' if right > 0 else 'left'} "
            f"and {abs(down)} {'down' if down > 0 else 'up'}",
            torch.where(inside, shifted, given),
        )


def _kept(by: int, size: int) -> slice:
    """Rows, or columns, of the image that are still inside after a shift."""
    return slice(by, size) if by >= 0 else slice(0, size + by)
