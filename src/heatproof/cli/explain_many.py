"""`heatproof explain a.jpg b.jpg DIR/ -p PROMPT`: a handful of images, with one index page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from heatproof import checking
from heatproof.certificate import worst
from heatproof.cli import terminal
from heatproof.display import Display
from heatproof.errors import ImageError, InputError

if TYPE_CHECKING:
    from heatproof.image_maps import ImageMaps
    from heatproof.methods.base import Method
    from heatproof.models.model import Model

MANY = 200
"""More images than this are refused: a page of all of them is of no use, a store is."""


@dataclass(frozen=True, kw_only=True)
class ManyRequest:
    """Images, prompts and one method; `options` are keyword arguments of `explain_each`."""

    photos: tuple[Path, ...]
    prompts: tuple[str, ...]
    method: "Method | str"
    out: Path
    display: Display
    options: dict[str, Any]


def photos_of(sources: Sequence[Path]) -> tuple[Path, ...]:
    """Return image files as they are, and the images of folders, in order.

    Raises:
        InputError: there is no image, or there are very many.
    """
    photos = [photo for source in sources for photo in _images(source)]
    if not photos:
        raise InputError(f"got {sources[0]}, a folder without images; expected some")
    if len(photos) > MANY:
        raise InputError(
            f"got {len(photos)} images, expected at most {MANY}; "
            'for more: heatproof run SOURCE... -p "a dog" -o store/'
        )
    return tuple(dict.fromkeys(photos))


def _images(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        yield source
        return
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if path.suffix.lower() in checking.IMAGE_ENDINGS and not hidden:
            yield path


def explain_many(model: "Model", request: ManyRequest) -> bool | None:
    """Write a report per image and a page that leads to them; return the worst verdict."""
    from heatproof.engine.streaming import explain_each
    from heatproof.pages import bundle

    faulty: list[ImageError] = []
    reports: list[tuple[str, str, str]] = []
    holds: list[bool | None] = []
    notices: dict[str, None] = {}
    with terminal.working("explaining") as say:
        for explanation in explain_each(
            model, list(request.photos), list(request.prompts), method=request.method,
            faulty=faulty.append, **request.options,
        ):  # fmt: skip
            for image in range(len(explanation.maps)):
                maps = explanation.for_image(image, request.display)
                name = f"{len(reports):04d}-{bundle.stem(maps.photo.source)}"
                bundle.save([maps], None, request.out / name)
                reports.append((maps.photo.source, f"{name}/report.html", maps.certificate.kind))
                holds.append(maps.certificate.holds)
                notices |= dict.fromkeys(_notices(maps))
                say(f"explaining: {len(reports)} of {len(request.photos)}")
                _print(maps)
    if not reports:
        raise faulty[0]
    for line in notices:
        typer.echo(terminal.one_line(line), err=True)
    for error in faulty:
        terminal.notice(f"{error}; left out")
    page = bundle.save_contents(f"{len(reports)} images", reports, request.out)
    typer.echo(f"{len(reports)} of {len(request.photos)} images · page: {page}")
    return worst([*holds, *(None for _ in faulty)])


def _notices(maps: "ImageMaps") -> list[str]:
    return [
        *(f"notice: {text}" for text in maps.notices),
        *(f"warning: {text}" for text in maps.certificate.warnings),
    ]


def _print(maps: "ImageMaps") -> None:
    scores = ", ".join(
        f"{float(maps.scores[number]):+.4f} {terminal.one_line(prompt)}"
        for number, prompt in enumerate(maps.record.prompts)
    )
    source = terminal.one_line(maps.photo.source)
    typer.echo(f"{source} · {scores} · certificate: {maps.certificate.kind}")
