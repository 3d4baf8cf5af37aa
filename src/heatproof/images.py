"""ImageInputs as users have them, as the RGB photo that a viewer would show."""

import difflib
import io
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from heatproof import checking, libtiff
from heatproof.errors import ImageError

# EPS and its like start other programs, TGA and its like claim any bytes: neither is opened.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO",
    "PNG", "PPM", "QOI", "TIFF", "WEBP",
)  # fmt: skip
EXTREME_ASPECT = 8
ORIENTATION = 0x0112
"""EXIF's tag."""
PHOTOMETRIC = 262
"""TIFF's tag: 0 where the value 0 is white."""
TINY = 16
LARGE = "it is very large; reading it takes much memory"
# What decoders raise on bytes that are not what they claim to be.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError,
    AttributeError, RuntimeError, MemoryError, AssertionError, struct.error, zlib.error,
)  # fmt: skip

_decoding = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A process forked while another thread decodes would find the lock held for ever.
    os.register_at_fork(
        before=_decoding.acquire,
        after_in_parent=_decoding.release,
        after_in_child=_decoding.release,
    )


@dataclass(frozen=True)
class Photo:
    """An upright 8-bit RGB photo, where it came from, and what was done to read it.

    Without `held` it is opened again at `source` when its image is asked for.
    """

    held: Image.Image | None
    source: str
    notices: tuple[str, ...] = ()

    @cached_property
    def image(self) -> Image.Image:
        """Return the pixels, opened where they are not held."""
        return open_image(self.source).image if self.held is None else self.held


def open_image(picture: object) -> Photo:
    """Return the photo in a file, a PIL image or a uint8 array: upright, on white, 8-bit RGB.

    Raises `ImageError`, in one line, for whatever cannot be read whole.
    """
    picture = checking.image(picture)
    if isinstance(picture, Image.Image):
        source = str(getattr(picture, "filename", "")) or "picture in memory"
        with _decoded_strictly(source) as caught:
            return _photo(picture, source, caught)
    path = Path(picture)
    _expect_file(path)
    formats = [name for name in FORMATS if _registered(name)]
    with _decoded_strictly(str(path)) as caught, Image.open(path, formats=formats) as image:
        return _photo(image, str(path), caught)


def open_encoded(data: bytes, source: str) -> Photo:
    """Return the photo that an image file's bytes hold, as `open_image` does for a path.

    source: what errors and notices call it.
    """
    if not data:
        raise ImageError(f"{source}: zero bytes; expected an image; copy or download it again")
    formats = [name for name in FORMATS if _registered(name)]
    with (
        _decoded_strictly(source) as caught,
        Image.open(io.BytesIO(data), formats=formats) as image,
    ):
        return _photo(image, source, caught)


def read_file(path: str | Path) -> bytes:
    """Return the bytes of an image file.

    Raises `ImageError`, in one line, where there is no such file or it cannot be read.
    """
    path = Path(path)
    _expect_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"{path}: cannot be read ({reason})") from error


@dataclass(frozen=True)
class Frame:
    """How an image's pixels lie in its file: their size, and EXIF's orientation, 1 (upright) to 8.

    `open_image` turns them upright; masks and boxes were often drawn on them as they lie.
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Return (width, height) of the image that `open_image` gives."""
        across = self.orientation >= 5
        return (self.height, self.width) if across else (self.width, self.height)


def frame_of(picture: str | Path) -> Frame:
    """Return the image's frame, from its file's header: no pixel is decoded.

    Raises `ImageError`, in one line, for what is no image.
    """
    with _opened(Path(picture)) as image:
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except BROKEN:
            orientation = 1
        return Frame(*image.size, orientation if orientation in range(1, 9) else 1)


def open_stored(picture: str | Path) -> Image.Image:
    """Return the pixels of a file as they are stored: neither turned nor converted (masks,
    palettes).

    Raises `ImageError`, in one line, for whatever cannot be read whole or holds several images.
    """
    with _opened(Path(picture)) as image:
        if notices := _frames(image):
            raise ImageError(f"{picture}: {notices[0].split(';')[0]}, expected a mask of one")
        if _zero_is_white(image):
            raise ImageError(
                f"{picture}: a TIFF whose 0 is white; is 0 the background? save it as PNG"
            )
        image.load()
        return image.copy()


