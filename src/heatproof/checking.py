"""Check the arguments of public functions before any work is done. Imports no torch.

Each function returns the value in its plain form, or raises an `InputError` of one line that says
what came (shortened), what was expected and what to try.
"""

import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar

from heatproof.errors import ImageError, InputError, PromptError, shortened

if TYPE_CHECKING:
    from PIL import Image

F = TypeVar("F")

LARGEST, LARGEST_SEED = 2**31 - 1, 2**32 - 1
"""Bounds of whole numbers, and of seeds, which numpy takes up to here."""
IMAGE_ENDINGS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".qoi",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings by which a prompt is recognised as the name of an image file."""
ENGINES = ("local", "ray")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.ASCII)


def shown(value: object) -> str:
    """Describe a value for an error: itself if it is short, else its type and size."""
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
    """Check a whole number between `least` and `most`. True, 1.0 and arrays are refused."""
    # An array or tensor of one element passes for an index, but is rarely meant as one.
    array = _is_array(value) or _is_tensor(value)
    if array or isinstance(value, bool | type) or not isinstance(value, SupportsIndex):
        raise _refused(name, value, "a whole number")
    number = operator.index(value)
    if number < least:
        raise _refused(name, value, f"at least {least}")
    if number > most:
        raise _refused(name, value, f"at most {most}")
    return number


def number(name: str, value: object, *, least: float, most: float = math.inf) -> float:
    """Check a finite number of at least `least` and at most `most`; return a float."""
    expected = f"a number of at least {least:g}" + (
        f", at most {most:g}" if most < math.inf else ""
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise _refused(name, value, expected)
    if not least <= value <= most:
        raise _refused(name, value, expected)
    return float(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def flag(name: str, value: object) -> bool:
    """Check True or False."""
    if not isinstance(value, bool) and type(value).__name__ != "bool":  # numpy has its own
        raise _refused(name, value, "True or False")
    return bool(value)


def certify(value: object) -> bool | Literal["full"]:
    """Check True, False or "full"."""
    if isinstance(value, str) and value == "full":
        return "full"
    if not isinstance(value, bool) and type(value).__name__ != "bool":
        raise _refused("certify", value, "True, False or 'full'")
    return bool(value)


def certify_word(value: str) -> bool | Literal["full"]:
    """Return what `--certify` says as `certify` of `explain`."""
    words: dict[str, bool | Literal["full"]] = {"sample": True, "full": "full", "none": False}
    if value not in words:
        raise _refused("--certify", value, "sample, full or none")
    return words[value]


def text(name: str, value: object) -> str:
    """Check a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise _refused(name, value, "a text")
    return str(value)


def names(name: str, value: object) -> list[str]:
    """Check one text or several; return a list."""
    return [text(name, item) for item in several(name, value, "a text or a list of texts")]


def several(name: str, value: object, expected: str) -> list[Any]:
    """Return one text, or an ordered collection, as a list. Sets and mappings are refused."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes | Mapping | Set | type) or not isinstance(value, Iterable):
        raise _refused(name, value, expected)
    try:
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    except TypeError:  # an array without axes
        raise _refused(name, value, expected) from None


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Check that a value is one of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise _refused(name, value, " or ".join(map(repr, allowed)))
    return str(value)


def pool(engine: object, workers: object, address: object) -> None:
    """Check where independent parts are made, by how many workers, and Ray's address."""
    choice("engine", engine, ENGINES)
    whole("workers", workers, least=1)
    if address is not None and engine != "ray":
        raise _refused("address", text("address", address), "none: it is for the engine ray")
    if address is not None:
        text("address", address)


def settings(name: str, value: object) -> dict[str, Any]:
    """Check the options of a method or metric, by name; None means none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refused(name, value, "a dict such as {'heads': 'model'}")
    return {text(f"a key of {name}", key): setting for key, setting in value.items()}  # pyright: ignore


def seed(value: object) -> int:
    """Check a random seed."""
    return whole("seed", value, least=0, most=LARGEST_SEED)


def path(name: str, value: object) -> Path:
    """Check the path of a file or folder, which need not exist; `~/` becomes the home folder."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise _refused(name, value, "a path")
    return Path(value).expanduser() if str(value).startswith("~/") else Path(value)


def device(value: object) -> str:
    """Check a device's name or `torch.device`; return its name. Torch says if it does not exist."""
    if type(value).__module__.split(".")[0] == "torch" and type(value).__name__ == "device":
        return str(value)
    if not isinstance(value, str) or not value:
        raise _refused("device", value, "a name such as 'cpu', 'cuda', 'cuda:1' or 'mps'")
    return value


def exists(path: Path) -> bool:
    """Return whether a file or folder exists, whatever its name: the name may be no valid path."""
    return os.path.exists(path)  # noqa: PTH110 (that of Path raises an error)


def memory(value: object) -> int | None:
    """Check a size of memory; return bytes, or None for no limit."""
    return None if value is None else size_in_bytes(value)


