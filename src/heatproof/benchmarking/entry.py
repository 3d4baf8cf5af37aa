"""A researcher's own method from the command line: `FILE.py:NAME`."""

import inspect
from typing import Any

from heatproof.auditing.stranger import is_stranger, module_of
from heatproof.errors import InputError
from heatproof.methods import Foreign, Method
from heatproof.models import Model

EXPECTED = (
    "expected a method object, a callable (picture, prompt) -> map, or a function that is given "
    "the model and returns one of them"
)


def load_entry(text: str, model: Model) -> Method:
    """The method behind `FILE.py:NAME` or `PACKAGE.MODULE:NAME`; the file is run.

    Raises:
        InputError: no such file or name; it fails, or is nothing to call.
    """
    if not is_stranger(text):
        raise InputError(f"got --entry {text!r}, expected FILE.py:NAME")
    place, _, name = text.rpartition(":")
    found: Any = getattr(module_of(place), name, None)
    if found is None:
        raise InputError(f"{place} has no {name!r}; expected FILE.py:NAME")
    if inspect.isclass(found) or (callable(found) and _asks_for_model(found)):
        try:
            found = found() if inspect.isclass(found) else found(model)
        except Exception as error:
            raise InputError(
                f"{text} failed with {type(error).__name__}: {error}; {EXPECTED}"
            ) from error
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise InputError(f"{text} is a {type(found).__name__}; {EXPECTED}")
    return Foreign(found, name=name)


def _asks_for_model(call: Any) -> bool:
    """Whether it takes one argument, where a map takes two."""
    if isinstance(call, Method):
        return False
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return len(needed) == 1
