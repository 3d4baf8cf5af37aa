"""The command `heatproof`: its subcommands, and what an error becomes: one line, an exit code.

Nothing here imports torch, so that `heatproof --help` and bad input answer at once.
"""

import importlib.util
import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from heatproof import __version__, checking
from heatproof.cli.audit import audit
from heatproof.cli.benchmark import benchmark
from heatproof.cli.explain import explain
from heatproof.cli.methods import methods
from heatproof.cli.models import models
from heatproof.cli.prove import prove
from heatproof.cli.reproduce import reproduce
from heatproof.cli.run import run as run_many
from heatproof.cli.store import app as store
from heatproof.cli.terminal import BAD_INPUT, DONE, INTERRUPTED, one_line
from heatproof.errors import HeatproofError, Interrupted

UsageProblem = cast(type[Exception], typer.BadParameter.__mro__[2])
"""click's ClickException, which typer keeps elsewhere from one version to the next."""

app = typer.Typer(
    name="heatproof",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In this order they stand in the help: first what a newcomer needs.
for command in (explain, methods, models, audit, prove, benchmark, reproduce):
    app.command()(command)
app.command("run")(run_many)
app.add_typer(store)

# The package may come without its recipes: then this command is missing, and nothing else.
if importlib.util.find_spec("heatproof.recipes.scenes") is not None:
    from heatproof.recipes.scenes.commands import app as scenes

    app.add_typer(scenes, name="scenes")


def main() -> None:
    """Run the command line of this process and exit; the console script calls this."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Bad input gives one line on stderr."""
    command = typer.main.get_command(app)
    words = list(arguments) or ["--help"]
    try:
        code = command.main(words, prog_name="heatproof", standalone_mode=False)
    except Interrupted as error:
        return _fail(str(error), INTERRUPTED)
    except HeatproofError as error:
        return _fail(str(error), BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted; no report was written", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not checking.memory_is_full(error):
            raise
        reason = f"not enough memory ({one_line(str(error))[:200]})"
        return _fail(f"{reason}; try --memory, a smaller model or --image-size", BAD_INPUT)
    except UsageProblem as error:
        return _usage(error)
    # Some versions of click catch Ctrl-C themselves and return its exit code.
    if code == INTERRUPTED:
        return _fail("interrupted; no report was written", INTERRUPTED)
    # Without arguments the help was shown, but nothing was done.
    if not arguments:
        return BAD_INPUT
    return code if isinstance(code, int) else DONE


def _usage(error: Any) -> int:
    """Report a wrong command line in one line; show the help where a subcommand is missing."""
    context: Any = getattr(error, "ctx", None)
    where = context.command_path if context else "heatproof"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help(), err=True)
        return BAD_INPUT
    text = error.format_message().strip().rstrip(".")
    return _fail(f"{text[:1].lower()}{text[1:]}; try '{where} --help'", BAD_INPUT)


def _fail(text: str, code: int) -> int:
    typer.echo(f"heatproof: {one_line(text)}", err=True)
    return code


def _version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"heatproof {__version__}")
        raise typer.Exit


@app.callback()
def heatproof(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = None,
) -> None:
    """Draw heat maps of what a CLIP-like model saw and read, each with a certificate.

    The certificate says whether a map really explains your model. Start with:

    heatproof explain photo.jpg "a dog" -o out/
    """
    del version
