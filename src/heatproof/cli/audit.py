"""`heatproof audit METHOD`. No torch until it runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import index, specs, user_code
from heatproof.cli import terminal
from heatproof.data.opening import check as check_data
from heatproof.errors import HeatproofError, InputError
from heatproof.pages.folder import check_folder

if TYPE_CHECKING:
    from heatproof.auditing.result import Audit
    from heatproof.auditing.run import Auditor

VIOLATED, NOT_ESTABLISHED = 1, 3


def audit(
    method: Annotated[
        str,
        typer.Argument(
            help="A catalogue name, `all`, or FILE.py:NAME, code of your own: a function "
            "(image, prompt) -> map, or a function of the model that returns one. Several with "
            "commas."
        ),
    ],
    switches: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SWITCH=VALUE", help="A switch of the method; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option(help="See `heatproof models`.")] = "scenes",
    data: Annotated[
        str | None,
        typer.Option(
            help="scenes, a folder of pictures with masks, or KIND:PATH (docs/data.md).",
            show_default="scenes for the embedded model, otherwise none",
        ),
    ] = None,
    principle: Annotated[
        list[int] | None, typer.Option(help="1 or 2 alone; both by default.", min=1, max=2)
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=20, help="How many pictures principle 2 is measured on.")
    ] = 300,
    budget: Annotated[
        int,
        typer.Option(min=1, help="Forward passes that principle 2 may take per method."),
    ] = 100_000,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("audit"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Decides whatever is left to chance.")] = 0,
    allow_violations: Annotated[
        bool, typer.Option("--allow-violations", help="Exit with 0 where checks are violated.")
    ] = False,
) -> None:
    """Check METHOD against two principles: explain the model itself, follow its performance.

    Writes audit.html and audit.json; with several methods, one folder per method and a league
    table. Exit codes: 0 every principle that was asked for is established, 1 one is violated, 3
    neither, 2 bad input; of several methods, the worst. Methods that are already in the folder,
    for the same model and settings, are not audited again.
    """
    given = terminal.switches(switches)
    own, named = _asked(method, given)
    specs.check(model)
    if data is not None:
        check_data(data)
    check_folder(out)
    with terminal.working(f"loading {model}") as say:
        from heatproof.auditing.run import Auditor
        from heatproof.models import load

        loaded = load(model, device=device)
        auditor = Auditor(
            loaded, data, principles=principle or (1, 2), scenes=pictures, seed=seed, budget=budget
        )
        chosen = _chosen(own, named, auditor)
        if len(chosen) == 1:
            audits, left_out = [auditor.audit(next(iter(chosen.values())), progress=say)], 0
            page = audits[0].save(out)
        else:
            with terminal.kept(out):
                audits, page = _many(auditor, chosen, out, say)
            left_out = len(chosen) - len(audits)
    typer.echo(f"page: {page}")
    for found in audits:
        _tell(found, len(audits) == 1)
    states = [found.holds for found in audits] + [None] * left_out
    if len(states) > 1:
        typer.echo(_count(states, left_out))
    raise typer.Exit(_code(states, allow_violations))


def _code(states: Sequence[bool | None], allow_violations: bool) -> int:
    """The worst of them: one violation, else one method that is not established."""
    if False in states and not allow_violations:
        return VIOLATED
    return NOT_ESTABLISHED if None in states else 0


def _count(states: Sequence[bool | None], left_out: int) -> str:
    told = f" ({left_out} of them left out)" if left_out else ""
    return (
        f"{len(states)} methods: {states.count(True)} established, {states.count(False)} violated, "
        f"{states.count(None)} not established{told}"
    )


def _asked(given: str, switches: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Code of the user's own by its name, and methods by theirs with their switches; all that can
    be checked before torch is imported."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    own = {name.rpartition(":")[2]: name for name in names if user_code.is_user_code(name)}
    named = [name for name in names if not user_code.is_user_code(name)]
    if len(own) + len(named) < len(names) or set(own) & set(named):
        raise InputError("two methods have the same name; name them apart in their files")
    for text in own.values():
        user_code.check(text)
    if own and not named and switches:
        raise InputError("code of your own has no switches; leave --set out")
    return own, {} if own and not named else index.chosen_methods(",".join(named), switches)


def _chosen(own: dict[str, str], named: dict[str, Any], auditor: "Auditor") -> dict[str, Any]:
    """Method objects by the name of their folder."""
    from heatproof import methods

    return {
        **{name: user_code.load(text, auditor.model) for name, text in own.items()},
        **{name: methods.create(name, **switches) for name, switches in named.items()},
    }


def _many(
    auditor: "Auditor", chosen: dict[str, Any], out: Path, say: Callable[[str], None]
) -> tuple[list["Audit"], Path]:
    """Each method in a folder of its own; what is there already for the same question stays."""
    from heatproof.auditing.page import save_league

    audits: list[Audit] = []
    for number, (name, method) in enumerate(chosen.items(), 1):
        say(f"{name} ({number} of {len(chosen)})")
        kept = _kept(out / name, auditor, method)
        if isinstance(kept, str):
            typer.echo(f"notice: {terminal.one_line(kept)}", err=True)
            kept = None
        if kept is None:
            try:
                kept = auditor.audit(method, progress=say)
            except HeatproofError as error:
                told = terminal.one_line(str(error))
                typer.echo(f"notice: {name} is left out: {told}", err=True)
                continue
            kept.save(out / name)
        audits.append(kept)
    if not audits:
        raise InputError("no method could be audited on this model; see the notices above")
    return audits, save_league(audits, out)


def _kept(folder: Path, auditor: "Auditor", method: Any) -> "Audit | str | None":
    """The audit that an earlier run left for this very question; or why it cannot be read."""
    from heatproof.auditing.result import from_json

    path = folder / "audit.json"
    try:
        found = from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({type(error).__name__}); {folder.name} is audited again"
    same = (found.settings, found.model, found.question) == (
        method.settings(),
        auditor.model.spec,
        auditor.question,
    )
    made_by = auditor.environment
    alike = all(
        found.environment.get(key) == made_by[key] for key in ("weights_sha256", "code_sha256")
    )
    return found if same and alike else None


def _tell(found: "Audit", whole: bool) -> None:
    if not whole:
        typer.echo(terminal.one_line(found.sentence))
        return
    for notice in found.notices:
        typer.echo(f"notice: {terminal.one_line(notice)}", err=True)
    wide = max(len(finding.check) for finding in found.findings) if found.findings else 0
    for principle, findings in _by_principle(found.findings).items():
        typer.echo(f"principle {principle}: {found.verdict(principle)}")
        for finding in findings:
            verdict = "VIOLATED" if finding.verdict == "violated" else finding.verdict
            typer.echo(f"  {finding.check:<{wide}}  {verdict:<14}  {finding.evidence}")
    typer.echo(terminal.one_line(found.sentence))


def _by_principle(findings: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for finding in findings:
        found.setdefault(finding.principle, []).append(finding)
    return found
