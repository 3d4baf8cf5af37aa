"""A stranger's method from the command line: `FILE.py:FUNCTION` or `PACKAGE.MODULE:FUNCTION`.

The function is given the model and returns a callable (PIL image, prompt) -> map.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from heatproof.errors import InputError
from heatproof.methods import Foreign, Method
from heatproof.models import Model


def is_stranger(name: str) -> bool:
    """Whether `name` says where code is, and is no catalogue name with switches."""
    place, colon, function = name.rpartition(":")
    return bool(colon) and function.isidentifier() and (place.endswith(".py") or "." in place)


def load_stranger(name: str, model: Model) -> Method:
    """The method that the user's function makes for this model.

    Raises:
        InputError: no such file, module or function; it fails, or returns nothing to call.
    """
    place, _, function = name.rpartition(":")
    make = getattr(module_of(place), function, None)
    if not callable(make):
        raise InputError(f"{place} has no function {function!r}; expected FILE.py:FUNCTION")
    try:
        made: Any = make(model)
    except Exception as error:
        raise InputError(
            f"{name} failed with {type(error).__name__}: {error}; it is given the model and "
            "returns a callable (picture, prompt) -> map"
        ) from error
    if isinstance(made, Method):
        return made
    if not callable(made):
        raise InputError(
            f"{name} returned {type(made).__name__}, expected a callable (picture, prompt) -> map"
        )
    call: Callable[[Any, str], Any] = made
    return Foreign(call, name=function)


def module_of(place: str) -> ModuleType:
    """The module at `FILE.py` or `PACKAGE.MODULE`; it is run.

    Raises:
        InputError: there is none, or it fails.
    """
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise InputError(
                f"cannot import {place!r} ({error}); expected FILE.py:FUNCTION"
            ) from None
    path = Path(place)
    if not path.is_file():
        raise InputError(f"{place}: no such file, expected FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{place} failed with {type(error).__name__}: {error}") from error
    return module
