"""`heatproof audit METHOD`. Names and files are checked before torch is imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import checking, extras, index, specs, user_code
from heatproof.cli import options, terminal
from heatproof.data.opening import check as check_data
from heatproof.errors import InputError
from heatproof.pages.folder import check_folder

if TYPE_CHECKING:
    from heatproof.auditing.result import Audit


def audit(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A name from `heatproof methods`, `all`, or your own code as FILE.py:NAME: a "
            "function (image, prompt) -> map, or a function of the model that returns one. "
            "Several with commas.",
        ),
    ],
    settings: options.MethodOptions = None,
    model: options.ModelSpec = options.DEFAULT_MODEL,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Images for principle 2: {options.DATA_SPECS}",
            show_default="scenes for the embedded model, otherwise none",
        ),
    ] = None,
    principle: Annotated[
        list[int] | None,
        typer.Option(help="Check only this principle, 1 or 2.", min=1, max=2, show_default="both"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=20, help="Number of images for principle 2.")] = 300,
    budget: Annotated[
        int,
        typer.Option(min=1, help="Most forward passes per method for principle 2."),
    ] = 205_000,
    out: options.OutputFolder = Path("audit"),
    device: options.Device = "cpu",
    engine: options.Engine = "local",
    workers: options.Workers = 1,
    address: options.Address = None,
    seed: options.Seed = 0,
    allow_violations: Annotated[
        bool, typer.Option("--allow-violations", help="Exit with 0 even if a check is violated.")
    ] = False,
) -> None:
    """Check METHOD against two principles.

    Principle 1: maps explain the model itself. Principle 2: maps are good where the model is right
    and bad where it is wrong. Writes audit.html and audit.json; with several methods, one folder
    per method and a league table. A method that the folder already holds, for the same model and
    settings, is not audited again.

    Example: heatproof audit grad-eclip -o audit/

    Exit codes; with several methods, the worst counts:

    \b
      0  every principle is established
      1  a principle is violated
      2  bad input
      3  a principle is not established
    """
    given = terminal.parse_options(settings)
    own, named = _parse_methods(method, given)
    specs.check(model)
    extras.require("report")
    if data is not None:
        check_data(data)
    check_folder(out)
    checking.pool(engine, workers, address)
    if engine == "ray":
        extras.require("ray")
    with terminal.working(f"loading {model}") as say:
        from heatproof.auditing.many import AuditRequest, audit_all
        from heatproof.auditing.run import Auditor
        from heatproof.models import load
        from heatproof.parallel.pool import Pool

        loaded = load(model, device=device)
        settings_of_all: dict[str, Any] = {
            "principles": principle or (1, 2), "scenes": pictures, "seed": seed, "budget": budget,
        }  # fmt: skip
        auditor = Auditor(loaded, data, **settings_of_all)
        request = AuditRequest(own=own, named=named, data=data, settings=settings_of_all, out=out)
        chosen = request.methods(loaded)
        if len(chosen) == 1:
            audits, left_out = [auditor.audit(next(iter(chosen.values())), progress=say)], 0
            page = audits[0].save(out)
        else:
            pool = Pool(engine=engine, workers=workers, address=address)
            with terminal.resumable(out):
                audits, page = audit_all(
                    auditor, chosen, request, pool, say=say, notice=terminal.notice
                )
            left_out = len(chosen) - len(audits)
    typer.echo(f"page: {page}")
    for done in audits:
        _summarise(done, full=len(audits) == 1)
    # A method that was left out is not established: nothing is known about it.
    states = [done.holds for done in audits] + [None] * left_out
    if len(states) > 1:
        typer.echo(_count(states, left_out))
    raise typer.Exit(_exit_code(states, allow_violations))


def _exit_code(states: Sequence[bool | None], allow_violations: bool) -> int:
    """Return the worst of them: a violation, else a method that is not established."""
    if False in states and not allow_violations:
        return terminal.FAILED
    return terminal.NOT_ESTABLISHED if None in states else terminal.DONE


def _count(states: Sequence[bool | None], left_out: int) -> str:
    suffix = f" ({left_out} of them left out)" if left_out else ""
    return (
        f"{len(states)} methods: {states.count(True)} established, {states.count(False)} violated, "
        f"{states.count(None)} not established{suffix}"
    )


def _parse_methods(text: str, settings: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Parse the argument METHOD: the user's code by name, and catalogue names with their options.

    Raises:
        InputError: two methods of one name, no such file, an unknown method or option.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    # The name after the colon is also the name of the folder and of the row in the league table.
    own = {name.rpartition(":")[2]: name for name in names if user_code.is_user_code(name)}
    named = [name for name in names if not user_code.is_user_code(name)]
    if len(own) + len(named) < len(names) or set(own) & set(named):
        raise InputError("two methods have the same name; rename one of the functions")
    for source in own.values():
        user_code.check(source)
    if own and not named and settings:
        raise InputError("your own code has no options; leave out --set")
    return own, {} if own and not named else index.chosen_methods(",".join(named), settings)


def _summarise(audit: "Audit", *, full: bool) -> None:
    """Print the verdict of an audit; if `full`, every check with its evidence too."""
    if full:
        for notice in audit.notices:
            terminal.notice(notice)
        width = max((len(finding.check) for finding in audit.findings), default=0)
        for principle in dict.fromkeys(finding.principle for finding in audit.findings):
            typer.echo(f"principle {principle}: {audit.verdict(principle)}")
            for finding in audit.findings:
                if finding.principle == principle:
                    verdict = "VIOLATED" if finding.verdict == "violated" else finding.verdict
                    typer.echo(f"  {finding.check:<{width}}  {verdict:<14}  {finding.evidence}")
    typer.echo(terminal.one_line(audit.sentence))
