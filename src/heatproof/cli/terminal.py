"""What the commands share on the terminal: exit codes, progress, OPTION=VALUE, single lines."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import typer

from heatproof.errors import InputError, Interrupted

DONE, FAILED, BAD_INPUT, NOT_ESTABLISHED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes of all commands."""


@contextmanager
def working(task: str = "starting") -> Generator[Callable[[str], None]]:
    """Show a spinner beside `task` if stderr is a terminal; yields a function that changes it."""
    from rich.console import Console  # slow to import, and not needed for help

    console = Console(stderr=True)
    # Escape codes of a spinner would fill a log file.
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(f"{task} ...") as status:
        yield lambda text: status.update(f"{text} ...")


@contextmanager
def resumable(folder: Path | str) -> Generator[None]:
    """Turn Ctrl-C into one line that says where the finished parts are, and how to resume.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; finished parts are in {folder}; to resume, run the same command again"
        ) from None


def parse_options(texts: list[str] | None) -> dict[str, str]:
    """Parse repeated `--set OPTION=VALUE`.

    Raises:
        InputError: a text is not of that form.
    """
    options: dict[str, str] = {}
    for text in texts or []:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and key and value):
            raise InputError(f"got --set {text!r}, expected OPTION=VALUE such as heads=model")
        options[key] = value
    return options


def one_line(text: str) -> str:
    """Return `text` on one line, without the control characters that a prompt may hold."""
    return " ".join("".join(x if x.isprintable() else " " for x in text).split())


def notice(text: str) -> None:
    """Print a notice on stderr, so that stdout stays readable by programs."""
    typer.echo(f"notice: {one_line(text)}", err=True)
