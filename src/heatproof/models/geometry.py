"""Where the model looked: patch grid -> the model's view -> the original photo."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof.errors import ImageError

Resize = Literal["shortest", "squash", "longest"]
Box = tuple[float, float, float, float]

# A resized image above this many pixels is never made: the crop throws nearly all of it away.
MOST_PIXELS = 64_000_000


@dataclass(frozen=True, kw_only=True)
class PhotoView:
    """The part of a photo that the model saw, in pixels of the photo.

    The box may reach beyond the photo where the preprocessing padded it. Where the
    preprocessing mirrors, `left` lies right of `right` (or `top` below `bottom`).
    """

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def seen(self) -> Box:
        """Return the part of the box that lies on the photo: left, top, right, bottom."""
        across, down = sorted((self.left, self.right)), sorted((self.top, self.bottom))
        left, right = (min(max(x, 0.0), float(self.width)) for x in across)
        top, bottom = (min(max(y, 0.0), float(self.height)) for y in down)
        return left, top, right, bottom

    @property
    def unseen(self) -> float:
        """Return the share of the photo, 0 to 1, that the model never saw."""
        left, top, right, bottom = self.seen
        share = (right - left) * (bottom - top) / (self.width * self.height)
        return min(max(1.0 - share, 0.0), 1.0)

    def cell(self, row: int, col: int, rows: int, cols: int) -> Box:
        """Return left, top, right and bottom of one patch of a `rows` x `cols` grid."""
        wide, high = (self.right - self.left) / cols, (self.bottom - self.top) / rows
        left, top = self.left + col * wide, self.top + row * high
        across, down = sorted((left, left + wide)), sorted((top, top + high))
        return across[0], down[0], across[1], down[1]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The model's own preprocessing (`transform`, never re-written) and its geometry.

    `resize` is `shortest` (shortest side to `resize_to` pixels, then centre crop),
    `squash` (both sides, aspect lost) or `longest` (longest side, then centred padding).
    `unpatched` are the rows and columns of pixels, bottom and right, that no patch covers
    (a 384-pixel input in patches of 14 leaves 6). `flexible` ones give photos sizes of their own.
    """

    flexible: ClassVar[bool] = False

    height: int
    width: int
    resize: Resize
    resize_to: int
    transform: Callable[[Image.Image], Tensor]
    unpatched: tuple[int, int] = (0, 0)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.transform(self._narrowed(image))

    def level(self, value: int) -> Float[Tensor, "3"]:
        """Return what an image of one grey `value`, 0 (black) to 255 (white), becomes."""
        # Measured: normalisation differs between families and may be hidden in the transform.
        flat = self(Image.new("RGB", (self.width, self.height), (value, value, value)))
        # The middle: whatever a preprocessing does at the border is no part of the colour.
        return flat[:, flat.shape[1] // 2, flat.shape[2] // 2]

    def view(self, width: int, height: int) -> PhotoView:
        """Return what the model sees of a photo of `width` x `height` pixels."""
        resized_width, resized_height = self.resized(width, height)
        left = _crop_start(resized_width, self.width)
        top = _crop_start(resized_height, self.height)
        x, y = width / resized_width, height / resized_height
        missing_rows, missing_cols = self.unpatched
        return PhotoView(
            width=width,
            height=height,
            left=left * x,
            top=top * y,
            right=(left + self.width - missing_cols) * x,
            bottom=(top + self.height - missing_rows) * y,
        )

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after resizing, before the crop, by the libraries' own rules."""
        # Resized to more than the crop (256 for 224): both sides grow alike.
        scale = self.resize_to / min(self.width, self.height)
        target_width, target_height = self.width * scale, self.height * scale
        if self.resize == "squash":
            return round(target_width), round(target_height)
        # torchvision's rule for one side rounds down, that for two sides to the nearest.
        if self.resize == "shortest" and self.width == self.height:
            return _shortest(width, height, self.resize_to)
        ratios = width / target_width, height / target_height
        ratio = min(ratios) if self.resize == "shortest" else max(ratios)
        new_width, new_height = round(width / ratio), round(height / ratio)
        if not new_width or not new_height:
            raise ImageError(
                f"a picture of {width} x {height} pixels has no side left once its longer one "
                f"fits the model's {self.width} x {self.height}; crop it first"
            )
        return new_width, new_height

    def _narrowed(self, image: Image.Image) -> Image.Image:
        """Return an extreme image without the far ends that the centre crop throws away.

        30,000 x 2 pixels would be resized to 3,360,000 x 224 first. As much is cut off on either
        side, and more than the resampling filter reaches is left, so that what is seen stays.
        """
        width, height = image.size
        resized_width, resized_height = self.resized(width, height)
        if resized_width * resized_height <= MOST_PIXELS:
            return image
        view = self.view(width, height)
        reach = 4 * math.ceil(max(1.0, width / resized_width, height / resized_height))
        cut_x = max(0, math.floor(min(view.left, width - view.right)) - reach)
        cut_y = max(0, math.floor(min(view.top, height - view.bottom)) - reach)
        return image.crop((cut_x, cut_y, width - cut_x, height - cut_y))


@dataclass(frozen=True, kw_only=True)
class OwnGrid(Preprocess):
    """A preprocessing that keeps each photo's aspect ratio, on a grid of its own (NaFlex).

    It shows the whole photo. `height` and `width` are those of a square one.
    """

    flexible: ClassVar[bool] = True

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.transform(image)

    def view(self, width: int, height: int) -> PhotoView:
        """Return the whole photo."""
        return PhotoView(
            width=width, height=height, left=0.0, top=0.0, right=float(width), bottom=float(height)
        )


def _shortest(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the size after torchvision's `Resize(size)`, which rounds the longer side down."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _crop_start(length: int, crop: int) -> int:
    """Return the first pixel of torchvision's `CenterCrop`; negative where it pads."""
    if crop > length:
        return -((crop - length) // 2)
    return round((length - crop) / 2.0)
