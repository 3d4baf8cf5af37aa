"""`heatproof models`: what --model accepts."""

from collections.abc import Iterator
from typing import Annotated

import typer

from heatproof import specs
from heatproof.errors import InputError


def models(
    word: Annotated[
        str | None, typer.Argument(metavar="WORD", help="List the names that contain WORD.")
    ] = None,
) -> None:
    """List what --model accepts, or the names that contain WORD.

    Example: heatproof models vit-b-16
    """
    if word is None:
        width = max(map(len, specs.MODELS))
        for spec, meaning in specs.MODELS.items():
            typer.echo(f"{spec:<{width}}  {meaning}")
        typer.echo("To list the names that contain a word: heatproof models vit-b-16")
        return
    names = [spec for spec in _specs() if word.lower() in spec.lower()]
    if not names:
        raise InputError(f"no model name contains {word!r}; try: heatproof models")
    for spec in names:
        typer.echo(spec)


def _specs() -> Iterator[str]:
    """Yield every name that can be listed offline; ids on the Hugging Face hub cannot."""
    import open_clip
    import timm

    yield "scenes"
    for name in open_clip.list_models():
        yield f"open_clip:{name}"
        for tag in open_clip.list_pretrained_tags_by_model(name):
            yield f"open_clip:{name}/{tag}"
    for name in timm.list_models("vit_*", pretrained=True):
        yield f"timm:{name}"
