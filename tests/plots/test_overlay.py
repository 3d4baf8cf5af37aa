"""Colours that are even to the eye, maps in their place, one scale, and what was never seen."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from by_hand_explanations import FAILS, HOLDS, bump, explanation, scene
from heatproof.certificate import Certificate
from heatproof.errors import InputError
from heatproof.images import Photo
from heatproof.models.geometry import PhotoView, Preprocess
from heatproof.plots import colour, lights
from heatproof.plots import overlay as drawing
from heatproof.plots.contact_sheet import sheet, sheet_row, strip
from heatproof.plots.text import shorten, text_width, wrap, write

GREYS = [0, 60, 128, 200, 255]


def cielab(rgb: np.ndarray) -> np.ndarray:
    """sRGB bytes to CIELAB (D65), written out here, apart from the package's OKLab."""
    c = rgb / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    matrix = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
    xyz = linear @ np.array(matrix).T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    planes = [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])]
    return np.stack(planes, -1)


def paths() -> dict[str, np.ndarray]:
    """The scale in 10 steps, over several greys and over white."""
    every = {f"grey {grey}": colour.table()[grey][::51] for grey in GREYS}
    return every | {"white": colour.table_on_white()[::51]}


@pytest.mark.parametrize("name", paths())
def test_equal_steps_of_value_are_equal_steps_to_the_eye(name):
    path = paths()[name]
    steps = np.linalg.norm(np.diff(colour.oklab(path / 255), axis=0), axis=1)
    assert steps.min() > 0.02
    assert steps.max() / steps.min() < 1.15  # what is left is the rounding to bytes
    other = np.linalg.norm(np.diff(cielab(path), axis=0), axis=1)
    assert other.max() / other.min() < 1.8  # a second, independent model of the eye


@pytest.mark.parametrize("name", paths())
def test_both_signs_are_equally_light_and_equally_far_from_zero(name):
    path = colour.oklab(paths()[name] / 255)
    middle = len(path) // 2
    below, above = path[:middle][::-1], path[middle + 1 :]
    assert np.abs(below[:, 0] - above[:, 0]).max() < 0.006
    far = [np.linalg.norm(side - path[middle], axis=1) for side in (below, above)]
    assert np.abs(far[0] - far[1]).max() < 0.01
    assert np.abs(cielab(paths()[name])[0, 0] - cielab(paths()[name])[-1, 0]) < 3.0


def test_zero_is_the_grey_photograph_itself():
    grey = colour.table()[:, colour.STEPS].astype(int)
    assert (np.ptp(grey, axis=1) <= 1).all()
    assert (np.diff(grey[:, 0]) >= 0).all()
    assert (colour.table_on_white()[colour.STEPS] == 255).all()


NO_RED = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
NO_GREEN = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
]
NO_BLUE = [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
]


@pytest.mark.parametrize("simulation", [NO_RED, NO_GREEN, NO_BLUE])
def test_signs_stay_apart_in_colour_blindness(simulation):
    """Simulation: Machado, Oliveira, Fernandes, 2009, severity 1."""
    ends = colour.table()[128][[0, colour.STEPS, -1]] / 255
    linear = np.where(ends <= 0.04045, ends / 12.92, ((ends + 0.055) / 1.055) ** 2.4)
    lower, zero, upper = colour.oklab(
        colour.srgb_of(np.clip(linear @ np.array(simulation).T, 0, 1))
    )
    assert np.linalg.norm(upper - lower) > 0.18
    assert min(np.linalg.norm(upper - zero), np.linalg.norm(lower - zero)) > 0.07


def test_values_beyond_the_scale_zero_scales_and_nan_do_not_break_the_colours():
    values = np.array([[-9.0, np.nan, 9.0]], np.float32)
    assert colour.steps(values, 1.0).tolist() == [[0, colour.STEPS, 2 * colour.STEPS]]
    assert (colour.steps(values, 0.0) == colour.STEPS).all()


# Placement


def hot(rows: int, cols: int, row: int, col: int) -> torch.Tensor:
    map = torch.zeros(1, rows, cols)
    map[0, row, col] = 1.0
    return map


