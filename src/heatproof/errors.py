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

LONGEST = 1000
"""Characters of an error's line; what a user handed in may be longer than anybody reads."""
LISTED = 40
"""Names that are listed where none is near."""


def shortened(text: str, longest: int = 80) -> str:
    """Cut the middle out of a text that is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 3]}...{text[-tail:]}"


class HeatproofError(Exception):
    """Every error that heatproof raises on purpose; its text is one line."""

    def __init__(self, text: str = "") -> None:
        super().__init__(shortened(" ".join(text.split()), LONGEST))


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
        known = sorted(known)
        near = nearest(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {_listed(known)}"
        super().__init__(f"unknown {kind} {shortened(repr(name))}; {hint}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names like `name`: one that differs in case and marks alone, else similar
    ones ("GradECLIP" is "grad-eclip")."""
    names = list(known)
    same = [each for each in names if _letters(each) == _letters(name)]
    if same and _letters(name):
        return [shortened(each) for each in same]
    if len(name) > LISTED * 2:
        return []
    lower = {each.casefold(): each for each in names}
    near = difflib.get_close_matches(name.casefold(), lower, n=3, cutoff=0.5)
    return [shortened(lower[each]) for each in near]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _listed(names: list[str]) -> str:
    shown = ", ".join(shortened(each) for each in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


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
