"""`heatproof reproduce`. Arguments are checked before torch is imported."""

import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from heatproof import extras, index, specs
from heatproof.cli import options, terminal
from heatproof.errors import InputError, UnknownName
from heatproof.pages.folder import check_folder

Watch = Callable[[str, int, int], None]
"""Progress: what is measured, how many items are done, and of how many."""


def reproduce(
    out: options.ResumableFolder = Path("out"),
    model: options.ModelSpec = options.DEFAULT_MODEL,
    imagenet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="ImageNet's validation set, one folder per class."),
    ] = None,
    imagenet_s: Annotated[
        Path | None, typer.Option("--imagenet-s", metavar="DIR", help="ImageNet-S, with its masks.")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(metavar="DIR", help="COCO: annotations/ and val2017/.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=4, help="Number of images, and of captions, per experiment.", show_default="1000"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="24 images: a smoke test, not evidence.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    only: Annotated[
        str | None, typer.Option(metavar="a,b,...", help="Run only these experiments, of a to e.")
    ] = None,
    device: options.Device = "cpu",
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write numbers, hashes, 50 maps and their parts, for others to check.",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Check a bundle without its weights and images; runs nothing else."
        ),
    ] = None,
) -> None:
    """Test the claims of the paper "Debunking Grad-ECLIP".

    The paper is arXiv 2605.12952. Images are rendered scenes unless you give data sets. Writes
    reproduce.html with tables and figures, reproduce.json and figures/*.png. Finished parts are
    kept in OUT/parts: the same command resumes a stopped run.

    Example: heatproof reproduce --quick -o out/

    Exit codes:

    \b
      0  at least one claim was measured; with --check: every check that is possible here holds
      1  with --check: a check fails
      2  bad input
      3  no claim was measured
    """
    if check is not None:
        raise typer.Exit(_check(check))
    letters = tuple(letter.strip() for letter in (only or "").split(",") if letter.strip())
    for letter in letters:
        if letter not in index.EXPERIMENTS:
            raise UnknownName("experiment", letter, index.EXPERIMENTS)
    specs.check(model)
    extras.require("report")
    folders = {"ImageNet": imagenet, "ImageNet-S": imagenet_s, "COCO": coco}
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is not a folder; expected {name}; check the path")
    check_folder(out)
    with _progress() as watch:
        from heatproof.recipes.grad_eclip_paper.reproducing import ReproduceRequest, run

        request = ReproduceRequest(
            model=model,
            imagenet=imagenet,
            imagenet_s=imagenet_s,
            coco=coco,
            images=images,
            quick=quick,
            seed=seed,
            only=letters,
            device=device,
        )
        with terminal.resumable(out / "parts"):
            result = run(request, out, watch, bundle=bundle)
    for claim in result["conclusions"]:
        typer.echo(f"{claim['verdict']:<12}  ({claim['section']}) {claim['claim']}")
    typer.echo(f"page: {out / 'reproduce.html'}")
    if bundle is not None:
        typer.echo(f"bundle: {bundle}; check it: heatproof reproduce --check {bundle}")
    verdicts = Counter(claim["verdict"] for claim in result["conclusions"])
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    typer.echo(f"{verdicts.total()} claims: {counts or 'none was measured'}")
    # Claims whose data were not given are listed, but a page of nothing else shows nothing.
    if verdicts.total() == verdicts["not measured"]:
        raise typer.Exit(terminal.NOT_ESTABLISHED)


def _check(file: Path) -> int:
    with terminal.working(f"checking {file}"):
        from heatproof.recipes.grad_eclip_paper import bundle_check

        checks = bundle_check.check(file)
    for line in bundle_check.lines(checks):
        typer.echo(line)
    failed = any(check.verdict == "fails" for check in checks)
    return terminal.FAILED if failed else terminal.DONE


@contextmanager
def _progress() -> Generator[Watch]:
    """Yield a callback that draws one bar per task, or prints one line per task into a log."""
    if not sys.stderr.isatty():
        last = ""

        def say(task: str, done: int, total: int) -> None:
            nonlocal last
            del done, total
            # A log has no bar: one line says that a task has begun.
            if task != last:
                last = task
                typer.echo(task, err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    count = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), count,
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def show(task: str, done: int, total: int) -> None:
            if task not in tasks:
                tasks[task] = progress.add_task(task, total=total)
            progress.update(tasks[task], completed=done, total=total)

        yield show