@contextmanager
def _opened(path: Path) -> Generator[Image.Image, None, None]:
    _expect_file(path)
    formats = [name for name in FORMATS if _registered(name)]
    with _decoded_strictly(str(path)), Image.open(path, formats=formats) as image:
        yield image


def _photo(image: Image.Image, source: str, caught: list[str]) -> Photo:
    if 0 in image.size:
        raise ImageError(f"{source}: a picture of no pixels; expected at least 1 x 1")
    notices = _frames(image)
    negative = _zero_is_white(image)
    image.load()
    upright = _upright(image, notices)
    rgb = _as_rgb(upright, source, notices)
    if negative:
        rgb = ImageOps.invert(rgb)
        notices.append("its value 0 is white (TIFF), and so it is shown")
    notices += _proportions(rgb) + [_warned(warning) for warning in caught]
    if any("\ud800" <= letter <= "\udfff" for letter in source):
        notices.append("its file's name is not UTF-8; it is written with escapes")
    return Photo(rgb, source, tuple(dict.fromkeys(notices)))


@contextmanager
def _decoded_strictly(source: str) -> Generator[list[str], None, None]:
    """Decode whole images only: collect Pillow's warnings, turn what it raises into `ImageError`.

    Locked. Python's own warnings and the process's stderr stay as they are; what is changed for the
    time of a decode is Pillow's (its leniency, where its modules find `warnings`) and libtiff's.
    Other threads' warnings and lines go where they went; only a thread that by itself decodes
    with `LOAD_TRUNCATED_IMAGES` meanwhile finds that off.
    """
    caught: list[str] = []
    with _decoding, _collected(caught), libtiff.lines_into(caught):
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield caught
        except Image.DecompressionBombError as error:
            raise ImageError(_bomb(source)) from error
        except UnidentifiedImageError as error:
            raise ImageError(_unidentified(Path(source))) from error
        except PermissionError as error:
            raise ImageError(f"{source}: no permission to read it; try chmod +r") from error
        except BROKEN as error:
            raise ImageError(_broken(source, error, caught)) from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


@contextmanager
def _collected(caught: list[str]) -> Generator[None, None, None]:
    """Add to `caught` what Pillow warns of in this thread, whatever the warning filters say.

    `warnings` and its filters stay as they are: other threads use them meanwhile, may change them
    for themselves (`catch_warnings`), and whoever restored them last would win. Pillow's modules
    are given another `warnings` in their place.
    """
    here = threading.get_ident()

    def collect(
        message: Any, category: Any = None, stacklevel: int = 1, *more: Any, **named: Any
    ) -> None:
        if threading.get_ident() != here:
            warnings.warn(message, category, stacklevel + 1, *more, **named)
            return
        kind = type(message) if isinstance(message, Warning) else category
        caught.append(LARGE if kind is Image.DecompressionBombWarning else str(message))

    instead: Any = SimpleNamespace(**{**vars(warnings), "warn": collect})
    users = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("PIL.") and vars(module).get("warnings") is warnings
    ]
    for module in users:
        vars(module)["warnings"] = instead
    try:
        yield
    finally:
        for module in users:
            vars(module)["warnings"] = warnings


def _registered(name: str) -> bool:
    if not Image.OPEN.get(name):
        Image.init()
    return name in Image.OPEN


# What came, and what was done about it


def _frames(image: Image.Image) -> list[str]:
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":  # an MPO's other frames are previews and depth maps
        return []
    image.seek(0)
    kind = "pages" if image.format == "TIFF" else "frames"
    return [f"it has {frames} {kind}; only the first is explained"]


