"""ImageInputs as users have them: each kind comes out right, each bad one says why in one line."""

import contextlib
import multiprocessing
import os
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from heatproof.errors import ImageError
from heatproof.images import open_image, open_stored

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def near(got, expected, tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (60, 40), (5, 5)),
        (2, (60, 40), (55, 5)),
        (3, (60, 40), (55, 35)),
        (4, (60, 40), (5, 35)),
        (5, (40, 60), (5, 5)),
        (6, (40, 60), (35, 5)),
        (7, (40, 60), (35, 55)),
        (8, (40, 60), (5, 55)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, size, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = open_image(tmp_path / "a.jpg")
    assert photo.image.size == size
    assert near(photo.image.getpixel(red), RED)
    assert photo.image.mode == "RGB"


def test_broken_exif_is_a_notice(tmp_path):
    halves().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    photo = open_image(tmp_path / "a.jpg")
    assert photo.image.size == (60, 40)


def test_alpha_is_shown_on_white_with_a_notice(tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 255, 255))
    image.paste((255, 0, 0, 0), (0, 0, 20, 40))
    image.save(tmp_path / "a.png")
    photo = open_image(tmp_path / "a.png")
    assert photo.image.getpixel((5, 5)) == WHITE
    assert photo.image.getpixel((35, 5)) == BLUE
    assert photo.notices == (
        "it is see-through in 50 % of its pixels; shown to the model on white",
    )


def test_opaque_alpha_needs_no_notice():
    assert open_image(halves().convert("RGBA")).notices == ()


def test_palette_with_a_clear_colour(tmp_path):
    image = halves().quantize(2)
    clear = image.getpixel((5, 5))
    image.save(tmp_path / "a.png", transparency=clear)
    photo = open_image(tmp_path / "a.png")
    assert photo.image.getpixel((5, 5)) == WHITE
    assert near(photo.image.getpixel((55, 5)), BLUE)
    assert "50 %" in photo.notices[0]


def test_grey_with_alpha_half_way_is_mixed_with_white():
    image = Image.merge("LA", [Image.new("L", (20, 20), 0), Image.new("L", (20, 20), 128)])
    assert near(open_image(image).image.getpixel((3, 3)), (127, 127, 127), 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_colour_mode_keeps_its_lights_and_darks(mode):
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (20, 0, 40, 20))
    photo = open_image(image.convert(mode))
    assert near(photo.image.getpixel((5, 5)), (0, 0, 0))
    assert near(photo.image.getpixel((35, 5)), WHITE)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_comes_out_in_its_colours(tmp_path, ending):
    """Adobe's CMYK JPEGs are stored inverted, TIFFs are not."""
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    cmyk.save(tmp_path / f"a.{ending}")
    assert near(open_image(tmp_path / f"a.{ending}").image.getpixel((9, 9)), RED)


@pytest.mark.parametrize(
    "kind", ["png 16", "tiff big-endian", "pgm", "tiff 32", "float 0-1", "float 0-65535"]
)
def test_deep_greys_are_scaled_not_clipped(tmp_path, kind):
    deep = np.tile(np.linspace(0, 65535, 64), (32, 1))
    path = tmp_path / "a.png"
    if kind == "png 16":
        Image.fromarray(deep.astype(np.uint16)).save(path)
    elif kind == "tiff big-endian":
        path = path.with_suffix(".tif")
        raw = deep.astype(">u2").tobytes()
        Image.frombytes("I;16B", (64, 32), raw).save(path)
    elif kind == "pgm":
        path = path.with_suffix(".pgm")
        path.write_bytes(b"P5 64 32 65535\n" + deep.astype(">u2").tobytes())
    elif kind == "tiff 32":
        path = path.with_suffix(".tif")
        Image.fromarray(deep.astype(np.int32)).save(path)
    else:
        path = path.with_suffix(".tif")
        scale = 65535 if kind == "float 0-1" else 1
        Image.fromarray((deep / scale).astype(np.float32)).save(path)
    photo = open_image(path)
    shades = [photo.image.getpixel((x, 9))[0] for x in (0, 16, 32, 48, 63)]
    assert near(shades, (0, 65, 130, 194, 255), 2)
    assert "is black and" in photo.notices[0]


