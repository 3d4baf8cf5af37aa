"""`heatproof run SOURCE ...`. Arguments are checked before torch is imported."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import checking, extras, index, specs
from heatproof.cli import options, terminal
from heatproof.errors import InputError, PromptError

if TYPE_CHECKING:
    from heatproof.runs.engine import Engine
    from heatproof.runs.run import RunResult
    from heatproof.runs.watching import Tally

LINE_INTERVAL = 30.0
"""Seconds between two lines of progress where stderr is not a terminal."""


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, globs, manifests (.csv, .parquet, .jsonl), WebDataset .tar "
            "shards, data sets saved by `datasets`; local or any fsspec address.",
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Text to explain; repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts, one per line.")
    ] = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of each image's own prompts.",
            show_default="prompts or prompt, where a manifest has it",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names or prompts, one per line: each image is explained for those that "
            "the model scores highest.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many of the classes.")] = 1,
    template: Annotated[
        str, typer.Option(help="Makes a prompt of a class name: {} stands for it.")
    ] = "{}",
    out: Annotated[
        str, typer.Option("--out", "-o", help="The store; a stopped run in it is resumed.")
    ] = "store",
    model: options.ModelSpec = options.DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help="See `heatproof methods`; several with commas.")
    ] = index.PURPOSES[0],
    settings: options.MethodOptions = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="What to explain: cosine, logit, margin, contrast:OTHER, sigmoid-logit or "
            "class-logit.",
            show_default="cosine; class-logit for a classifier",
        ),
    ] = None,
    engine: options.Engine = "local",
    address: options.Address = None,
    actors: Annotated[
        str,
        typer.Option(metavar="N|MIN:MAX", help="Ray actors that hold a model; they autoscale."),
    ] = "1",
    device: Annotated[
        str,
        typer.Option(help="cpu, cuda or cuda:1; several with commas, a process each (cpu,cpu)."),
    ] = "cpu",
    workers: Annotated[
        int, typer.Option(help="Processes that decode images, per device; 0: one thread.")
    ] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per batch.", show_default="8 to 64, by what an image costs; 32 on a device"
        ),
    ] = None,
    part: Annotated[
        int, typer.Option(metavar="N", help="Most images per part of the store.")
    ] = 512,
    map_type: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    certify: Annotated[
        bool, typer.Option("--certify/--no-certify", help="Check what the maps explain.")
    ] = True,
    certify_every: Annotated[
        int,
        typer.Option(metavar="N", help="Certify every N-th batch alone; the others stay open."),
    ] = 1,
    image_size: Annotated[
        str, typer.Option(metavar="HxW|native", help="Input size of the model.")
    ] = "native",
    most: Annotated[
        int | None, typer.Option("--images", help="Only the first N.", show_default="all")
    ] = None,
    seed: options.Seed = 0,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PORT",
            help="Counters for Prometheus: a text file, or a port on this machine.",
        ),
    ] = None,
) -> None:
    """Explain many images into a store that other programs read.

    The store is a Parquet data set with a row per image, method and prompt; images that cannot be
    read are rows of its failures table. A run that was stopped, by Ctrl-C, a kill, a full disk or
    a power cut, goes on when the same command is run again.

    Example: heatproof run photos/ -p "a dog" -p "a car" -o store/

    Exit codes:

    \b
      0    all images are explained, all certificates hold
      1    a certificate fails
      2    bad input
      3    images that could not be read, or certificates that are not established
      130  interrupted; the same command goes on
    """
    chosen = index.chosen_methods(method, terminal.parse_options(settings))
    index.check_score(score or "cosine")
    checking.pool(engine, 1, address)
    checking.choice("map_type", map_type, ("float32", "float16"))
    size = checking.image_size(image_size)
    if size == "keep":
        raise InputError("got image size 'keep'; a store has maps of one size; give HxW or native")
    checking.whole("workers", workers, least=0)
    checking.whole("part", part, least=1)
    checking.whole("top", top, least=1)
    checking.whole("certify_every", certify_every, least=1)
    for name, value in (("batch_size", batch_size), ("images", most)):
        if value is not None:
            checking.whole(name, value, least=1)
    checking.seed(seed)
    specs.check(model)
    shared, named = _prompts(prompt, prompts), _lines(classes)
    if shared and (named or prompt_column):
        raise PromptError("got prompts for all images and --classes or --prompt-column; give one")
    if "{}" not in template:
        raise InputError(f"got the template {template!r}, expected one with {{}} in it")
    extras.require("run")
    if engine == "ray":
        extras.require("ray")
    with terminal.working("listing the images"):
        from heatproof.runs.sources import list_items

        items = list_items(sources, prompt_column=prompt_column, most=most)
    if not shared and not named and items[0].prompts is None:
        raise PromptError('got no prompt; try -p "a dog", --prompts FILE or --classes FILE')
    with terminal.working(f"loading {model}") as say:
        from heatproof.models import load
        from heatproof.runs import run as running
        from heatproof.runs.job import PromptPlan
        from heatproof.runs.watching import Metrics

        devices = tuple(name.strip() for name in device.split(","))
        loaded = load(model, device=devices[0])
        request = running.RunRequest(
            store=out,
            items=items,
            # A store is of one method: what a purpose means now is written down.
            methods=tuple(
                (index.meant(name, "image")[0], dict(own)) for name, own in chosen.items()
            ),
            prompts=PromptPlan(
                shared=tuple(shared),
                classes=tuple(template.replace("{}", name) for name in named),
                top=top,
            ),
            score=score,
            image_size=size,
            certified=certify_every if certify else 0,
            batch_size=batch_size,
            seed=seed,
            map_type="float16" if map_type == "float16" else "float32",
            part_items=part,
        )
        job, manifest = running.plan(loaded, request)
        shown = None if metrics is None else Metrics(metrics)
        chosen_engine = _engine(engine, devices, workers, loaded, items, address, actors)
        try:
            with terminal.resumable(out):
                result = running.run(
                    job, manifest, items, chosen_engine, tell=_progress(say), metrics=shown
                )
        finally:
            if shown is not None:
                shown.close()
    _summarise(result, bool(request.certified))


def _prompts(texts: list[str] | None, file: Path | None) -> list[str]:
    """Return the prompts of all images: those of -p, then the lines of a file."""
    every = [*(texts or []), *_lines(file)]
    return checking.prompts(every) if every else []


def _lines(file: Path | None) -> list[str]:
    """Return a file's lines that are not blank."""
    if file is None:
        return []
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); one prompt per line") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{file}: no line in it; expected one prompt per line")
    return list(dict.fromkeys(lines))