def colourfulness(image: Image.Image) -> np.ndarray:
    return np.ptp(np.asarray(image).astype(int), axis=-1)


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (500, 333)])
@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (4, 1), (6, 6), (3, 5)])
def test_hot_cell_lies_on_its_own_pixels_of_the_photograph(size, cell):
    view = Preprocess(
        height=224, width=224, resize="shortest", resize_to=224, transform=torch.zeros
    ).view(*size)
    made = explanation(hot(7, 7, *cell), ["x"], photo=scene(*size), views=view)
    colours = colourfulness(made.overlay(0, 0))[: size[1], : size[0]]
    left, top, right, bottom = view.cell(*cell, 7, 7)
    peak = np.unravel_index(colours.argmax(), colours.shape)
    wide, high = right - left, bottom - top
    assert left - 1 <= peak[1] + 0.5 <= right + 1
    assert top - 1 <= peak[0] + 0.5 <= bottom + 1
    y, x = np.nonzero(colours > 0.5 * colours.max())
    edge_x = 0 if 0 < cell[1] < 6 else 0.3  # interpolation has nothing to go down to at an edge
    edge_y = 0 if 0 < cell[0] < 6 else 0.3
    assert abs(x.mean() - (left + right) / 2) <= 2 + edge_x * wide
    assert abs(y.mean() - (top + bottom) / 2) <= 2 + edge_y * high
    far_x = np.abs(np.arange(size[0]) + 0.5 - (left + right) / 2) > 1.1 * wide
    far_y = np.abs(np.arange(size[1]) + 0.5 - (top + bottom) / 2) > 1.1 * high
    assert colours[np.ix_(far_y, far_x)].max(initial=0) <= 12


def test_rows_and_columns_of_an_uneven_grid_are_not_swapped():
    photo = Photo(scene(600, 300), "a")
    view = PhotoView(width=600, height=300, left=0.0, top=0.0, right=600.0, bottom=300.0)
    placed = drawing.interpolate(view, hot(3, 6, 1, 4)[0].numpy(), drawing.viewport_of(photo, view))
    assert placed.shape == (300, 600)
    assert np.unravel_index(placed.argmax(), placed.shape)[0] in (149, 150)
    assert placed[150, 450] == pytest.approx(1.0, abs=0.02)


def test_interpolation_is_torchs_bilinear():
    """From patch centres, flat beyond the outermost ones: `align_corners=False`."""
    values = torch.randn(5, 7)
    view = PhotoView(width=700, height=500, left=0.0, top=0.0, right=700.0, bottom=500.0)
    placed = drawing.interpolate(
        view, values.numpy(), drawing.viewport_of(Photo(scene(700, 500), "a"), view)
    )
    theirs = torch.nn.functional.interpolate(values[None, None], (500, 700), mode="bilinear")[0, 0]
    assert np.abs(placed - theirs.numpy()).max() < 1e-4


# Over the photo's own colours


def test_over_a_coloured_photo_what_the_map_leaves_alone_is_the_photos():
    """Break: paint the photo in grey, or lose its exact colours at value 0."""
    photo = scene(700, 700)
    made = explanation(hot(7, 7, 3, 3), ["x"], photo=photo)

    def drawn(**display):
        return np.asarray(made.overlay(0, 0, **display))[:700, :700].astype(int)

    coloured, far, middle = drawn(background="color"), np.s_[:100, :100], np.s_[340:360, 340:360]
    pixels = np.asarray(photo.convert("RGB")).astype(int)
    assert (coloured[far] == pixels[far]).all()
    assert (drawn()[far] != pixels[far]).any()
    weak = drawn(background="color", alpha=0.1)
    changes = [np.abs(own[middle] - pixels[middle]).mean() for own in (weak, coloured)]
    assert 0 < 3 * changes[0] < changes[1]


@pytest.mark.parametrize(
    "wrong", [{"background": "grey"}, {"alpha": 0.0}, {"alpha": 1.5}, {"alpha": "1"}]
)
def test_a_display_that_shows_no_map_is_refused(wrong):
    """Break: draw with any opacity."""
    with pytest.raises(InputError, match=next(iter(wrong))):
        explanation(hot(7, 7, 3, 3), ["x"]).overlay(0, 0, **wrong)


# The unseen