def negative(path: Path, values: np.ndarray) -> Path:
    """A grey TIFF whose 0 is white."""
    Image.fromarray(values).save(path)
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry) == (262,):
            content[entry + 8] = 0
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_no_negative(tmp_path, kind):
    deep = (np.arange(32) * (8 if kind is np.uint8 else 2000)).astype(kind)
    path = negative(tmp_path / "a.tif", np.repeat(deep[None], 20, 0))
    photo = open_image(path)
    shades = [photo.image.getpixel((x, 9))[0] for x in (0, 10, 20, 31)]
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == 255
    assert any("0 is white" in notice for notice in photo.notices) == (kind is not np.uint8)
    if kind is not np.uint8:
        with pytest.raises(ImageError, match="a TIFF whose 0 is white"):
            open_stored(path)


def test_a_clear_grey_of_16_bits_is_white_with_a_notice(tmp_path):
    deep = np.repeat((np.arange(32) * 2000).astype(np.uint16)[None], 20, 0)
    Image.fromarray(deep).save(tmp_path / "a.png", transparency=4000)
    photo = open_image(tmp_path / "a.png")
    shades = [photo.image.getpixel((x, 9))[0] for x in (1, 2, 3)]
    assert shades == [8, 255, 23]
    assert any("see-through in 3 % of its pixels" in notice for notice in photo.notices)


def test_floats_outside_any_usual_range_are_stretched_and_not_finite_ones_are_black():
    values = np.full((20, 20), -3.0, np.float32)
    values[:, 10:] = 5.0
    values[0, 0] = np.nan
    photo = open_image(Image.fromarray(values))
    assert photo.image.getpixel((3, 3)) == (0, 0, 0)
    assert photo.image.getpixel((15, 3)) == WHITE
    assert len(photo.notices) == 2


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_only_the_first_frame_is_taken_with_a_notice(tmp_path, ending):
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE))
    path = tmp_path / f"a.{ending}"
    red.save(path, save_all=True, append_images=[blue, red])
    photo = open_image(path)
    assert near(photo.image.getpixel((5, 5)), RED)
    assert "it has 3" in photo.notices[0]


def test_a_picture_object_is_left_as_it_was():
    image = halves()
    photo = open_image(image)
    photo.image.putpixel((0, 0), (9, 9, 9))
    assert image.getpixel((0, 0)) == RED
    assert photo.source == "picture in memory"


@pytest.mark.parametrize(
    ("size", "words"), [((1, 1), "only 1 x 1 pixels"), ((30_000, 40), "as 750 to 1")]
)
def test_odd_sizes_are_read_with_a_notice(tmp_path, size, words):
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    photo = open_image(tmp_path / "a.png")
    assert photo.image.size == size
    assert words in " ".join(photo.notices)


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG that claims `width` x `height` pixels and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return path


def test_decompression_bombs_are_refused(tmp_path):
    with pytest.raises(ImageError, match="more pixels than is safe to unpack; expected at most"):
        open_image(bomb(tmp_path / "a.png", 60_000, 60_000))


def test_nearly_a_bomb_is_a_notice_and_no_warning_leaks(tmp_path, monkeypatch):
    halves().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        photo = open_image(tmp_path / "a.png")
    assert not leaked
    assert photo.notices == ("it is very large; reading it takes much memory",)


