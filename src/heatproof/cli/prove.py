"""`heatproof prove A B`. No torch until it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from heatproof import index, specs
from heatproof.cli import terminal
from heatproof.errors import InputError
from heatproof.pages.folder import check_folder

NOT_REPLAYED = 1


def prove(
    a: Annotated[
        str | None, typer.Argument(help="A method: NAME or NAME:SWITCH=VALUE,...", metavar="A")
    ] = None,
    b: Annotated[str | None, typer.Argument(help="The other one.", metavar="B")] = None,
    switches: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SWITCH=VALUE", help="On both sides; repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A further model to compare on; repeatable. See `heatproof models`."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for proof.json, proof.md, counterexamples."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compute a counterexample again.")
    ] = None,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Measure either side.")] = True,
    cost_model: Annotated[
        str, typer.Option(help="Where to: open_clip:ViT-B-32 for a true size.")
    ] = "scenes",
    seed: Annotated[int, typer.Option(help="Of the random exact networks.")] = 0,
) -> None:
    """Say whether method A is the same function as method B, and prove it.

    By algebra, in exact arithmetic, and on models in float64. Switches that both have and neither
    names are run over all their values. Exits with 0 proved, 1 refuted, 3 open (not refuted, but
    no proof is known), 2 where the input is at fault; --replay exits with 0 where the recorded
    difference comes out again, 1 where it does not.
    """
    if replay is not None:
        if a is not None:
            raise InputError(f"got {a!r} beside --replay, which names its methods itself")
        raise typer.Exit(_replay(replay))
    if a is None or b is None:
        raise InputError("expected two methods; try: heatproof prove grad-eclip attention-eclip")
    given = terminal.switches(switches)
    for name, own in (index.parse(side) for side in (a, b)):
        index.check("method", name, own)
    for spec in (*(model or []), cost_model):
        if not spec.startswith(specs.SPECIMEN):
            specs.check(spec)
    if out is not None:
        check_folder(out)
    raise typer.Exit(_prove(a, b, given, model or [], out, cost, cost_model, seed))


def _prove(
    a: str,
    b: str,
    switches: dict[str, str],
    models: list[str],
    out: Path | None,
    cost: bool,
    cost_model: str,
    seed: int,
) -> int:
    with terminal.working() as say:
        from heatproof.proofs import page, prove_methods

        settings: dict[str, Any] = {"cost": cost, "cost_model": cost_model, "seed": seed}
        proof = prove_methods.prove(
            a, b, switches=switches, models=models, progress=say, **settings
        )
        files = [] if out is None else page.save(proof, out)
    for line in page.summary(proof):
        typer.echo(line)
    for file in files:
        typer.echo(f"wrote {file}")
        if file.name.startswith("counterexample"):
            typer.echo(f"  replay: heatproof prove --replay {file}")
    return proof.exit_code


def _replay(file: Path) -> int:
    with terminal.working() as say:
        say(f"replaying {file}")
        from heatproof.proofs.counterexample import replay

        found = replay(file)
    said = "REPLAYED" if found.reproduced else "DOES NOT REPLAY"
    typer.echo(f"{said}: difference {found.difference}; {found.reason}")
    return 0 if found.reproduced else NOT_REPLAYED