def size_in_bytes(value: object) -> int:
    """Return the bytes of "2GiB", "500 MB" or a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"got memory {shown(value)}, expected a size such as '2GiB' or '500MB'")
    # Python refuses to print numbers of thousands of digits.
    given = str(value).lower() if isinstance(value, str) or value < 2**63 else ""
    read = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([kmg]i?)?b?\s*", given, re.ASCII)
    size = 0 if read is None else int(float(read[1]) * UNITS[read[2] or ""])
    if size <= 0:
        raise InputError(f"got memory {shown(value)}, expected a size such as '2GiB' or '500MB'")
    return size


def image_size(value: object) -> tuple[int, int] | str | None:
    """Check an image size; return (height, width), "keep", "native" or None (the model's own)."""
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
    """Check an index into `count` items; negative ones count from the end."""
    place = whole(name, value)
    if not -count <= place < count:
        indices = f"0 to {count - 1}" if count > 1 else "0" if count else "none: there is none"
        raise InputError(f"got {name} {shown(value)}, expected {indices}")
    return place % count


def progress(value: F, *example: object) -> F:
    """Check a callback of progress, or None; it is called with arguments like `example`."""
    if isinstance(value, type):
        raise _refused("progress", value, "a function")
    if value is not None:
        called("progress", value, *example)
    return value


def called(name: str, value: object, *example: object) -> Callable[..., Any]:
    """Check that a value can be called with arguments like `example`."""
    many = f"{len(example) or 'no'} argument{'s' * (len(example) > 1)}"
    if not callable(value):
        raise _refused(name, value, f"a function of {many}")
    try:
        # The signature of a torch module is that of its forward; calling it accepts anything.
        inspect.signature(getattr(value, "forward", value)).bind(*example)
    except TypeError:
        raise InputError(
            f"got {name} that cannot be called with {many}; expected one that can"
        ) from None
    except ValueError:  # written in C: Python does not know its arguments
        pass
    return value


# --- images and prompts ---------------------------------------------------------------------------

EXPECTED_IMAGE = (
    "a path, a PIL image, a uint8 array (height, width, 3), a list of these, or a preprocessed "
    "tensor (image, 3, height, width)"
)
"""What errors say that was expected as an image."""


def image(value: object) -> "str | Path | Image.Image":
    """Check one image: a path, a PIL image or an array of RGB values. No file is opened.

    Raises:
        ImageError: a web address, an array of another shape or dtype, or something else.
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
    """Return images as a sequence: one, a collection, or an array (image, height, width, 3).

    The items of a collection are checked only when they are opened, since they may be many.

    Raises:
        ImageError: there is no image, or the value is not one.
    """
    from PIL import Image

    if isinstance(value, str | os.PathLike | Image.Image):
        return [image(value)]
    if _is_array(value):
        array: Any = value
        return [image(item) for item in array] if array.ndim == 4 else [image(array)]
    if isinstance(value, bytes | bytearray | Mapping | Set | type) or hasattr(value, "read"):
        return [image(value)]  # raises an error that says what is wrong
    if hasattr(value, "shape") or not (isinstance(value, Iterable) or _is_lazy(value)):
        return [image(value)]
    many: Any = value if _is_lazy(value) else list(value)  # pyright: ignore
    if not len(many):
        raise ImageError("got no image, expected a path, a PIL image or a list of them")
    return many


def _is_lazy(value: object) -> bool:
    """Return whether items can be fetched one by one."""
    # Such a collection is not copied into a list: its items may be too many to hold.
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
    """Return prompts as a list of texts; with `indices`, class indices are allowed too.

    Raises:
        PromptError: there is no prompt, one is empty, or one is not a text.
    """
    expected = "a text, a list of texts, or a tensor of token ids or embeddings"
    try:
        many = several("prompts", value, expected)
    except InputError:
        hint = "; try list(prompts.values())" if isinstance(value, Mapping) else ""
        raise PromptError(f"got prompts {shown(value)}, expected {expected}{hint}") from None
    if not many:
        raise PromptError('got no prompt, expected at least one; try "a dog"')
    return [_prompt(number, prompt, indices) for number, prompt in enumerate(many, 1)]


def _prompt(number: int, value: object, indices: bool) -> str:
    if indices and not isinstance(value, str):
        try:
            return str(whole(f"prompt {number}", value, least=0))
        except InputError as error:
            raise PromptError(f"{error}, or a class name") from None
    if not isinstance(value, str):
        raise PromptError(f"prompt {number} is {shown(value)}, expected a text such as 'a dog'")
    if not value.strip():
        raise PromptError(f'prompt {number} is empty, expected some words; try "a dog"')
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PromptError(f"prompt {number} is not UTF-8; check the encoding it was read with")
    return str(value)


def no_files(texts: Iterable[str], try_this: str = "pass several images as a list") -> None:
    """Refuse prompts that name a file: with `explain *.jpg "a dog"`, images arrive as prompts.

    Raises:
        PromptError: a prompt is the name of a file, or ends like the name of an image.
    """
    for number, prompt in enumerate(texts, 1):
        if prompt.lower().endswith(IMAGE_ENDINGS) or os.path.isfile(prompt):  # noqa: PTH113 (Path's raises on a long name)
            raise PromptError(
                f"prompt {number} is {shown(prompt)}, the name of a file, expected a text; "
                f"{try_this} (if you mean it as a prompt, add a space at its end)"
            )


def memory_is_full(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on the CPU or on a device."""
    # torch has an error class for devices only. It is compared by name: torch is not imported here.
    signs = ("allocate memory", "out of memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs))
    )