def whole(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_short_is_never_read_silently(tmp_path, ending, share, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries leave it
    path = tmp_path / f"a.{ending}"
    data = whole(path)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match="expected") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_flipped_bytes_are_read_or_refused_but_never_crash(tmp_path):
    rng = np.random.default_rng(1)
    for ending in ["jpg", "png", "gif", "webp", "tif", "bmp"]:
        path = tmp_path / f"a.{ending}"
        data = np.frombuffer(whole(path), np.uint8)
        for _ in range(30):
            broken = data.copy()
            broken[rng.integers(0, min(len(data), 200), 8)] = rng.integers(0, 256, 8)
            path.write_bytes(broken.tobytes())
            with contextlib.suppress(ImageError):
                open_image(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jpg", b"", "zero bytes; expected an image; copy or download it again"),
        ("notes.jpg", "grüße, not a picture\n".encode(), "a text file, whatever its name says"),
        ("paper.jpg", b"%PDF-1.7 \xff\xff", "a PDF, not a picture"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        ("noise.jpg", bytes(range(128, 256)) * 9, "no picture format that is known here"),
    ],
)
def test_what_is_no_picture_says_what_it_is(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / name)
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_names_its_neighbour(tmp_path):
    halves().save(tmp_path / "holiday.jpg")
    with pytest.raises(ImageError, match=r"no such file; .* did you mean holiday.jpg\?"):
        open_image(tmp_path / "holliday.jpg")
    with pytest.raises(ImageError, match="there is no folder"):
        open_image(tmp_path / "nowhere" / "a.jpg")


def test_folder_is_an_error_that_names_a_picture_in_it(tmp_path):
    halves().save(tmp_path / "holiday.jpg")
    with pytest.raises(
        ImageError, match=r"a folder; expected one picture file, such as .*holiday.jpg"
    ):
        open_image(tmp_path)


def test_unreadable_file_asks_for_permission(tmp_path, monkeypatch):
    halves().save(tmp_path / "a.png")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match="no permission to read it"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("path", ["a\0b.jpg", "x" * 5000])
def test_impossible_paths_are_errors(path):
    with pytest.raises(ImageError):
        open_image(path)


def test_postscript_is_never_run(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    halves().save(tmp_path / "a.eps")
    with pytest.raises(ImageError, match=r"no picture format|text file"):
        open_image(tmp_path / "a.eps")
    assert not started


@pytest.fixture
def slow_decode(tmp_path, monkeypatch):
    """Starts a decode in a thread that waits inside Pillow, warns there, and gives its notices."""
    halves().save(tmp_path / "slow.png")
    entered, left, notices = threading.Event(), threading.Event(), []

    def slow(_size):
        if threading.current_thread() is thread:
            entered.set()
            assert left.wait(10)
            Image.warnings.warn("odd file", stacklevel=2)  # as Pillow's modules do

    def decode():
        notices.extend(open_image(tmp_path / "slow.png").notices)

    monkeypatch.setattr(Image, "_decompression_bomb_check", slow)
    thread = threading.Thread(target=decode)

    def finish() -> list[str]:
        left.set()
        thread.join()
        return notices

    thread.start()
    assert entered.wait(10)
    yield finish
    finish()


def test_a_warning_is_a_notice_whatever_another_thread_does_to_the_filters(slow_decode):
    """A model in another thread turns warnings into errors for itself: neither sees the other."""
    before = warnings.filters[:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)
        assert slow_decode() == ["read with a warning: odd file"]
    assert warnings.filters == before


def test_no_decode_changes_warnings_for_the_process(slow_decode):
    """Break: `warnings.warn = collect`, or `catch_warnings`, while a picture is decoded."""
    assert warnings.warn.__module__ == "_warnings"
    assert Image.warnings is not warnings  # Pillow's own way there is another meanwhile
    with pytest.warns(UserWarning, match="of this thread"):
        Image.warnings.warn("of this thread", stacklevel=1)
    assert slow_decode() == ["read with a warning: odd file"]
    assert Image.warnings is warnings


def broken_tiff(path: Path) -> Path:
    """Random pixels, whose LZW codes are overwritten in the middle."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    data[200:208] = b"\xff" * 8
    path.write_bytes(data)
    return path


def test_libtiffs_lines_are_in_the_error_and_not_on_stderr(tmp_path, capfd):
    """Break: take `libtiff.lines_into` out of `_decoded_strictly`."""
    path = broken_tiff(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="error -2; Using code not yet in table"):
        open_image(path)
    assert capfd.readouterr().err == ""
    with Image.open(path) as image, pytest.raises(OSError, match="decoder error"):
        image.load()
    assert "Using code not yet in table" in capfd.readouterr().err  # the former handler is back


def test_libtiffs_lines_of_other_threads_go_where_they_went(tmp_path, slow_decode, capfd):
    """Break: take every thread's lines in `libtiff.lines_into`."""
    with Image.open(broken_tiff(tmp_path / "a.tif")) as image, pytest.raises(OSError, match="-2"):
        image.load()
    assert slow_decode() == ["read with a warning: odd file"]
    assert "Using code not yet in table" in capfd.readouterr().err


def test_a_picture_is_read_where_libtiff_cannot_be_reached(tmp_path, monkeypatch, capfd):
    from heatproof import libtiff

    monkeypatch.setattr(libtiff, "_library", lambda: None)
    with pytest.raises(ImageError, match="damaged"):
        open_image(broken_tiff(tmp_path / "a.tif"))
    assert "Using code not yet in table" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_another_thread_decodes_can_decode(tmp_path, monkeypatch):
    halves().save(tmp_path / "a.png")
    entered = threading.Event()

    def slow(_size):
        entered.set()
        time.sleep(0.2)

    monkeypatch.setattr(Image, "_decompression_bomb_check", slow)
    thread = threading.Thread(target=open_image, args=(tmp_path / "a.png",))
    thread.start()
    assert entered.wait(10)
    child = multiprocessing.get_context("fork").Process(
        target=open_image, args=(tmp_path / "a.png",)
    )
    child.start()
    child.join(10)
    alive = child.is_alive()
    child.kill()
    child.join()
    thread.join()
    assert not alive
    assert child.exitcode == 0
