"""What libtiff says while Pillow decodes a file, as text: by itself it writes to stderr.

Pillow offers no way to ask for it, so libtiff's two handlers are set, for the time of a decode, to
one that takes what the decoding thread causes and hands what any other causes to the former
handler. Where the library's functions cannot be reached (Windows, a Pillow with libtiff linked in
statically), its lines go to stderr as before.
"""

import ctypes
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
"""void handler(const char *module, const char *format, va_list arguments)"""
MOST, LENGTH = 3, 300
"""Lines that are kept of one decode, and bytes of each: a damaged file causes thousands."""


@contextmanager
def lines_into(lines: list[str]) -> Generator[None]:
    """Add to `lines` what libtiff says in this thread. To be used under a lock."""
    library = _library()
    if library is None:
        yield
        return
    most = len(lines) + MOST
    here, (setters, write) = threading.get_ident(), library
    former: dict[int, int | None] = {}

    def handler(number: int) -> Any:
        def take(module: bytes, form: bytes, arguments: int) -> None:
            if threading.get_ident() != here:
                if address := former.get(number):
                    ctypes.cast(address, Handler)(module, form, arguments)
            elif len(lines) < most:
                buffer = ctypes.create_string_buffer(LENGTH)
                write(buffer, LENGTH, form, ctypes.c_void_p(arguments))
                lines.append(buffer.value.decode("utf-8", "replace"))

        return Handler(take)

    handlers = [handler(number) for number in range(len(setters))]
    for number, setter in enumerate(setters):
        former[number] = setter(ctypes.cast(handlers[number], ctypes.c_void_p))
    try:
        yield
    finally:
        for number, setter in enumerate(setters):
            setter(former[number])


@cache
def _library() -> tuple[list[Callable[..., Any]], Callable[..., Any]] | None:
    """Return the setters of libtiff's handlers, and C's function that fills in their arguments."""
    from PIL import _imaging  # pyright: ignore[reportAttributeAccessIssue]

    try:
        library = ctypes.CDLL(_imaging.__file__)  # whose own libraries are searched, too
        setters = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
        write = ctypes.CDLL(None).vsnprintf
    except (OSError, AttributeError, TypeError):
        return None
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return [*setters], write
