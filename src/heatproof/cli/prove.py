"""`heatproof prove A B`. Names are checked before torch is imported."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from heatproof import extras, index, specs
from heatproof.cli import options, terminal
from heatproof.errors import InputError
from heatproof.pages.folder import check_folder


def prove(
    a: Annotated[
        str | None,
        typer.Argument(
            help="First method: NAME or NAME:OPTION=VALUE,OPTION=VALUE.",
            metavar="A",
        ),
    ] = None,
    b: Annotated[str | None, typer.Argument(help="Second method.", metavar="B")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="OPTION=VALUE", help="Set an option of both methods; repeatable."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Compare on this model too; repeatable. See `heatproof models`."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for proof.json, proof.md and a counterexample, if any."
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recompute the counterexample in FILE; without A and B."),
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost/--no-cost", help="Measure time and memory of both methods.")
    ] = True,
    cost_model: Annotated[
        str, typer.Option(help="Model to measure them on, such as open_clip:ViT-B-32.")
    ] = options.DEFAULT_MODEL,
    seed: Annotated[
        int, typer.Option(help="Random seed of the small networks for exact arithmetic.")
    ] = 0,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Compare all pairs of methods, in minutes; without A and B. See -o."
        ),
    ] = False,
) -> None:
    """Test whether methods A and B are the same function.

    Three levels: symbolic algebra; exact fractions on small random networks; float64 on models of
    every family. An option that both methods have and that you do not set is tried with all its
    values.

    Example: heatproof prove grad-eclip attention-eclip

    Exit codes:

    \b
      0  proved; with --replay: the recorded difference is reproduced
      1  refuted; with --replay: the recorded difference is not reproduced
      2  bad input
      3  open: not refuted, but no proof is known

    With --all the exit code is 0: every pair has its verdict in OUT/equal_methods.json.
    """
    if replay is not None:
        if a is not None:
            raise InputError(f"got {a!r} and --replay; the file names its methods, leave out {a!r}")
        raise typer.Exit(_replay(replay))
    if everything:
        if a is not None:
            raise InputError(f"got {a!r} and --all, which compares all methods; leave out {a!r}")
        if out is not None:
            check_folder(out)
        extras.require("prove")
        raise typer.Exit(_all_pairs(out))
    # Both are optional only because --replay and --all stand without them.
    if a is None or b is None:
        raise InputError("expected two methods; try: heatproof prove grad-eclip attention-eclip")
    given = terminal.parse_options(settings)
    for name, own in (index.parse(side) for side in (a, b)):
        index.check("method", name, own)
    for spec in (*(model or []), cost_model):
        specs.check(spec)
    if out is not None:
        check_folder(out)
    extras.require("prove")
    arguments = {"options": given, "models": model or [], "seed": seed}
    raise typer.Exit(_prove(a, b, {**arguments, "cost": cost, "cost_model": cost_model}, out))


def _prove(a: str, b: str, arguments: dict[str, Any], out: Path | None) -> int:
    with terminal.working() as say:
        from heatproof.proofs import prove_methods

        def report(text: str) -> None:
            # A level that has ended stays on the screen; what runs now is the spinner's.
            if text.startswith(prove_methods.LEVEL_ENDS):
                typer.echo(text, err=True)
            else:
                say(text)

        proof = prove_methods.prove(a, b, progress=report, **arguments)
        files = [] if out is None else proof.save(out)
    for line in proof.lines():
        typer.echo(line)
    for file in files:
        typer.echo(f"wrote {file}")
        if file.name.startswith("counterexample"):
            typer.echo(f"  replay: heatproof prove --replay {file}")
    return proof.exit_code


def _all_pairs(out: Path | None) -> int:
    with terminal.working("comparing all methods"):
        from heatproof.proofs import all_pairs

        results = all_pairs.all_pairs(say=lambda text: typer.echo(text, err=True))
    for result in results:
        if result.relation not in ("refuted", "not comparable"):
            settings = " and ".join(filter(None, result.settings)) or "at their defaults"
            proved = "proved for all sizes" if result.proved else f"on {result.models} models"
            typer.echo(f"{result.relation}: {' = '.join(result.names)} ({settings}; {proved})")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        file = out / "equal_methods.json"
        file.write_text(json.dumps(all_pairs.plain(results), indent=1) + "\n", "utf-8")
        typer.echo(f"wrote {file}")
    return terminal.DONE


def _replay(file: Path) -> int:
    with terminal.working(f"replaying {file}"):
        from heatproof.proofs.counterexample import replay

        replayed = replay(file)
    verdict = "REPLAYED" if replayed.reproduced else "DOES NOT REPLAY"
    typer.echo(f"{verdict}: difference {replayed.difference}; {replayed.reason}")
    return terminal.DONE if replayed.reproduced else terminal.FAILED
