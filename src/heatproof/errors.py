"""The errors of heatproof. Each is one line: what came, what was expected, what to try.

HeatproofError
├── InputError            bad input (exit code 2)
│   ├── UnknownName       no such method, model, score or option; the nearest names are offered
│   ├── ImageError        the image cannot be opened or used
│   ├── PromptError       the prompt cannot be used
│   ├── ModelError        the model cannot be loaded or wrapped
│   └── UserCodeError     the user's own code failed
├── ReadingError          the forward pass cannot be traced as needed (exit code 2)
└── Interrupted           Ctrl-C, with the finished parts kept (exit code 130)
"""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

LONGEST = 1000
"""Most characters in the text of an error: input may be longer than anybody reads."""
LISTED = 40
"""Most names that are listed where none is similar."""


def shortened(text: str, longest: int = 80) -> str:
    """Return a text of at most `longest` characters, its middle left out if necessary."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 3]}...{text[-tail:]}"


class HeatproofError(Exception):
    """Base of all errors that heatproof raises on purpose. The text is one line."""

    def __init__(self, text: str = "") -> None:
        super().__init__(shortened(" ".join(text.split()), LONGEST))


class InputError(HeatproofError):
    """The user's input is bad."""


class ImageError(InputError):
    """An image cannot be opened or used."""


class PromptError(InputError):
    """A prompt cannot be used."""


class ModelError(InputError):
    """A model cannot be loaded or wrapped."""


class UnknownName(InputError):
    """A name is not in its catalogue; the text offers the nearest ones, or lists all."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = nearest(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {_listed(known)}"
        super().__init__(f"unknown {kind} {shortened(repr(name))}; {hint}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that are similar to `name`.

    Names that differ only in case and punctuation come alone: "GradECLIP" is "grad-eclip".
    """
    names = list(known)
    same = [candidate for candidate in names if _letters(candidate) == _letters(name)]
    if same and _letters(name):
        return [shortened(candidate) for candidate in same]
    # difflib takes quadratic time: a pasted page of text would hang.
    if len(name) > LISTED * 2:
        return []
    lower = {candidate.casefold(): candidate for candidate in names}
    near = difflib.get_close_matches(name.casefold(), lower, n=3, cutoff=0.5)
    return [shortened(lower[candidate]) for candidate in near]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _listed(names: list[str]) -> str:
    shown = ", ".join(shortened(name) for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


class UserCodeError(InputError):
    """The user's own code failed. What it raised is `__cause__`."""

    def __init__(self, name: str, error: BaseException, hint: str = "") -> None:
        text = " ".join(str(error).split())[:300]
        line = _last_line(error)
        super().__init__(f"{name} failed with {type(error).__name__}: {text}{line}{hint}")


def _last_line(error: BaseException) -> str:
    """Return the last line of the user's own files in the traceback; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not {"site-packages", "heatproof"} & set(Path(f.filename).parts)]
    own = [frame for frame in own if Path(frame.filename).is_file()]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


class ReadingError(HeatproofError):
    """The model's own forward pass cannot be traced as the method needs it."""


class Interrupted(HeatproofError):
    """The user pressed Ctrl-C. The text says where the finished parts are kept."""
