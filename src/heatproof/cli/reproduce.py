"""`heatproof reproduce -o out/`. No torch until it runs."""

import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from heatproof import index, specs
from heatproof.cli import terminal
from heatproof.errors import InputError, UnknownName
from heatproof.pages.folder import check_folder

NOTHING_MEASURED = 3
Watch = Callable[[str, int, int], None]


def reproduce(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the page; a run goes on in it.")
    ] = Path("out"),
    model: Annotated[
        str | None,
        typer.Option(help="See `heatproof models`.", show_default="scenes, the embedded model"),
    ] = None,
    imagenet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="ImageNet's validation set, a folder a class."),
    ] = None,
    imagenet_s: Annotated[
        Path | None, typer.Option("--imagenet-s", metavar="DIR", help="ImageNet-S, with its masks.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(metavar="DIR", help="COCO: annotations/ and val2017/.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(min=4, help="ImageInputs and captions of each kind.", show_default="1000"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="24 pictures: does it run?")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides whatever is left to chance.")] = 0,
    only: Annotated[
        str | None, typer.Option(metavar="a,b,...", help="Some of the experiments a to e.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Run the claims of arXiv 2605.12952 on a model, as tables and figures.

    Rendered scenes unless folders are given. What is done is kept in OUT/parts: a run that was
    stopped goes on. Writes reproduce.html, reproduce.json and figures/*.png. Exit codes: 0 at least
    one claim was measured, 3 none was, 2 bad input.
    """
    letters = tuple(each.strip() for each in (only or "").split(",") if each.strip())
    for letter in letters:
        if letter not in index.EXPERIMENTS:
            raise UnknownName("experiment", letter, index.EXPERIMENTS)
    specs.check(model or "scenes")
    folders = {"ImageNet": imagenet, "ImageNet-S": imagenet_s, "COCO": coco}
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is no folder; expected {name}; check the path")
    check_folder(out)
    with _watching() as watch:
        from heatproof.recipes.grad_eclip_paper.reproducing import Order, run

        order = Order(
            model or "scenes", imagenet, imagenet_s, coco, images, quick, seed, letters, device
        )
        with terminal.kept(out / "parts"):
            result = run(order, out, watch)
    for each in result["conclusions"]:
        typer.echo(f"{each['verdict']:<12}  ({each['section']}) {each['claim']}")
    typer.echo(f"page: {out / 'reproduce.html'}")
    verdicts = Counter(each["verdict"] for each in result["conclusions"])
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    typer.echo(f"{verdicts.total()} claims: {told or 'none was measured'}")
    if verdicts.total() == verdicts["not measured"]:
        raise typer.Exit(NOTHING_MEASURED)


@contextmanager
def _watching() -> Generator[Watch]:
    """A bar for what is being done, where somebody watches; one line each elsewhere."""
    if not sys.stderr.isatty():
        last: list[str] = []

        def say(doing: str, done: int, of: int) -> None:
            del done, of
            if last != [doing]:
                last[:] = [doing]
                typer.echo(doing, err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    count = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), count,
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        tasks: dict[str, object] = {}

        def show(doing: str, done: int, of: int) -> None:
            if doing not in tasks:
                tasks[doing] = progress.add_task(doing, total=of)
            progress.update(tasks[doing], completed=done, total=of)  # pyright: ignore[reportArgumentType]

        yield show
