"""Options that several commands share: each type and help text once, so that they stay alike."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "scenes"
"""The embedded model: it needs no download, so that every command runs without options."""
DATA_SPECS = "scenes, a folder of images with masks, or KIND:PATH (see docs/data.md)."

ModelSpec = Annotated[str, typer.Option(help="Model; see `heatproof models`.")]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Option of the method; repeatable."),
]
OutputFolder = Annotated[Path, typer.Option("--out", "-o", help="Output folder.")]
ResumableFolder = Annotated[
    Path,
    typer.Option("--out", "-o", help="Output folder; a stopped run in it is resumed."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Engine = Annotated[str, typer.Option(help="local, or ray for a cluster.")]
Workers = Annotated[
    int,
    typer.Option(metavar="N", help="Processes, or Ray actors, that hold a model each."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster to connect to: auto, or ray://HOST:10001.",
        show_default="this machine",
    ),
]
