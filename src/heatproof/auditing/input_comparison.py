"""Say what an input of the model is, compared with the image that is explained.

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
InputKind = Literal["image", "noise", "faded", "moved", "other"]

# Distance of two inputs, in units of the image's contrast, that another resize can make.
NEAR = 0.1
# Share of a difference that white noise of its own grain makes up: near 1 for noise, 0.1 to 0.5
# for the difference of two photographs, whose neighbouring pixels are alike.
WHITE = 0.9
# Standard error of the image's weight in an input, above which noise hides the image.
SURE = 0.05


@dataclass(frozen=True)
class InputComparison:
    """What an input is.

    name: in words. distance: its difference from the image. noise: the part of that difference that
    noise of the same grain would make. Both are in units of the image's contrast (the norm of the
    image less the mean of each channel). contrast: that of the input, for a faded image.
    """

    kind: InputKind
    name: str
    distance: float
    noise: float = 0.0
    contrast: float = 1.0

    @property
    def near(self) -> bool:
        """Whether a derivative at this input counts as one at the image."""
        return self.kind in ("image", "noise") or (
            self.kind == "faded" and abs(self.contrast - 1) <= NEAR
        )

    @property
    def on_the_way(self) -> bool:
        """Whether it is the image with less contrast."""
        return self.kind == "faded" and 0 <= self.contrast < 1


def compare_input(given: Tensor, image: Pixels) -> InputComparison:
    """Compare an input with the image; both are preprocessed pixels."""
    given, image = given.double().cpu(), image.double().cpu()
    if given.shape != image.shape:
        rows, cols = given.shape[-2:]
        return InputComparison("other", f"an input of another size ({cols} x {rows})", float("nan"))
    unit = float(_centred(image).norm())
    if not unit:
        same = torch.equal(given, image)
        name = "the image" if same else "another input"
        return InputComparison("image" if same else "other", name, 0.0 if same else float("inf"))
    distance = float((given - image).norm()) / unit
    noise = _grain(given - image) / unit
    if distance <= NEAR:
        return InputComparison("image", "the image", distance, noise)
    if _is_with_noise(given, image):
        return InputComparison("noise", "the image with noise", distance, noise)
    for name, seen, moved in _moves(given, image):
        near = (seen - moved).norm() <= NEAR * _centred(moved).norm()
        if near or _is_with_noise(seen, moved):
            return InputComparison("moved", name, distance, noise)
    contrast = float((_centred(given) * _centred(image)).sum()) / unit**2
    if float((_centred(given) - contrast * _centred(image)).norm()) / unit <= NEAR / 10:
        name = f"the image at {contrast:.0%} of its contrast"
        return InputComparison("faded", name, distance, noise, contrast)
    return InputComparison("other", "another input", distance, noise)


def _centred(pixels: Pixels) -> Pixels:
    return pixels - pixels.mean((1, 2), keepdim=True)


def _grain(difference: Pixels) -> float:
    """Return the norm of white noise whose neighbouring pixels differ as much."""
    across, down = difference.diff(dim=2), difference.diff(dim=1)
    squares = torch.cat([across.flatten(), down.flatten()]).square()
    return float((squares.mean() / 2 * difference.numel()).sqrt()) if squares.numel() else 0.0


def _is_with_noise(given: Pixels, image: Pixels) -> bool:
    """Say whether `given` is `image`, at its full strength, plus white noise."""
    difference = given - image
    size, unit = float(difference.norm()), float(_centred(image).norm())
    if not size:
        return True
    if not unit or _grain(difference) ** 2 < WHITE * size**2:
        return False
    # How strongly the image is in the input, by least squares, and how far noise alone moves that.
    weight = float((_centred(given) * _centred(image)).sum()) / unit**2
    error = size / unit / image.numel() ** 0.5
    return error <= SURE and abs(weight - 1) <= max(NEAR, 4 * error)


def _moves(given: Pixels, image: Pixels) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Yield what is often done to an image, by name: the input, and what it then would be."""
    moved = {
        "the image mirrored left to right": image.flip(2),
        "the image upside down": image.flip(1),
        "the image turned by 180 degrees": image.flip((1, 2)),
        "the image with red and blue exchanged": image.flip(0),
        "the image with its colours inverted": 2 * image.mean((1, 2), keepdim=True) - image,
    }
    if image.shape[1] == image.shape[2]:
        moved["the image turned by 90 degrees"] = image.rot90(1, (1, 2))
        moved["the image turned by 270 degrees"] = image.rot90(3, (1, 2))
    yield from ((name, given, pixels) for name, pixels in moved.items())
    down, right = _likeliest_shift(given, image)
    # What came in at the border is whatever the shift filled it with: it is left out.
    if max(abs(down) / image.shape[1], abs(right) / image.shape[2]) <= FARTHEST and (down or right):
        name = (
            f"the image shifted by {abs(right)} px to the {'right' if right > 0 else 'left'} and "
            f"{abs(down)} px {'down' if down > 0 else 'up'}"
        )
        inside = (slice(None), _overlap(down), _overlap(right))
        before = (slice(None), _overlap(-down), _overlap(-right))
        yield name, given[inside], image[before]


# Of a side: the farthest shift that is looked for.
FARTHEST = 0.25


def _likeliest_shift(given: Pixels, image: Pixels) -> tuple[int, int]:
    """Return the rows and columns by which shifting `image` is most like `given`.

    They maximise the cross-correlation.
    """
    rows, cols = image.shape[1:]
    spectra = [torch.fft.rfft2(_centred(pixels)) for pixels in (given, image)]
    likeness = torch.fft.irfft2((spectra[0] * spectra[1].conj()).sum(0), s=(rows, cols))
    down, right = divmod(int(likeness.argmax()), cols)
    return (down + rows // 2) % rows - rows // 2, (right + cols // 2) % cols - cols // 2


def _overlap(by: int) -> slice:
    """Return the rows, or columns, that hold the image after a shift."""
    return slice(by, None) if by >= 0 else slice(0, by)
