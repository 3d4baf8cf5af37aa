"""Which shapes are checked under test: those in signatures of modules and classes.

jaxtyping's import hook wraps every function, with a shape in its signature or without, and closures
anew whenever the function around them runs. That is most of the suite's time and checks little
that the strict type checker does not: here the hook is told to leave them as they are.
"""

import sys
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

_every = jaxtyping.jaxtyped


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type):
        return issubclass(hint, jaxtyping.AbstractArray)
    parts = hint if isinstance(hint, list) else typing.get_args(hint)  # a Callable's arguments
    return any(map(_has_shape, parts))


def _resolved(hint: Any, thing: Any) -> Any:
    """Annotations of modules that postpone them are strings."""
    try:
        return eval(hint, vars(sys.modules[thing.__module__])) if isinstance(hint, str) else hint
    except NameError:  # imported for the type checker alone
        return None


def _checked(thing: Any) -> bool:
    if "<locals>" in thing.__qualname__:
        return False
    return any(_has_shape(_resolved(hint, thing)) for hint in thing.__annotations__.values())


def _jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    wrap = _every(typechecker=typechecker)
    return lambda thing: wrap(thing) if _checked(thing) else thing


jaxtyping.jaxtyped = _jaxtyped
