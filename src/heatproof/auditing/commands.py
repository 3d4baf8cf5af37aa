"""`heatproof audit METHOD`. No torch until it runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import terminal
from heatproof.errors import HeatproofError, InputError

if TYPE_CHECKING:
    from heatproof.auditing.auditor import Auditor
    from heatproof.auditing.result import Audit

VIOLATED = 1


def audit(
    method: Annotated[
        str,
        typer.Argument(
            help="A catalogue name, several with commas, `all`, or FILE.py:FUNCTION, a function "
            "that is given the model and returns a callable (picture, prompt) -> map."
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
        float, typer.Option(min=1, help="Seconds a method that principle 2 may take.")
    ] = 600,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("audit"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Decides whatever is left to chance.")] = 0,
    allow_violations: Annotated[
        bool, typer.Option("--allow-violations", help="Exit with 0 although checks are violated.")
    ] = False,
) -> None:
    """Hold METHOD to the two principles: explain the model itself, follow its performance.

    Writes audit.html and audit.json; with several methods, a folder each and the league table.
    Exits with 0 where nothing is violated, 1 where something is, 2 where the input is at fault.
    Of several methods, those that are already in the folder for the same model and settings are
    not audited again.
    """
    given = terminal.switches(switches)
    with terminal.working(f"loading {model}") as say:
        from heatproof.auditing.auditor import Auditor
        from heatproof.models import load
        from heatproof.report.folder import check_folder

        check_folder(out)
        loaded = load(model, device=device)
        auditor = Auditor(
            loaded, data, principles=principle or (1, 2), scenes=pictures, seed=seed, budget=budget
        )
        chosen = _chosen(method, given, auditor)
        if len(chosen) == 1:
            audits = [auditor.audit(next(iter(chosen.values())), progress=say)]
            page = audits[0].save(out)
        else:
            with terminal.kept(out):
                audits, page = _many(auditor, chosen, out, say)
    for found in audits:
        _tell(found, len(audits) == 1)
    typer.echo(f"page: {page}")
    if not allow_violations and not all(found.holds for found in audits):
        raise typer.Exit(VIOLATED)


def _chosen(names: str, switches: dict[str, str], auditor: "Auditor") -> dict[str, Any]:
    """Method objects by the name of their folder."""
    from heatproof import methods
    from heatproof.auditing.stranger import is_stranger, load_stranger

    if is_stranger(names):
        if switches:
            raise InputError("code from outside has no switches; leave --set out")
        return {"stranger": load_stranger(names, auditor.model)}
    known = methods.catalogue()
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if names == "all":
        asked = [name for name, entry in known.items() if "image" in entry.sides]
    if not asked:
        raise InputError("got no method; try: heatproof audit grad-eclip")
    for name in asked:
        methods.create(name)
    if len(asked) > 1:
        own = {n: {k: v for k, v in switches.items() if k in known[n].switches} for n in asked}
        if any(not any(key in each for each in own.values()) for key in switches):
            raise InputError("none of these methods has such a switch; see heatproof methods")
        return {name: methods.create(name, **own[name]) for name in asked}
    return {asked[0]: methods.create(asked[0], **switches)}


def _many(
    auditor: "Auditor", chosen: dict[str, Any], out: Path, say: Callable[[str], None]
) -> tuple[list["Audit"], Path]:
    """Each method in a folder of its own; what is there already for the same question stays."""
    from heatproof.report.audit_page import save_league

    audits: list[Audit] = []
    for number, (name, method) in enumerate(chosen.items(), 1):
        say(f"{name} ({number} of {len(chosen)})")
        kept = _kept(out / name, auditor, method)
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


def _kept(folder: Path, auditor: "Auditor", method: Any) -> "Audit | None":
    """The audit that an earlier run left for this very question."""
    from heatproof.auditing.result import from_json

    try:
        stored = json.loads((folder / "audit.json").read_text())
        found = from_json(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
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
