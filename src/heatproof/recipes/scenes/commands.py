"""`heatproof scenes`: draw scenes, train the reference model, measure its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="scenes",
    help="Render scenes; train and measure the embedded model.",
    no_args_is_help=True,
)


@app.command("render")
def render_files(
    folder: Annotated[Path, typer.Argument(help="Output folder.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the first scene; the next ones count up.")] = 1
    << 60,
    pixels: Annotated[
        int, typer.Option(min=16, help="Height and width of the images, in pixels.")
    ] = 64,
    objects: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="Objects per scene.", show_default="1 to 4, at random"),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Only colour and shape pairs that training never showed."),
    ] = False,
) -> None:
    """Write images, masks and captions.

    PNG files, instances.json in COCO's format, and captions.json."""
    from heatproof.data.scenes import SceneDataset, write

    combinations = "held-out" if held_out else "trained"
    dataset = SceneDataset(
        count, first=seed, pixels=pixels, objects=objects, combinations=combinations
    )
    write(dataset, folder)
    typer.echo(f"{count} scenes in {folder}")


@app.command()
def train(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the run; a stopped run in it is resumed.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 4000,
    decay: Annotated[
        int, typer.Option(min=0, help="Number of last steps, in which the learning rate falls.")
    ] = 1200,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes, of one thread each.")
    ] = 2,
    batch: Annotated[int, typer.Option(min=8, help="Scenes per step and worker.")] = 32,
    seed: Annotated[int, typer.Option(help="Random seed of weights, scenes and captions.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda with one worker.")] = "cpu",
    start: Annotated[Path | None, typer.Option(help="Folder of another run to start from.")] = None,
    cue: Annotated[
        str,
        typer.Option(help="What decides the shape words: shape, or a planted shortcut."),
    ] = "shape",
) -> None:
    """Train the embedded model, or resume a stopped run."""
    from heatproof.data.scenes.cues import CUES
    from heatproof.recipes.scenes.recipe import Settings
    from heatproof.recipes.scenes.recipe import train as run

    if cue not in CUES:
        typer.echo(f"got cue {cue!r}, expected {', '.join(CUES)}", err=True)
        raise typer.Exit(2)
    settings = Settings(
        steps=steps,
        decay=decay,
        workers=workers,
        batch=batch,
        seed=seed,
        cue=cue,
        # The held-out pairs are of drawn shapes; a cue's words have no part in them.
        withhold=cue in ("shape", "swapped"),
    )
    try:
        run(folder, settings, device=device, start=start)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def release(
    folders: Annotated[
        list[Path],
        typer.Argument(help="A finished run, preceded by the runs that it started from."),
    ],
    step: Annotated[
        list[int],
        typer.Option(help="Training step whose snapshot joins the graded family; repeatable."),
    ],
    hardware: Annotated[str, typer.Option(help="Hardware that it ran on, in words.")],
) -> None:
    """Copy a run's weights into the package.

    The final weights, and the snapshots named by --step."""
    from heatproof.recipes.scenes.release import release as put

    put(folders, step, hardware)


@app.command()
def sibling(
    folder: Annotated[Path, typer.Argument(help="A finished run.")],
    name: Annotated[str, typer.Argument(help="Its name: seed-N, shortcut-CUE or swapped.")],
    hardware: Annotated[str, typer.Option(help="Hardware that it ran on, in words.")],
) -> None:
    """Copy a run's weights into the package, beside the embedded model: scenes:NAME."""
    from heatproof.recipes.scenes.release import release_sibling

    release_sibling(folder, name, hardware)


@app.command()
def card(
    count: Annotated[int, typer.Option(min=10, help="Scenes per measured number.")] = 2000,
    family_count: Annotated[
        int, typer.Option(min=10, help="The same, for the graded family.")
    ] = 1000,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write card.json to this file.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Also write scenes.md and its figure into this folder.")
    ] = None,
) -> None:
    """Measure the embedded model on new scenes."""
    import json
    import shutil
    import tempfile

    from heatproof import extras

    if docs is not None:
        extras.require("report")
    from heatproof.models.scenes import CARD
    from heatproof.recipes.scenes.card import draw_curve, family_table, markdown, table, update

    with tempfile.TemporaryDirectory() as scratch:
        # The shipped card stays as it is unless it is the file asked for.
        path = Path(scratch) / "card.json"
        shutil.copy(CARD, path)
        measured = update(path, count=count, family_count=family_count)
    for name, rows in measured["figures"].items():
        typer.echo(f"\n{name}\n{table(rows)}")
    typer.echo(f"\nfamily\n{family_table(measured['family'])}")
    if output is not None:
        output.write_text(json.dumps(measured, indent=1) + "\n")
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "scenes.md").write_text(markdown(measured))
        draw_curve(measured, docs / "scenes-curve.svg")
