"""`heatproof store info|export|verify|compact`: look at a store of maps and look after it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from heatproof import checking, extras
from heatproof.cli import terminal
from heatproof.errors import InputError

app = typer.Typer(
    name="store",
    help="Look at a store of maps, check it, export it.",
    no_args_is_help=True,
)
Address = Annotated[str, typer.Argument(metavar="STORE", help="Folder or fsspec address.")]


def _open(address: str) -> Any:
    extras.require("run")
    from heatproof.store.store import open_store

    return open_store(address)


@app.command()
def info(address: Address) -> None:
    """Print what a store holds, and how it was made."""
    store = _open(address)
    run, total = store.run, int(store.manifest["items"])
    done = total - sum(part.stop - part.first for part in store.pending())
    typer.echo(f"{address}: {done} of {total} images{'' if store.complete else ', not complete'}")
    typer.echo(f"model: {run['model']} (weights {run['weights_sha256'][:16]}) on {run['device']}")
    for method in run["methods"]:
        options = ", ".join(f"{name}={value}" for name, value in method["settings"].items())
        typer.echo(f"method: {method['name']}{f' ({options})' if options else ''}")
    prompts = run["classes"] or run["prompts"]
    shown = prompts if isinstance(prompts, str) else ", ".join(prompts[:8])
    more = f" and {len(prompts) - 8} more" if isinstance(prompts, list) and len(prompts) > 8 else ""
    top = f"the best {run['top']} of: " if run["classes"] else ""
    typer.echo(f"prompts: {top}{terminal.one_line(shown)}{more}")
    if not store.parts():
        return
    columns = store.table(["verdict", "map_rounding"])
    counts = columns.column("verdict").value_counts().to_pylist()
    verdicts = ", ".join(f"{own['values']}: {own['counts']}" for own in counts)
    written = sum(store.files.size(f"maps/{part.name}") for part in store.parts())
    rows = columns.num_rows
    typer.echo(f"maps: {rows} · {verdicts} · {written / max(1, rows):.0f} bytes per map")
    typer.echo(f"parts: {len(store.parts())} · failures: {store.failures().num_rows}")
    if run["map_type"] == "float16":
        worst = max(columns.column("map_rounding").to_pylist(), default=0.0)
        typer.echo(f"float16: rounding is at most {worst:.1e} of a map's largest value")


@app.command()
def export(
    address: Address,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("export"),
    most: Annotated[int, typer.Option("--images", help="Most reports to write.")] = 100,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="COLUMN=VALUE", help="Only rows with this value; repeatable."
        ),
    ] = None,
) -> None:
    """Draw overlays and reports of a store's images, with a page that leads to them.

    Example: heatproof store export store/ --where verdict=fails -o failing/
    """
    checking.whole("images", most, least=1)
    store = _open(address)
    from heatproof.store.export import export as draw

    page, left_out = draw(_filtered(store, where or []), out, most)
    for line in left_out:
        terminal.notice(f"{line}; left out")
    typer.echo(f"page: {page}")


def _filtered(store: Any, texts: list[str]) -> Any:
    """Apply COLUMN=VALUE filters, each value read as its column's type."""
    import pyarrow as pa

    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise InputError(f"got --where {text!r}, expected COLUMN=VALUE such as verdict=fails")
        kind = store.schema.field(name).type if name in store.schema.names else pa.string()
        try:
            read = pa.scalar(value).cast(kind).as_py()
        except pa.ArrowException:
            raise InputError(f"got --where {text!r}: {name} has values of type {kind}") from None
        store = store.filter(**{name: read})
    return store


@app.command()
def verify(
    address: Address,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also read every image again and compare its bytes.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged parts; the next run makes them again.")
    ] = False,
) -> None:
    """Read every part of a store: checksums, and that each image has its rows once or a failure.

    Exit codes:

    \b
      0  nothing is wrong, and the store is complete
      1  something is wrong
      3  nothing is wrong, but images are still to do
    """
    store = _open(address)
    from heatproof.store import maintenance

    problems = list(maintenance.verify(store, sources=sources))
    for problem in problems:
        typer.echo(problem.text)
    if problems:
        typer.echo(f"{len(problems)} problems in {len(store.parts())} parts")
        if repair:
            typer.echo(f"{maintenance.repair(store, problems)} parts removed; run again")
        raise typer.Exit(terminal.FAILED)
    left = sum(part.stop - part.first for part in store.pending())
    typer.echo(f"{len(store.parts())} parts are sound; {left} images are still to do")
    if left:
        raise typer.Exit(terminal.NOT_ESTABLISHED)


@app.command()
def compact(
    address: Address,
    images: Annotated[int, typer.Option("--images", help="Most images per part.")] = 65_536,
) -> None:
    """Merge a store's parts into fewer, larger files, which are faster to read."""
    checking.whole("images", images, least=1)
    store = _open(address)
    from heatproof.store.maintenance import compact as merge

    before, after = merge(store, images)
    typer.echo(f"{before} parts before, {after} now")
