"""`heatproof models`: what --model accepts, and what one model is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from heatproof import specs
from heatproof.cli import terminal
from heatproof.errors import HeatproofError, InputError


def models(
    word: Annotated[
        str | None,
        typer.Argument(metavar="WORD|MODEL", help="Part of a name, or a whole name."),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Argument(metavar="PHOTO", help="Also describe what the model sees of this photo."),
    ] = None,
) -> None:
    """List what --model accepts, or describe one model.

    With a WORD: list the names that contain it. With the name of a MODEL: describe its grid,
    readout, input size, resizing and cropping, which decide where a map lies on a photo.

    Examples: heatproof models vit-b-16; heatproof models scenes photo.jpg
    """
    if word is None:
        forms = [form for family in specs.FAMILIES for form in family.forms.items()]
        width = max(len(form) for form, _ in forms)
        for form, meaning in forms:
            typer.echo(f"{form:<{width}}  {meaning}")
        typer.echo("To list the names that contain a word: heatproof models vit-b-16")
        typer.echo("To describe a model: heatproof models scenes")
        return
    if photo is not None or _is_name(word):
        _describe(word, photo)
        return
    names = [spec for spec in _specs() if word.lower() in spec.lower()]
    if not names:
        raise InputError(f"no model name contains {word!r}; try: heatproof models")
    for spec in names:
        typer.echo(spec)


def _is_name(word: str) -> bool:
    try:
        specs.check(word)
    except HeatproofError:
        return False
    return True


def _describe(spec: str, photo: Path | None) -> None:
    specs.check(spec)
    with terminal.working(f"loading {spec}"):
        from heatproof.images import open_image
        from heatproof.models import load

        opened = None if photo is None else open_image(photo).image  # before the model: it is quick
        model = load(spec)
    for notice in model.notices:
        terminal.notice(notice)
    typer.echo(str(model.describe(opened)))


def _specs() -> Iterator[str]:
    """Yield every name that can be listed offline; ids on the Hugging Face hub cannot."""
    import open_clip
    import timm

    from heatproof.specimens import SPECIMENS

    yield "scenes"
    for name in open_clip.list_models():
        yield f"open_clip:{name}"
        for tag in open_clip.list_pretrained_tags_by_model(name):
            yield f"open_clip:{name}/{tag}"
    for name in timm.list_models("vit_*", pretrained=True):
        yield f"timm:{name}"
    for name in SPECIMENS:
        yield f"specimen:{name}"