def _engine(
    name: str,
    devices: tuple[str, ...],
    workers: int,
    model: Any,
    items: Any,
    address: str | None,
    actors: str,
) -> "Engine":
    if name == "local":
        from heatproof.runs.local import LocalEngine

        return LocalEngine(devices=devices, loaders=workers, model=model, items=items)
    from heatproof.runs.cluster import RayEngine, actors_from

    least, most = actors_from(actors)
    return RayEngine(
        model=model, items=items, address=address, least=least, most=most, device=devices[0]
    )


def _progress(say: Callable[[str], None]) -> "Callable[[Tally], None]":
    """Return a callback that updates the spinner, or prints a line now and then into a log."""
    if sys.stderr.isatty():
        return lambda tally: say(str(tally))
    last = time.monotonic()

    def tell(tally: "Tally") -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL:
            last = time.monotonic()
            typer.echo(str(tally), err=True)

    return tell


def _summarise(result: "RunResult", certified: bool) -> None:
    """Print what the store holds now; the worst of it decides the exit code."""
    tally, store = result.tally, result.store
    for text in result.notices:
        terminal.notice(text)
    if result.failures:
        reasons = store.failures().to_pylist()
        terminal.notice(
            f"{result.failures} images could not be read, first: {reasons[0]['reason']}; all are "
            f"in {store.address}/failures"
        )
    if tally.done:
        per_map = tally.written_bytes / max(1, tally.rows)
        typer.echo(
            f"explained {tally.done - tally.failures} images in {tally.seconds:.1f} s "
            f"({tally.done / tally.seconds:.3g} per second), {per_map:.0f} bytes per map"
        )
    else:
        typer.echo("nothing to do: all images are in the store")
    rows = sum(result.verdicts.values())
    verdicts = ", ".join(f"{name}: {count}" for name, count in sorted(result.verdicts.items()))
    typer.echo(f"store: {store.address} · {rows} maps of {tally.total} images · {verdicts}")
    failing = {"fails", "another backward rule"} & set(result.verdicts)
    if failing and certified:
        raise typer.Exit(terminal.FAILED)
    if result.failures or "not established" in result.verdicts:
        raise typer.Exit(terminal.NOT_ESTABLISHED)