@pytest.mark.parametrize("size", [(640, 360), (360, 640)])
def test_what_the_crop_removed_is_hatched_not_zero(size):
    view = Preprocess(
        height=224, width=224, resize="shortest", resize_to=224, transform=torch.zeros
    ).view(*size)
    full, blank = (
        explanation(torch.full((1, 7, 7), value), ["x"], photo=scene(*size), views=view)
        for value in (1.0, 0.0)
    )
    drawn, zero = (np.asarray(each.overlay(0, 0))[: size[1], : size[0]] for each in (full, blank))
    box = drawing.seen_mask(view, drawing.viewport_of(full.photos[0], view))
    unseen = ~box
    for thick in range(3):
        unseen &= ~np.roll(box, (thick, -thick), (0, 1)) & ~np.roll(box, (-thick, thick), (0, 1))
        unseen &= ~np.roll(box, (thick, thick), (0, 1)) & ~np.roll(box, (-thick, -thick), (0, 1))
    assert unseen.mean() > 0.3
    assert (drawn[unseen] == zero[unseen]).all()  # no value of the map reaches it
    assert colourfulness(drawn)[unseen].max() <= 12
    assert colourfulness(drawn)[box].min() > 60
    sky = np.array(scene(*size).convert("L").convert("RGB"))
    seen_as_zero = colour.table()[sky[..., 0], colour.STEPS]
    assert (np.abs(drawn.astype(int) - seen_as_zero)[unseen].max(-1) > 12).mean() > 0.5


def test_whole_view_has_nothing_hatched():
    view = PhotoView(width=400, height=300, left=0.0, top=0.0, right=400.0, bottom=300.0)
    frame = drawing.viewport_of(Photo(scene(400, 300), "a"), view)
    assert drawing.seen_mask(view, frame).all()


