"""Check what a user hands to a public function, before any work is done. Imports no torch.

Each function returns the value in its plain form, or raises an `InputError` of one line: what came
(shortened), what was expected, what to try.
"""

import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from heatproof.errors import ImageError, InputError, PromptError, shortened

if TYPE_CHECKING:
    from PIL import Image

F = TypeVar("F")

LARGEST, LARGEST_SEED = 2**31 - 1, 2**32 - 1
IMAGE_ENDINGS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".qoi",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.ASCII)


def shown(value: object) -> str:
    """Describe what came in a few words: a short value as it is, anything else by its kind."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        try:
            return shortened(repr(value))
        except ValueError:  # an int of too many digits for Python to print
            return "a very large number"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, os.PathLike):
        return shortened(repr(str(value)))
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"a {kind} of shape {tuple(shape)}"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, Sequence | Mapping | Set):
        return f"a {kind} of {len(value)}"  # pyright: ignore[reportUnknownArgumentType]
    return f"an object of type {kind}"


def _refused(name: str, value: object, expected: str) -> InputError:
    return InputError(f"got {name}={shown(value)}, expected {expected}")


# --- plain values ---------------------------------------------------------------------------------


def whole(name: str, value: object, *, least: int = -LARGEST, most: int = LARGEST) -> int:
    """Check a whole number between `least` and `most`; True, 1.0 and arrays are none."""
    array = _is_array(value) or _is_tensor(value)
    if array or isinstance(value, bool | type) or not isinstance(value, SupportsIndex):
        raise _refused(name, value, "a whole number")
    number = operator.index(value)
    if number < least:
        raise _refused(name, value, f"at least {least}")
    if number > most:
        raise _refused(name, value, f"at most {most}")
    return number


def number(name: str, value: object, *, least: float) -> float:
    """Check a finite number that is at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise _refused(name, value, f"a number of at least {least:g}")
    if value < least:
        raise _refused(name, value, f"a number of at least {least:g}")
    return float(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def flag(name: str, value: object) -> bool:
    """Check True or False."""
    if not isinstance(value, bool) and type(value).__name__ != "bool":  # numpy has its own
        raise _refused(name, value, "True or False")
    return bool(value)


def text(name: str, value: object) -> str:
    """Check a text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise _refused(name, value, "a text")
    return str(value)


def names(name: str, value: object) -> list[str]:
    """Check one text, or several."""
    return [text(name, each) for each in several(name, value, "a text or a list of texts")]


def several(name: str, value: object, expected: str) -> list[Any]:
    """List what was handed in: one text or a collection in a known order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes | Mapping | Set | type) or not isinstance(value, Iterable):
        raise _refused(name, value, expected)
    try:
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    except TypeError:  # an array without axes
        raise _refused(name, value, expected) from None


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Check one of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise _refused(name, value, " or ".join(map(repr, allowed)))
    return str(value)


def settings(name: str, value: object) -> dict[str, Any]:
    """Check switches by their names."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refused(name, value, "a dict such as {'heads': 'model'}")
    return {text(f"a key of {name}", key): each for key, each in value.items()}  # pyright: ignore


def seed(value: object) -> int:
    """Check a random seed."""
    return whole("seed", value, least=0, most=LARGEST_SEED)


def path(name: str, value: object) -> Path:
    """Check the name of a file or folder; whether it is there is not asked."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise _refused(name, value, "a path")
    return Path(value).expanduser() if str(value).startswith("~/") else Path(value)


