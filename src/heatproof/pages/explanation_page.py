"""report.html of one image: what its template is given, and the command that makes it again."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from heatproof import index
from heatproof.certificate import AGREEMENT
from heatproof.display import STRENGTH, Display
from heatproof.image_maps import NO_PROMPT, NOTICED, ImageMaps, ImageWords, Record
from heatproof.pages import render
from heatproof.plots import colour
from heatproof.plots.contact_sheet import INPUT, Panel, sheet_row
from heatproof.plots.overlay import Signs, Viewport, draw, draw_photo, legend, viewport_of
from heatproof.plots.text import format_value
from heatproof.plots.words import split_prompt, value_text

WIDEST = 900  # pixels of a drawing's longer side in the page
CARD = ("summary", "reads", "changes", "values", "cost", "source")


@dataclass(frozen=True)
class Drawing:
    """A drawn map or photo with its caption; `certified`: the certificate speaks of it."""

    image: Image.Image
    title: str
    remark: str
    certified: bool = False


def page(
    maps: ImageMaps,
    words: ImageWords | None = None,
    controls: Sequence[Panel] = (),
    replay: str | None = None,
) -> str:
    """Return the whole page. `replay` is the command that made it, where it is known better.

    `controls` are maps that were not asked for, shown beside the others on their scale.
    """
    record = maps.record
    row = sheet_row(maps, controls)
    values: dict[str, Any] = {
        "name": Path(maps.photo.source).name,
        "size": maps.photo.image.size,
        "record": record,
        "certificate": maps.certificate,
        "notices": maps.notices,
        "panels": _drawings(maps, row.panels, row.scale),
        "bar": _scale_bar(row.scale, row.signs, strength=maps.display.alpha),
        "scores": _scores(maps),
        "method": _method(record),
        "replay": replay or replay_command(maps, words),
        "words": words,
    }
    if words is not None:
        values["prompts"] = _coloured_words(words)
        values["words_bar"] = _scale_bar(words.scale, words.record.signs, on_white=True)
    return render.page("explanation.html", **values)


def contents(title: str, reports: Iterable[tuple[str, str, str]], sheet: Image.Image | None) -> str:
    """Return a page of links to reports: (name, relative address, certificate's kind) each."""
    return render.page("contents.html", title=title, reports=reports, sheet=sheet)


def replay_command(maps: ImageMaps, words: ImageWords | None) -> str | None:
    """Return the command line that makes this explanation again; None for objects in memory."""
    record = maps.record
    if not Path(maps.photo.source).is_file():
        return None
    parts = ["heatproof", "explain", maps.photo.source, *record.prompts, "--model", record.model]
    parts += ["--method", record.method]
    for key, value in record.settings.items():
        # None is "not set": --set has no word for it.
        parts += [] if value is None else ["--set", f"{key}={value}"]
    parts += ["--score", record.score, "--seed", str(record.seed)]
    parts += [] if record.image_size == "native" else ["--image-size", record.image_size]
    parts += [*record.options, *(["--words"] if words else [])]
    parts += ["--referee"] if maps.certificate.check(AGREEMENT) else []
    if words and words.record.method != record.method:
        parts += ["--words-method", words.record.method]
    for option, default in asdict(Display()).items():
        own = getattr(maps.display, option)
        parts += [] if own == default else [f"--{option}", str(own)]
    parts += [] if maps.certificate.checks else ["--no-certify"]
    return shlex.join(parts)


def _drawings(maps: ImageMaps, panels: Sequence[Panel], scale: float) -> list[Drawing]:
    """Draw the photo, then each panel; controls stand behind the maps and have no certificate."""
    photo, view = maps.photo, maps.view
    viewport = viewport_of(photo, view)
    viewport = viewport.fit(min(WIDEST, max(*photo.image.size, 400)))
    remark = "; ".join(_photo_remarks(maps, viewport))
    drawings = [Drawing(draw_photo(photo, view, viewport), INPUT, remark)]
    for number, panel in enumerate(panels):
        image = draw(photo, view, panel.values, scale, viewport, panel.unsure, maps.display)
        certified = number < len(maps.record.prompts)
        drawings.append(Drawing(image, panel.title, panel.remark, certified))
    return drawings


def _photo_remarks(maps: ImageMaps, viewport: Viewport) -> list[str]:
    unseen = maps.view.unseen
    remarks = [f"{unseen:.0%} of it unseen (hatched)" if unseen >= NOTICED else "nothing cropped"]
    whole = (viewport.right - viewport.left, viewport.bottom - viewport.top)
    # How much larger it is drawn is no news: the page scales every drawing.
    return remarks if whole == maps.photo.image.size else remarks + viewport.remarks(maps.photo)[:1]


def _scale_bar(
    scale: float, signs: Signs, on_white: bool = False, strength: float = STRENGTH
) -> dict[str, Any]:
    low, high = legend(signs)
    return {
        "image": colour.bar(512, 16, on_white, strength),
        "low": f"{format_value(-scale, scale)} {low}",
        "high": f"{high} {format_value(scale, scale)}",
    }


def _coloured_words(words: ImageWords) -> list[list[dict[str, Any]]]:
    """Return each prompt's parts; words with their value and its colour."""
    scale = words.scale
    return [
        [
            {
                "text": part.text,
                "cut": part.cut,
                "fill": "" if part.value is None else colour.css(part.value, scale),
                "value": "" if part.value is None else value_text(part, scale),
            }
            for part in split_prompt(prompt, own)
        ]
        for prompt, own in zip(words.record.prompts, words.words, strict=True)
    ]


def _scores(maps: ImageMaps) -> dict[str, Any]:
    """Return the table of scores: the untouched model's, and the explained pass's where they differ
    in four digits."""
    own, explained = maps.scores, maps.explained_scores
    # Less than half of the last digit shown.
    changed = bool(((own - explained).abs() >= 5e-5).any())
    head = ["prompt", maps.record.score, *(["in the explained pass"] if changed else [])]
    rows = [
        [
            prompt or NO_PROMPT,
            f"{float(own[number]):+.4f}",
            *([f"{float(explained[number]):+.4f}"] if changed else []),
            *(
                format_value(float(value), maps.scale)
                for value in (patches.min(), patches.max(), patches.sum())
            ),
        ]
        for number, (prompt, patches) in enumerate(zip(maps.record.prompts, maps.maps, strict=True))
    ]
    return {"head": [*head, "lowest patch", "highest patch", "all patches"], "rows": rows}


def _method(record: Record) -> dict[str, str]:
    """Return the method's card, for those of the catalogue, and its settings."""
    facts = {"method": record.method}
    listed = index.methods().get(record.method)
    if listed is not None:
        facts |= {"computes" if key == "summary" else key: listed.card[key] for key in CARD}
    return facts | {key: str(value) for key, value in record.settings.items() if value is not None}