def _zero_is_white(image: Image.Image) -> bool:
    """Return whether a deep grey TIFF is a negative, which Pillow turns in 1 and 8 bits alone."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(PHOTOMETRIC) == 0 and image.mode[0] in "IF"


def _upright(image: Image.Image, notices: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN:
        notices.append("its EXIF block cannot be read; it is taken to be upright")
        return image


def _as_rgb(image: Image.Image, source: str, notices: list[str]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image, notices).convert("RGB")
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        return _on_white(image.convert("RGBA"), notices)
    except ValueError as error:
        raise ImageError(
            f"{source}: colour mode {image.mode} cannot be converted; save it as RGB"
        ) from error


def _on_white(image: Image.Image, notices: list[str]) -> Image.Image:
    clear = sum(image.getchannel("A").histogram()[:255])
    if clear:
        share = _percent(clear / (image.width * image.height))
        notices.append(f"it is see-through in {share} of its pixels; shown to the model on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bits(image: Image.Image, notices: list[str]) -> Image.Image:
    """Scale grey of 16 or 32 bits, or of floats, to 8 bits; nothing is clipped."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        notices.append("some of its pixels are not finite; taken as black")
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = _range(values, image.mode)
    notices.append(f"its grey values are scaled so that {low:g} is black and {high:g} white")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        share = _percent(float((values == clear).mean()))
        notices.append(f"it is see-through in {share} of its pixels; shown to the model on white")
        values = np.where(values == clear, high, values)
    return Image.fromarray(_scaled(values, low, high))


def _range(values: Shaped[np.ndarray, "height width"], mode: str) -> tuple[float, float]:
    """Return the values of black and white: the format's own where the values fit, else their
    extremes."""
    low, high = float(values.min()), float(values.max())
    usual = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    fitting = [white for white in usual if low >= 0 and high <= white]
    return (0.0, fitting[0]) if fitting else (low, high)


def _scaled(
    values: Shaped[np.ndarray, "height width"], low: float, high: float
) -> UInt8[np.ndarray, "height width"]:
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _proportions(image: Image.Image) -> list[str]:
    width, height = image.size
    notices: list[str] = []
    if min(width, height) < TINY:
        notices.append(f"it has only {width} x {height} pixels; a model can see little in it")
    if max(width, height) > EXTREME_ASPECT * min(width, height):
        ratio = max(width, height) / min(width, height)
        notices.append(f"its sides are as {ratio:.0f} to 1; most models see only a part of it")
    return notices


def _warned(warning: str) -> str:
    return LARGE if warning == LARGE else f"read with a warning: {_line(warning)}"


# What is wrong, in one line


def _expect_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise ImageError(
                f"{path}: a folder; expected one picture file, such as {_inside(path)}"
            )
        if not path.exists():
            raise ImageError(f"{path}: no such file; expected an image; {_near(path)}")
        if not path.is_file():
            raise ImageError(f"{path}: not a regular file; expected an image on disk")
        if not path.stat().st_size:
            raise ImageError(f"{path}: zero bytes; expected an image; copy or download it again")
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: cannot be looked at ({_line(str(error))})".replace("\0", "")
        ) from error


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either: check the path"
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else "check the path"


def _inside(folder: Path) -> str:
    endings = (".jpg", ".jpeg", ".png", ".webp")
    pictures = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in endings)
    return str(pictures[0]) if pictures else str(folder / "photo.jpg")


def _unidentified(path: Path) -> str:
    what = "no picture format that is known here"
    if path.is_file():
        with path.open("rb") as file:
            what = _kind(file.read(512))
    return f"{path}: {what}; expected JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF; convert it to PNG"


def _kind(head: bytes) -> str:
    if head[:5] == b"%PDF-":
        return "a PDF, not a picture"
    if b"ftyphei" in head[:16] or b"ftypmif" in head[:16]:
        return "a HEIC picture, which is not read here"
    if b"<svg" in head:
        return "an SVG drawing, which has no pixels"
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        return "a text file, whatever its name says"
    return "no picture format that is known here"


def _broken(source: str, error: Exception, caught: list[str]) -> str:
    text = "; ".join([_line(str(error)) or type(error).__name__, *map(_line, caught)])
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"{source}: cut short ({text}); expected a whole picture; copy or download it again"
    return f"{source}: damaged ({text}); expected a whole picture; save it again or take another"


def _bomb(source: str) -> str:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
    return (
        f"{source}: more pixels than is safe to unpack; expected at most {limit} million; "
        "scale it down first"
    )


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _line(text: str) -> str:
    return " ".join(text.split())