def device(value: object) -> str:
    """Check the name of a device, or torch's own object for it; torch says whether it is there."""
    if type(value).__module__.split(".")[0] == "torch" and type(value).__name__ == "device":
        return str(value)
    if not isinstance(value, str) or not value:
        raise _refused("device", value, "a name such as 'cpu', 'cuda', 'cuda:1' or 'mps'")
    return value


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; no name is too long or too odd to ask."""
    return os.path.exists(path)  # noqa: PTH110 (that of Path raises an error)


def memory(value: object) -> int | None:
    """Check a size of memory, or None; returns bytes."""
    return None if value is None else size_in_bytes(value)


def size_in_bytes(value: object) -> int:
    """Bytes of "2GiB", "500 MB" or a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"got memory {shown(value)}, expected a size such as '2GiB' or '500MB'")
    given = str(value).lower() if isinstance(value, str) or value < 2**63 else ""
    read = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([kmg]i?)?b?\s*", given, re.ASCII)
    size = 0 if read is None else int(float(read[1]) * UNITS[read[2] or ""])
    if size <= 0:
        raise InputError(f"got memory {shown(value)}, expected a size such as '2GiB' or '500MB'")
    return size


def image_size(value: object) -> tuple[int, int] | str | None:
    """(height, width), "keep" or None for the model's own; one number is both sides."""
    expected = (
        "HEIGHTxWIDTH such as 224x336, (height, width), one number for both, 'keep' or 'native'"
    )
    if value is None or (isinstance(value, str) and value in ("keep", "native")):
        return value
    sides: Sequence[object]
    if isinstance(value, str):
        height, cross, width = value.lower().partition("x")
        digits = cross and height.isdecimal() and width.isdecimal() and len(value) < 20
        sides = (int(height), int(width)) if digits else ()
    elif isinstance(value, tuple | list):
        sides = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    else:
        sides = (value, value)
    if len(sides) != 2:
        raise InputError(f"got image size {shown(value)}, expected {expected}")
    try:
        height, width = (whole("image_size", side, least=1, most=2**20) for side in sides)
    except InputError:
        raise InputError(f"got image size {shown(value)}, expected {expected}") from None
    return height, width


def index(name: str, value: object, count: int) -> int:
    """Check which of `count` is meant; negative ones count from the end."""
    place = whole(name, value)
    if not -count <= place < count:
        there = f"0 to {count - 1}" if count > 1 else "0" if count else "none: there is none"
        raise InputError(f"got {name} {shown(value)}, expected {there}")
    return place % count


def progress(value: F, *example: object) -> F:
    """Check that a callback can be called with arguments like `example`, or is None."""
    if isinstance(value, type):
        raise _refused("progress", value, "something to call")
    if value is not None:
        called("progress", value, *example)
    return value


def called(name: str, value: object, *example: object) -> Callable[..., Any]:
    """Check that a callback can be called with arguments like `example`."""
    many = "no argument" if not example else f"{len(example)} argument{'s' * (len(example) > 1)}"
    if not callable(value):
        raise _refused(name, value, f"something to call with {many}")
    try:
        # A torch module can be called with anything, and hands it on.
        inspect.signature(getattr(value, "forward", value)).bind(*example)
    except TypeError:
        raise InputError(f"got {name} that cannot be called with {many}, expected it to") from None
    except ValueError:  # written in C, and Python does not know its arguments
        pass
    return value


# --- images and prompts ---------------------------------------------------------------------------

EXPECTED_IMAGE = (
    "a path, a PIL image, a uint8 array (height, width, 3), a list of these, or a preprocessed "
    "tensor (image, 3, height, width)"
)


