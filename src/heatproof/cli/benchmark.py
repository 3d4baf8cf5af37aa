"""`heatproof benchmark -o out/`. No torch until it runs."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatproof import index, specs, user_code
from heatproof.cli import terminal
from heatproof.data.opening import check as check_data
from heatproof.errors import InputError
from heatproof.pages.folder import check_folder

if TYPE_CHECKING:
    from heatproof.benchmarking.run import Progress

NOTHING_MEASURED = 3
EVERY = 30.0  # seconds between two lines of progress, where nobody watches


def benchmark(
    methods: Annotated[
        str, typer.Option(help="See `heatproof methods`; several with commas, or `all`.")
    ] = "all",
    metrics: Annotated[
        str,
        typer.Option(help="main, all, or names with commas; switches as NAME:SWITCH=VALUE."),
    ] = "main",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="scenes|FOLDER|KIND:PATH",
            help="ImageInputs with masks.",
            show_default="scenes for the embedded model",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="See `heatproof models`.")] = "scenes",
    images: Annotated[
        int | None,
        typer.Option(help="How many pictures at most.", show_default="all; 500 scenes"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides whatever is left to chance.")] = 0,
    batch_size: Annotated[
        int, typer.Option(help="ImageInputs that go through together, perturbed ones too.")
    ] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    switches: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.SWITCH=VALUE", help="A switch of a method; repeatable."
        ),
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="Your own: a function (image, prompt) -> map, a function of the model that "
            "returns one, or a Method; repeatable. The file is run.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the files; a run goes on in it.")
    ] = Path("benchmark"),
) -> None:
    """Measure methods by metrics on a model, from one pass over the pictures.

    Writes report.html, table.md, table.tex, benchmark.json, values.parquet and curves.parquet. What
    is measured is kept in OUT/parts: a run that was stopped goes on. Exit codes: 0 measured, 3 no
    method has a value in any metric, 2 bad input.
    """
    set_to = terminal.switches(switches)
    _check(methods, metrics, set_to, entry or [])
    specs.check(model)
    if data is not None:
        check_data(data)
    check_folder(out)
    with terminal.working(f"loading {model}") as say:
        from heatproof.benchmarking.result import benchmark as run
        from heatproof.models import load
        from heatproof.user_code import load as load_code

        loaded = load(model, device=device)
        own = {name: load_code(name, loaded) for name in entry or []}
        chosen = _chosen(methods, own)
        with terminal.kept(out / "parts"):
            result = run(
                chosen,
                loaded,
                data,
                metrics=metrics,
                images=images,
                seed=seed,
                batch_size=batch_size,
                switches=set_to,
                out=out,
                progress=_told(say),
            )
    _summarise(result.summary, out)
    if not _measured(result.summary):
        typer.echo("nothing was measured: no method has a value in any metric; see the notices")
        raise typer.Exit(NOTHING_MEASURED)


def _measured(summary: dict[str, Any]) -> bool:
    """Whether a method that is no control has a value in some metric."""
    controls = {each["label"] for each in summary["methods"] if each["control"]}
    tables = [table for metric in summary["metrics"] for table in metric["tables"].values()]
    rows = [row for table in tables for row in table if row["method"] not in controls]
    return any(row["mean"]["value"] is not None for row in rows)


def _check(methods: str, metrics: str, switches: dict[str, str], entries: Sequence[str]) -> None:
    """Names, switches and files, before torch is imported."""
    for name in _names(methods):
        own = [key for key in switches if key.rpartition(".")[0] == name]
        index.check("method", name, {key.rpartition(".")[2]: switches[key] for key in own})
    for name in _names(metrics):
        index.check("metric", *index.parse_metric(name))
    for entry in entries:
        user_code.check(entry)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name not in ("", "all", "main")]


def _chosen(methods: str, own: dict[str, Any]) -> Any:
    """Names and own entries; with `--entry`, `--methods` says what they are compared with."""
    if not own:
        return methods
    labels = [name.rpartition(":")[2] for name in own]
    if len(set(labels)) < len(labels):
        raise InputError("two entries have the same name; name them apart in their files")
    from heatproof.benchmarking.request import entrants

    named = entrants(methods) if methods else []
    return {
        **dict(zip(labels, own.values(), strict=True)),
        **{each.label: each.label for each in named},
    }


def _told(say: Callable[[str], None]) -> "Callable[[Progress], None]":
    """The words beside the spinner where somebody watches, a line now and then elsewhere."""
    if sys.stderr.isatty():
        return lambda progress: say(str(progress))
    last = [time.monotonic()]

    def tell(progress: "Progress") -> None:
        if time.monotonic() - last[0] >= EVERY:
            last[0] = time.monotonic()
            typer.echo(str(progress), err=True)

    return tell


def _summarise(summary: dict[str, Any], out: Path) -> None:
    from heatproof.benchmarking.summary_text import headline, stable

    for notice in summary["notices"]:
        typer.echo(f"notice: {terminal.one_line(notice)}", err=True)
    for each in summary["left_out"]:
        what = " x ".join(name for name in (each["method"], each["metric"]) if name)
        typer.echo(f"notice: {what} is left out: {terminal.one_line(each['reason'])}", err=True)
    for line in (*headline(summary), *stable(summary)):
        typer.echo(line)
    typer.echo(f"page: {out / 'report.html'}")
