"""What the commands share on the terminal: progress where somebody watches, SWITCH=VALUE, lines."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from heatproof.errors import InputError, Interrupted


@contextmanager
def working(on: str = "starting") -> Generator[Callable[[str], None]]:
    """Say what is being done, where somebody watches; yields what changes the words."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"{on} ...") as status:
        yield lambda text: status.update(f"{text} ...")


def switches(given: list[str] | None) -> dict[str, str]:
    """`--set SWITCH=VALUE`, repeated.

    Raises:
        InputError: a text that is not of that form.
    """
    found: dict[str, str] = {}
    for text in given or []:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and key and value):
            raise InputError(f"got --set {text!r}, expected SWITCH=VALUE such as heads=model")
        found[key] = value
    return found


def one_line(text: str) -> str:
    """One line without control characters, whatever a prompt or a file name holds."""
    return " ".join("".join(x if x.isprintable() else " " for x in text).split())


@contextmanager
def kept(where: Path) -> Generator[None]:
    """Ctrl-C inside loses nothing, and says so: what is done lies in `where`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is done is kept in {where}: the same command goes on"
        ) from None