def test_patches_whose_sign_is_not_established_are_hatched_and_no_others():
    """Fails if rows and columns are swapped, or lines lie beyond their patch."""
    photo = scene(320, 240)
    view = PhotoView(width=320, height=240, left=0.0, top=0.0, right=320.0, bottom=240.0)
    values = torch.zeros(1, 3, 4)
    plain = explanation(values, ["x"], photo=photo, views=view)
    errors = torch.full((1, 1, 3, 4), -1.0)  # no value is below: nothing is unsure
    errors[0, 0, 0, 3] = 1.0
    lined = dataclasses.replace(plain, errors=errors)
    height = drawing.viewport_of(plain.photos[0], view).height
    one, other = (np.asarray(each.overlay(0, 0))[:height].astype(int) for each in (plain, lined))
    changed = (one != other).any(-1)
    cells = changed.reshape(3, height // 3, 4, -1).mean((1, 3))
    assert 0.01 < cells[0, 3] < 0.4
    cells[0, 3] = 0
    assert not cells.any()


# One scale


def test_faint_map_stays_faint_beside_a_strong_one():
    maps = torch.stack([bump(7, 7, 3, 3), 0.05 * bump(7, 7, 5, 5)])
    both = explanation(maps, ["a dog", "an absent cat"])
    alone = explanation(maps[1:], ["an absent cat"])
    region = (slice(0, 384), slice(70, 440))
    assert colourfulness(both.overlay(0, 0))[region].max() > 100
    assert colourfulness(both.overlay(0, 1))[region].max() < 25
    assert colourfulness(alone.overlay(0, 0))[region].max() > 100
    assert both.for_image().scale == 1.0 * float(maps.max())


def test_negative_values_are_blue_and_positive_ones_red():
    maps = torch.zeros(1, 7, 7)
    maps[0, :, :3], maps[0, :, 4:] = -1.0, 1.0
    drawn = np.asarray(explanation(maps, ["x"]).overlay(0, 0)).astype(int)
    assert drawn[100, 100, 2] > drawn[100, 100, 0] + 60
    assert drawn[100, 400, 0] > drawn[100, 400, 2] + 60


def test_map_of_zeros_says_so_and_leaves_the_photograph_grey():
    drawn = explanation(torch.zeros(1, 7, 7), ["x"]).overlay(0, 0)
    assert colourfulness(drawn)[:384].max() <= 12


# The certificate on the picture


def share_of(image: Image.Image, colour: str, box: tuple[int, int, int, int]) -> float:
    wanted = tuple(int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return float((np.asarray(image.crop(box)) == wanted).all(-1).mean())


def test_failed_certificate_stands_on_the_picture_and_beneath_it():
    maps = bump(7, 7, 3, 3)[None]
    holds, fails = (explanation(maps, ["x"], certificate=c).overlay(0, 0) for c in (HOLDS, FAILS))
    assert share_of(fails, lights.ALARM, (0, 0, 160, 40)) > 0.3
    assert share_of(fails, lights.ALARM, (0, fails.height - 40, fails.width, fails.height)) > 0.5
    assert share_of(holds, lights.ALARM, (0, 0, *holds.size)) == 0
    assert (
        share_of(
            strip(explanation(maps, ["x"], certificate=FAILS).for_image()),
            lights.ALARM,
            (0, 300, 400, 500),
        )
        > 0.1
    )


def test_no_certificate_is_not_shown_as_one_that_holds():
    maps = bump(7, 7, 3, 3)[None]
    drawn = explanation(
        maps, ["x"], certificate=Certificate(checks=(), native=(), substituted=())
    ).overlay(0, 0)
    assert share_of(drawn, lights.CALM, (0, 0, *drawn.size)) == 0
    assert share_of(drawn, lights.FAINT, (0, 0, 110, 40)) > 0.3
    assert share_of(drawn, lights.FAINT, (0, drawn.height - 30, *drawn.size)) > 0.5


# Sizes and letters


@pytest.mark.parametrize("size", [(1, 1), (30_000, 40), (40, 30_000), (5, 900), (5200, 3000)])
def test_any_size_of_photograph_is_drawn_within_bounds(size):
    view = Preprocess(
        height=224, width=224, resize="shortest", resize_to=224, transform=torch.zeros
    ).view(*size)
    photo = Image.new("RGB", size, "grey")
    made = explanation(bump(7, 7, 3, 3)[None], ["x"], photo=photo, views=view)
    drawn = made.overlay(0, 0)
    assert max(drawn.size) < drawing.LONGEST + 1200
    assert min(drawn.size) > 100
    frame = drawing.viewport_of(made.photos[0], view)
    assert drawing.seen_mask(view, frame).any()
    assert bool(frame.remarks(made.photos[0]))
    assert min(strip(made.for_image()).size) > 100


def test_photograph_of_usual_size_is_drawn_pixel_for_pixel():
    photo = Photo(scene(1000, 700), "a")
    frame = drawing.viewport_of(
        photo, PhotoView(width=1000, height=700, left=0.0, top=0.0, right=1000.0, bottom=700.0)
    )
    assert (frame.width, frame.height, frame.zoom) == (1000, 700, 1.0)
    assert frame.remarks(photo) == []


@pytest.mark.parametrize(
    "text",
    ["日本語のテキスト", "مرحبا", "🐕 dog", "two\nlines\tand\0nul", "x" * 5000, "\u202eback", " "],
)
def test_any_prompt_is_drawn(text):
    made = explanation(bump(7, 7, 3, 3)[None], [text])
    assert made.overlay(0, 0).size[0] == 512
    strip(made.for_image())


def test_letters_that_a_bitmap_font_lacks_do_not_crash(monkeypatch):
    from PIL import ImageFont

    monkeypatch.setattr(
        "heatproof.plots.text.font", lambda _size: ImageFont.load_default_imagefont()
    )
    assert text_width("日本 dog", 12) > 0
    write(Image.new("RGB", (99, 20)), (0, 0), "日本 dog", 12, "#ffffff")


def test_long_prompts_are_wrapped_and_end_in_an_ellipsis():
    lines = wrap("a very long prompt " * 20, 15, 200, 2)
    assert len(lines) == 2
    assert all(text_width(line, 15) <= 200 for line in lines)
    assert lines[1].endswith("…")
    assert shorten("dog", 15, 200) == "dog"


def test_sheet_has_a_row_for_each_method_and_keeps_their_scales_apart():
    maps = bump(7, 7, 3, 3)[None]
    small, large = (
        explanation(maps * factor, ["x"], method=f"m{factor}").for_image() for factor in (1, 100)
    )
    rows = [sheet_row(small), sheet_row(large)]
    assert rows[1].scale == pytest.approx(100 * rows[0].scale)
    both = sheet(small.photo, small.view, rows)
    assert both.height == 2 * sheet(small.photo, small.view, rows[:1]).height


def test_explanations_of_tensors_are_drawn_on_plain_grey():
    made = explanation(bump(3, 5, 1, 1)[None], ["x"])
    from dataclasses import replace

    bare = replace(made, photos=(), views=())
    assert bare.overlay(0, "x").size[0] >= 448