def image(value: object) -> "str | Path | Image.Image":
    """Check one image: a path, a PIL image or an array of RGB values.

    Raises:
        ImageError: a web address, an array of another kind, or no image at all.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str):
        if ADDRESS.match(value):
            raise ImageError(
                f"got {shown(value)}, a web address, and no image is fetched from the network; "
                "download it first and pass the file's path"
            )
        return value
    if isinstance(value, os.PathLike):
        name: object = os.fspath(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if isinstance(name, str):
            return Path(name)
    if _is_array(value):
        return _from_array(value)
    raise ImageError(f"got {shown(value)}, expected {EXPECTED_IMAGE}{_image_hint(value)}")


def images(value: object) -> "Sequence[str | Path | Image.Image]":
    """List images: one, a collection of them, or an array; each item is checked when it is opened.

    Raises:
        ImageError: there is none, or it is no image.
    """
    from PIL import Image

    if isinstance(value, str | os.PathLike | Image.Image):
        return [image(value)]
    if _is_array(value):
        array: Any = value
        return [image(each) for each in array] if array.ndim == 4 else [image(array)]
    if isinstance(value, bytes | bytearray | Mapping | Set | type) or hasattr(value, "read"):
        return [image(value)]  # which says what is wrong
    if hasattr(value, "shape") or not (isinstance(value, Iterable) or _is_lazy(value)):
        return [image(value)]
    many: Any = value if _is_lazy(value) else list(value)  # pyright: ignore
    if not len(many):
        raise ImageError("got no image, expected a path, a PIL image or a list of them")
    return many


def _is_lazy(value: object) -> bool:
    """Whether items can be asked for one by one: they may be too many to hold."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _is_array(value: object) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _is_tensor(value: object) -> bool:
    return any(
        kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__
    )


def _from_array(array: Any) -> "Image.Image":
    from PIL import Image

    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != "uint8" or not array.size:
        raise ImageError(
            f"got an array of shape {tuple(array.shape)} and {array.dtype}, expected uint8 RGB "
            "values (height, width, 3); try PIL.Image.fromarray, or a preprocessed tensor"
        )
    return Image.fromarray(array)


def _image_hint(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return "; try PIL.Image.open(io.BytesIO(data))"
    if hasattr(value, "read"):
        return "; try PIL.Image.open(file)"
    if _is_tensor(value):
        return "; try torch.stack(tensors)"
    if isinstance(value, Mapping):
        return "; try list(images.values())"
    return ""


def prompts(value: object, *, indices: bool = False) -> list[str]:
    """List prompts: one text or a collection of them; class indices too where `indices`.

    Raises:
        PromptError: no prompt, an empty one, or something else than texts.
    """
    expected = "a text, a list of texts, or a tensor of token ids or embeddings"
    try:
        many = several("prompts", value, expected)
    except InputError:
        hint = "; try list(prompts.values())" if isinstance(value, Mapping) else ""
        raise PromptError(f"got prompts {shown(value)}, expected {expected}{hint}") from None
    if not many:
        raise PromptError('got no prompt, expected at least one; try "a dog"')
    return [_prompt(place, each, indices) for place, each in enumerate(many, 1)]


def _prompt(place: int, value: object, indices: bool) -> str:
    if indices and not isinstance(value, str):
        try:
            return str(whole(f"prompt {place}", value, least=0))
        except InputError as error:
            raise PromptError(f"{error}, or a class name") from None
    if not isinstance(value, str):
        raise PromptError(f"prompt {place} is {shown(value)}, expected a text such as 'a dog'")
    if not value.strip():
        raise PromptError(f'prompt {place} is empty, expected some words; try "a dog"')
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PromptError(f"prompt {place} is not UTF-8; check the encoding it was read with")
    return str(value)


def no_files(texts: Iterable[str], try_this: str = "pass several images as a list") -> None:
    """Refuse prompts that name a file: `explain *.jpg "a dog"` hands in images as prompts.

    Raises:
        PromptError: a prompt is a file's name, or ends like an image's.
    """
    for place, each in enumerate(texts, 1):
        if each.lower().endswith(IMAGE_ENDINGS) or os.path.isfile(each):  # noqa: PTH113 (Path's raises on a long name)
            raise PromptError(
                f"prompt {place} is {shown(each)}, the name of a file, expected a text; {try_this} "
                "(where the text is meant, put a space behind it)"
            )


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that memory ran out, Python's, the processor's or a device's.

    torch has a class of its own for devices alone (told by its name: torch is not imported here).
    """
    signs = ("allocate memory", "out of memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs))
    )
