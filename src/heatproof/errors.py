"""What can go wrong, in the user's words: what came, what was expected, what to try.

HeatproofError
├── InputError            the user's input is at fault (exit code 2)
│   ├── UnknownName       no such method, model, score, switch; the nearest names are offered
│   ├── ImageError        the picture cannot be read
│   ├── PromptError       the prompt cannot be used
│   ├── ModelError        the model cannot be loaded or wrapped
│   └── UserCodeError     the user's own code failed
├── ReadingError          the model's forward pass cannot be read as asked (exit code 2)
└── Interrupted           Ctrl-C where what was done is kept (exit code 130)
"""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class HeatproofError(Exception):
    """Every error that heatproof raises on purpose; its text is one line."""


class InputError(HeatproofError):
    """The input is at fault."""


class ImageError(InputError):
    """A picture that cannot be read."""


class PromptError(InputError):
    """A prompt that cannot be used."""


class ModelError(InputError):
    """A model that cannot be loaded or wrapped."""


class UnknownName(InputError):
    """A name that is in no catalogue."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class UserCodeError(InputError):
    """Code of the user's own failed; what it raised is the cause."""

    def __init__(self, name: str, error: BaseException, hint: str = "") -> None:
        told = " ".join(str(error).split())[:300]
        line = _last_line(error)
        super().__init__(f"{name} failed with {type(error).__name__}: {told}{line}{hint}")


def _last_line(error: BaseException) -> str:
    """Where in a file outside of installed packages it was raised; nothing where nowhere."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not {"site-packages", "heatproof"} & set(Path(f.filename).parts)]
    own = [frame for frame in own if Path(frame.filename).is_file()]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


class ReadingError(HeatproofError):
    """The model's own forward pass cannot be read as asked."""


class Interrupted(HeatproofError):
    """Stopped by the user; its text says where what was done is kept."""
