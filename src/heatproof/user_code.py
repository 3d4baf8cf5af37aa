"""Load methods that the user wrote: from `FILE.py:NAME` or as Python objects.

Three kinds are accepted:

- a function `(image, prompt) -> map`: it needs two arguments;
- a function of the model, which returns such a function or a `Method`: it needs one argument;
- a `Method`, or a subclass of it, which is created with its defaults.

The number of parameters without a default tells the first two apart. A class is instantiated first
(with the model, where it needs one argument), and the instance has to be one of these. torch is not
imported until a method is created.
"""

import importlib
import importlib.util
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from heatproof.errors import HeatproofError, InputError, UserCodeError

if TYPE_CHECKING:
    from heatproof.methods import Method
    from heatproof.models import Model

CONTRACT = (
    "expected a function (image, prompt) -> map, a function of the model (one argument) that "
    "returns one, or a Method"
)


def is_user_code(text: str) -> bool:
    """Return whether `text` is `FILE.py:NAME` or `PACKAGE.MODULE:NAME`, not a catalogue name."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or "." in place)


def check(text: str) -> None:
    """Check that a text names code and that its file exists; nothing is run.

    Raises:
        InputError: it does not, or the file does not exist.
    """
    if not is_user_code(text):
        raise InputError(f"got {text!r}, expected FILE.py:NAME")
    place = text.rpartition(":")[0]
    if place.endswith(".py") and not os.path.isfile(place):  # noqa: PTH113 (Path's raises on a long name)
        raise InputError(f"{place}: no such file, expected FILE.py:NAME")


def load(text: str, model: "Model") -> "Method":
    """Return the method behind `FILE.py:NAME` or `PACKAGE.MODULE:NAME`; the file is run.

    Raises:
        InputError: no such file, module or name; the code fails, or is none of the three kinds.
    """
    check(text)
    place, _, name = text.rpartition(":")
    module = _module(place)
    if not hasattr(module, name):
        raise InputError(f"{place} has no {name!r}; {CONTRACT}")
    return method_of(getattr(module, name), model, name=name, source=text)


@dataclass(frozen=True)
class FromFile:
    """A method of the user's own by the name of its code, which every process reads itself.

    Functions of a file cannot go to another process; this function of the model can.
    """

    source: str

    def __call__(self, model: "Model") -> "Method":
        return load(self.source, model)


def method_of(
    entry: Any, model: "Model", *, name: str | None = None, source: str | None = None
) -> "Method":
    """Return the method that `entry` is, or returns, for this model.

    Args:
        entry: one of the three kinds above.
        name: what it is called; by default its own name.
        source: where it comes from, for messages.

    Raises:
        InputError: it is none of the three, it fails, or what it makes is none of them.
    """
    from heatproof.methods import Foreign, Method

    takes: Literal["photo", "pixels"] = "photo"
    # A wrapped function may itself be one that makes a method for a model.
    if isinstance(entry, Foreign):
        if _needed(entry.call) == 2:
            return entry
        entry, name, takes = entry.call, entry.name, entry.takes
    if isinstance(entry, Method):
        return entry
    name = name or str(getattr(entry, "__name__", type(entry).__name__))
    source = source or name
    if not callable(entry):
        raise InputError(f"{source} is of type {type(entry).__name__}; {CONTRACT}")
    needed = _needed(entry)
    if needed > 2:
        raise InputError(f"{source} needs {needed} arguments; {CONTRACT}")
    # A class is called with the model at most; its instance is what takes image and prompt.
    if needed == 2 and not inspect.isclass(entry):
        return Foreign(entry, takes=takes, name=name)
    result = _called(entry, needed, model, source)
    if isinstance(result, Method):
        return result
    if not callable(result) or inspect.isclass(result) or _needed(result) != 2:
        raise InputError(
            f"{source} was given the model and returned {_described(result)}; {CONTRACT}"
        )
    return Foreign(result, takes=takes, name=name)


def _called(entry: Any, needed: int, model: "Model", source: str) -> Any:
    """Return what a function of the model returns, or the instance of a class."""
    if needed > 1:
        raise InputError(f"class {source} needs {needed} arguments; {CONTRACT}")
    try:
        return entry(model) if needed else entry()
    except HeatproofError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(source, error, f"; {CONTRACT}") from error


def _needed(call: Any) -> int:
    """Return how many arguments `call` needs.

    Two where Python cannot say, and where all may be left out but two fit: `(*arguments)`,
    `(image=None, prompt=None)`.
    """
    try:
        signature = inspect.signature(call)
    # Functions written in C often have no signature.
    except (TypeError, ValueError):
        return 2
    # Arguments with a default, *args and **kwargs need not be given.
    needed = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed or inspect.isclass(call):
        return len(needed)
    try:
        signature.bind(None, None)
    except TypeError:
        return 0
    return 2


def _described(result: Any) -> str:
    if callable(result) and not inspect.isclass(result):
        return f"a callable that needs {_needed(result)} argument(s)"
    return f"a {type(result).__name__}" if result is not None else "nothing"


def _module(place: str) -> ModuleType:
    """Import and return the module at `FILE.py` or `PACKAGE.MODULE`.

    Raises:
        InputError: it does not exist, or it fails.
    """
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except HeatproofError:
        raise
    except ModuleNotFoundError as error:
        # The named module itself is missing; else one that the user code imports is.
        if not place.endswith(".py") and error.name and f"{place}.".startswith(f"{error.name}."):
            raise InputError(f"cannot import {place!r} ({error}); expected FILE.py:NAME") from None
        raise UserCodeError(place, error) from error
    except (Exception, SystemExit) as error:
        raise UserCodeError(place, error) from error
    return module
