"""The view against open_clip's real transforms, on ramps that say where each pixel came from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from heatproof.errors import ImageError
from heatproof.models.geometry import PhotoView, Preprocess

SIZES = [
    (97, 97),
    (640, 427),
    (427, 640),
    (333, 500),
    (501, 334),
    (61, 53),
    (1999, 311),
    (113, 1009),
]


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards (dithered: 8 bits are coarse), blue is full."""
    dither = np.random.default_rng(0).random((2, height, width))
    x = (np.arange(width) + 0.5) / width * 254 + dither[0]
    y = (np.arange(height)[:, None] + 0.5) / height * 254 + dither[1]
    planes = [np.floor(x), np.floor(y), np.full((height, width), 255)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def stock(size: tuple[int, int], mode: str) -> Preprocess:
    height, width = size
    transform = image_transform(
        size if height != width else height,
        is_train=False,
        resize_mode=mode,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bilinear",
    )
    return Preprocess(
        height=height, width=width, resize=mode, resize_to=min(size), transform=transform
    )  # pyright: ignore


def measured(
    pixels: torch.Tensor, length: int, channel: int, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """View positions, and the photo position that the ramp shows there (clipped ends left out)."""
    inside = pixels[2] > 0.5
    shown = torch.where(inside, pixels[channel], torch.nan).nanmean(axis)
    values = (shown * 255 / 254 * length).numpy()
    at = np.arange(len(values)) + 0.5
    kept = np.isfinite(values) & (values > 0.02 * length) & (values < 0.98 * length)
    return at[kept], values[kept]


@pytest.mark.parametrize("photo", SIZES)
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_view_is_where_open_clip_looks_within_a_pixel(photo, size, mode):
    width, height = photo
    preprocess = stock(size, mode)
    view = preprocess.view(width, height)
    pixels = preprocess(ramp(width, height))
    for channel, axis, length, start, end in [
        (0, 0, width, view.left, view.right),
        (1, 1, height, view.top, view.bottom),
    ]:
        at, shown = measured(pixels, length, channel, axis)
        step = (end - start) / pixels.shape[2 - channel]
        error = np.abs(start + at * step - shown)
        assert len(at)
        assert error.max() <= 0.75 * max(step, 1.0), (error.max(), step)


def test_crop_larger_than_the_resized_picture_is_padded_as_torchvision_pads():
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    transform = Compose([Resize(40), CenterCrop((64, 64)), ToTensor()])
    preprocess = Preprocess(
        height=64, width=64, resize="shortest", resize_to=40, transform=transform
    )
    view = preprocess.view(90, 120)
    at, shown = measured(preprocess(ramp(90, 120)), 90, 0, 0)
    assert np.abs(view.left + at * (view.right - view.left) / 64 - shown).max() <= 2.25
    assert view.left < 0 < 90 < view.right
    assert view.unseen == 0.0 or view.unseen < 0.01


def test_resizing_beyond_the_crop_shrinks_the_view():
    view = Preprocess(
        height=224, width=224, resize="shortest", resize_to=256, transform=torch.zeros
    ).view(512, 512)
    assert (view.left, view.right) == (32.0, 480.0)


def test_cells_tile_the_view_and_know_rows_from_columns():
    view = PhotoView(width=300, height=200, left=50.0, top=0.0, right=250.0, bottom=200.0)
    assert view.cell(0, 0, 2, 5) == (50.0, 0.0, 90.0, 100.0)
    assert view.cell(1, 4, 2, 5) == (210.0, 100.0, 250.0, 200.0)


def test_unseen_share_is_what_the_crop_cut_off():
    assert PhotoView(
        width=300, height=200, left=50.0, top=0.0, right=250.0, bottom=200.0
    ).unseen == pytest.approx(1 / 3)
    assert (
        PhotoView(width=300, height=200, left=-10.0, top=-60.0, right=310.0, bottom=260.0).unseen
        == 0.0
    )
    preprocess = Preprocess(
        height=224, width=224, resize="shortest", resize_to=224, transform=torch.zeros
    )
    assert preprocess.view(224, 896).unseen == pytest.approx(0.75, abs=1e-3)


def test_pixels_that_no_patch_covers_are_unseen():
    view = Preprocess(
        height=384,
        width=384,
        resize="squash",
        resize_to=384,
        transform=torch.zeros,
        unpatched=(6, 6),
    ).view(768, 384)
    assert (view.right, view.bottom) == (756.0, 378.0)


@pytest.mark.parametrize("photo", [(30_000, 3), (30_001, 4), (2, 30_001)])
def test_extreme_pictures_are_narrowed_without_moving_the_view(photo):
    width, height = photo
    preprocess = stock((224, 224), "shortest")
    x, y = np.arange(width) * 37 % 256, np.arange(height) * 37 % 256
    image = Image.fromarray(np.add.outer(y, x).astype(np.uint8)).convert("RGB")
    narrowed = preprocess._narrowed(image)
    cut_x, cut_y = (width - narrowed.width) // 2, (height - narrowed.height) // 2
    assert max(narrowed.size) < 100
    before, after = preprocess.view(width, height), preprocess.view(*narrowed.size)
    pixel = min(photo) / 224
    assert after.left + cut_x == pytest.approx(before.left, abs=pixel)
    assert after.bottom + cut_y == pytest.approx(before.bottom, abs=pixel)
    assert preprocess(image).shape == (3, 224, 224)
    given: list[tuple[int, int]] = []
    watch = replace(
        preprocess, transform=lambda shown: given.append(shown.size) or torch.zeros(3, 224, 224)
    )
    watch(image)
    assert given == [narrowed.size]  # the transform never sees, and so never resizes, the rest


def test_picture_that_vanishes_is_an_error_in_one_line():
    with pytest.raises(ImageError, match="30000 x 20 pixels has no side left"):
        stock((224, 224), "longest").view(30_000, 20)
