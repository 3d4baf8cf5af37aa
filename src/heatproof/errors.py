"""What can go wrong, in the user's words: what came, what was expected, what to try.

HeatproofError
├── InputError            the user's input is at fault (exit code 2)
│   ├── UnknownName       no such method, model, score, switch; the nearest names are offered
│   ├── ImageError        the picture cannot be read
│   ├── PromptError       the prompt cannot be used
│   └── ModelError        the model cannot be loaded or wrapped
├── ReadingError          the model's forward pass cannot be read as asked (exit code 2)
└── Interrupted           Ctrl-C where what was done is kept (exit code 130)
"""

import difflib
from collections.abc import Iterable


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


class ReadingError(HeatproofError):
    """The model's own forward pass cannot be read as asked."""


class Interrupted(HeatproofError):
    """Stopped by the user; its text says where what was done is kept."""
