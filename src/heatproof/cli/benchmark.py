"""`heatproof benchmark`. Names and files are checked before torch is imported."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import checking, extras, index, specs, user_code
from heatproof.cli import options, terminal
from heatproof.data.opening import check as check_data
from heatproof.errors import InputError
from heatproof.pages.folder import check_folder

if TYPE_CHECKING:
    from heatproof.benchmarking.run import BenchmarkProgress

LINE_INTERVAL = 30.0
"""Seconds between two lines of progress where stderr is not a terminal."""


def benchmark(
    methods: Annotated[
        str, typer.Option(help="See `heatproof methods`; several with commas, or `all`.")
    ] = "all",
    metrics: Annotated[
        str,
        typer.Option(
            help="main, all, or names with commas (see docs/metrics.md); options as "
            "NAME:OPTION=VALUE."
        ),
    ] = "main",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="scenes|FOLDER|KIND:PATH",
            help="Images with masks (see docs/data.md).",
            show_default="scenes for the embedded model",
        ),
    ] = None,
    model: options.ModelSpec = options.DEFAULT_MODEL,
    images: Annotated[
        int | None,
        typer.Option(help="Most images to use.", show_default="all; 500 scenes"),
    ] = None,
    seed: options.Seed = 0,
    batch_size: Annotated[
        int, typer.Option(help="Images per batch, perturbed ones included.")
    ] = 32,
    device: options.Device = "cpu",
    engine: options.Engine = "local",
    workers: options.Workers = 1,
    address: options.Address = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.OPTION=VALUE", help="Option of a method; repeatable."
        ),
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your own method: a function (image, prompt) -> map, a function of the model that "
            "returns one, or a Method; repeatable. The file is executed.",
        ),
    ] = None,
    out: options.ResumableFolder = Path("benchmark"),
) -> None:
    """Measure how good the maps of several methods are.

    All methods are measured on one model and one data set. Images on which the model is right and
    images on which it is wrong are never averaged together. Writes report.html, table.md,
    table.tex, benchmark.json, values.parquet and curves.parquet. Finished parts are kept in
    OUT/parts: the same command resumes a stopped run.

    Example: heatproof benchmark --methods gae,rollout --images 100

    Exit codes:

    \b
      0  measured
      2  bad input
      3  no method has a value in any metric
    """
    given = terminal.parse_options(settings)
    _check(methods, metrics, given, entry or [])
    specs.check(model)
    extras.require("benchmark")
    if data is not None:
        check_data(data)
    check_folder(out)
    checking.pool(engine, workers, address)
    if engine == "ray":
        extras.require("ray")
    with terminal.working(f"loading {model}") as say:
        from heatproof.benchmarking.result import benchmark as run
        from heatproof.models import load

        loaded = load(model, device=device)
        own = {source: user_code.FromFile(source) for source in entry or []}
        chosen = _choose(methods, own)
        with terminal.resumable(out / "parts"):
            result = run(
                chosen,
                loaded,
                data,
                metrics=metrics,
                images=images,
                seed=seed,
                batch_size=batch_size,
                engine=engine,
                workers=workers,
                address=address,
                options=given,
                out=out,
                progress=_progress(say),
            )
    _summarise(result.summary, out)
    if not _has_values(result.summary):
        typer.echo("nothing was measured: no method has a value in any metric; see the notices")
        raise typer.Exit(terminal.NOT_ESTABLISHED)


def _has_values(summary: dict[str, Any]) -> bool:
    """Return whether a method other than the controls has a value in some metric."""
    # Controls have values in almost every metric, even if no method that was asked for has one.
    controls = {method["label"] for method in summary["methods"] if method["control"]}
    tables = [table for metric in summary["metrics"] for table in metric["tables"].values()]
    rows = [row for table in tables for row in table if row["method"] not in controls]
    return any(row["mean"]["value"] is not None for row in rows)


def _check(methods: str, metrics: str, settings: dict[str, str], entries: Sequence[str]) -> None:
    """Check names, options and files, before torch is imported."""
    for name in _names(methods):
        # Options are given as METHOD.OPTION=VALUE.
        own = [key for key in settings if key.rpartition(".")[0] == name]
        index.check("method", name, {key.rpartition(".")[2]: settings[key] for key in own})
    for name in _names(metrics):
        index.check("metric", *index.parse_metric(name))
    for entry in entries:
        user_code.check(entry)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name not in ("", "all", "main")]


def _choose(methods: str, own: dict[str, Any]) -> Any:
    """Return the methods to run: `--entry` adds the user's own to those of `--methods`."""
    if not own:
        return methods
    labels = [source.rpartition(":")[2] for source in own]
    if len(set(labels)) < len(labels):
        raise InputError("two entries have the same name; rename one of the functions")
    from heatproof.benchmarking.request import method_entries

    named = method_entries(methods) if methods else []
    return {
        **dict(zip(labels, own.values(), strict=True)),
        **{entrant.label: entrant.label for entrant in named},
    }


def _progress(say: Callable[[str], None]) -> "Callable[[BenchmarkProgress], None]":
    """Return a callback that updates the spinner, or prints a line now and then into a log."""
    # A log file gets whole lines, and not one per image.
    if sys.stderr.isatty():
        return lambda progress: say(str(progress))
    last = time.monotonic()

    def tell(progress: "BenchmarkProgress") -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL:
            last = time.monotonic()
            typer.echo(str(progress), err=True)

    return tell


def _summarise(summary: dict[str, Any], out: Path) -> None:
    from heatproof.benchmarking.summary_text import headline, stable

    for notice in summary["notices"]:
        terminal.notice(notice)
    for missing in summary["left_out"]:
        pair = " x ".join(name for name in (missing["method"], missing["metric"]) if name)
        terminal.notice(f"{pair} is left out: {missing['reason']}")
    for line in (*headline(summary), *stable(summary)):
        typer.echo(line)
    typer.echo(f"page: {out / 'report.html'}")
