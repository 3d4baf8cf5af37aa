"""report.html: one page that needs nothing else, for a reader with a minute."""

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from heatproof import __version__, methods
from heatproof.certificate import Certificate, Check
from heatproof.explanation import Explanation, Record, WordExplanation
from heatproof.images import Photo
from heatproof.models.geometry import View
from heatproof.pages import render
from heatproof.plots import colour
from heatproof.plots import words as word_view
from heatproof.plots.contact_sheet import Panel, photograph, row
from heatproof.plots.overlay import Frame, Signs, draw, frame, legend, pictured, shared_scale
from heatproof.plots.text import figure

WIDEST = 900  # pixels of a picture's longer side in the page
TITLES: dict[str, str] = {
    "holds": "Certificate holds",
    "holds with limits": "Certificate holds, with limits",
    "another backward rule": "Certificate fails in one point: another backward rule",
    "fails": "The certificate FAILS: do not take these maps for an explanation of this model",
    "not established": "Not certified: nothing is established",
}
MARKS: dict[str, str] = {
    "another backward rule": "another backward rule",
    "fails": "certificate fails",
    "not established": "not certified",
}
CLASSES: dict[str, str] = {
    "holds": "holds",
    "holds with limits": "limits",
    "another backward rule": "limits",
    "fails": "fails",
    "not established": "unproven",
}


def page(
    explanation: Explanation,
    words: WordExplanation | None = None,
    image: int = 0,
    replay: str | None = None,
    controls: Sequence[Panel] = (),
) -> str:
    """The whole page for one picture. `replay` is the command that made it.

    `controls` are maps that were not asked for, shown beside the others on their scale.
    """
    photo, view = pictured(explanation, image)
    record, certificate = explanation.record, explanation.certificate
    command = replay or replay_command(explanation, words, image)
    body = [
        _header(record, photo),
        _verdict(certificate),
        _notices(notices(explanation, image), certificate.warnings),
        _maps(explanation, image, photo, view, controls),
        _words(words, image),
        _scores(explanation, image),
        _certificate("The certificate, check by check", certificate),
        _certificate("The words' certificate", words.certificate) if words else "",
        _method(record),
        _reading_help(),
        _environment(certificate, command),
    ]
    return render.document(f"{Path(photo.source).name}: what {record.model} saw", "".join(body))


def contents(
    title: str, verdicts: Iterable[tuple[str, str, str]], sheet: Image.Image | None
) -> str:
    """A page that leads to others: (name, relative address, certificate's kind) each."""
    rows = [
        [f'<a href="{escape(address)}">{escape(name)}</a>', render.mark(kind)]
        for name, address, kind in verdicts
    ]
    picture = ""
    if sheet is not None:
        address = render.data(sheet)
        picture = f'<figure class="sheet"><img alt="maps side by side" src="{address}"></figure>'
    heading = f"<header><h1>{escape(title)}</h1><p>heatproof {__version__}</p></header>"
    return render.document(title, heading + render.table(["report", "certificate"], rows) + picture)


def notices(explanation: Explanation, image: int = 0) -> tuple[str, ...]:
    """What the reader must know: the model's and the pictures' notices, and what was never seen."""
    _, view = pictured(explanation, image)
    unseen = ()
    if view.unseen >= 0.005:
        share = f"{view.unseen:.1%}" if view.unseen > 0.99 else f"{view.unseen:.0%}"
        unseen = (
            f"the model's own preprocessing cut off {share} of the picture: it is hatched, for it "
            "was never seen; --image-size keep shows more where the model allows it",
        )
    return (*explanation.record.notices, *unseen)


def replay_command(
    explanation: Explanation, words: WordExplanation | None, image: int = 0
) -> str | None:
    """The command line that makes this explanation again; None for objects in memory."""
    record = explanation.record
    source = pictured(explanation, image)[0].source
    if not Path(source).is_file():
        return None
    parts = ["heatproof", "explain", source, *record.prompts, "--model", record.model]
    parts += ["--method", record.method]
    for key, value in record.settings.items():
        parts += [] if value is None else ["--set", f"{key}={value}"]
    parts += ["--score", record.score, "--seed", str(record.seed)]
    parts += [] if record.image_size == "native" else ["--image-size", record.image_size]
    parts += ["--words"] if words else []
    parts += [] if explanation.certificate.checks else ["--no-certify"]
    return shlex.join(parts)


# The sections


def _header(record: Record, photo: Photo) -> str:
    wide, high = photo.image.size
    what = f"{record.model} · {record.method} · explains the {record.score}"
    return (
        f"<header><h1>{escape(Path(photo.source).name)}</h1>"
        f"<p>{escape(what)} · {wide} x {high} pixels</p></header>"
    )


def _verdict(certificate: Certificate) -> str:
    kind = certificate.kind
    return (
        f'<div class="verdict {CLASSES[kind]}" role="{"alert" if kind == "fails" else "note"}">'
        f"<strong>{TITLES[kind]}</strong>{escape(certificate.sentence)}</div>"
        f"{_lights(certificate)}"
    )


def _lights(certificate: Certificate) -> str:
    items = (
        f'<li class="{light.state.replace(" ", "-")}"><b>{escape(light.name)}: '
        f"{escape(light.state)}</b>{escape(light.evidence)}</li>"
        for light in certificate.lights
    )
    return f'<ul class="lights">{"".join(items)}</ul>'


def _notices(notices: Iterable[str], warnings: Iterable[str]) -> str:
    items = [f"<li>{escape(text)}</li>" for text in notices]
    items += [f"<li><b>Warning:</b> {escape(text)}</li>" for text in warnings]
    return f'<ul class="notices">{"".join(items)}</ul>' if items else ""


def _maps(
    explanation: Explanation, image: int, photo: Photo, view: View, controls: Sequence[Panel]
) -> str:
    part = frame(photo, view).fitted(min(WIDEST, max(*photo.image.size, 400)))
    maps = row(explanation, image, controls)
    figures = [_photograph(photo, view, part)]
    for number, panel in enumerate(maps.panels):
        drawn = draw(photo, view, panel.values, maps.scale, part)
        own = number < len(explanation.record.prompts)  # controls stand behind
        figures.append(
            _figure(drawn, panel.title, panel.remark, _mark(maps.certificate) if own else "")
        )
    bar = _scale(maps.scale, maps.signs)
    return f'<h2>The maps</h2><div class="maps">{"".join(figures)}</div>{bar}'


def _mark(certificate: Certificate) -> str:
    """What stands under each map of a certificate that does not hold."""
    if certificate.holds:
        return ""
    kind = certificate.kind
    return f' <span class="mark {CLASSES[kind]}">{MARKS[kind]}</span>'


def _photograph(photo: Photo, view: View, part: Frame) -> str:
    """The photograph in its own colours, what was not seen hatched."""
    remarks = ["nothing cropped"]
    if view.unseen >= 0.005:
        remarks = [f"{view.unseen:.0%} of it unseen (hatched)"]
    if (part.right - part.left, part.bottom - part.top) != photo.image.size:
        remarks += part.remarks(photo)[:1]
    return _figure(photograph(photo, view, part), "photograph", "; ".join(remarks))


def _figure(picture: Image.Image, title: str, remark: str, mark: str = "") -> str:
    return (
        f'<figure><img alt="{escape(title)}" src="{render.data(picture)}">'
        f"<figcaption><b>{escape(title)}</b>{escape(remark)}{mark}</figcaption></figure>"
    )


def _scale(scale: float, signs: Signs, on_white: bool = False) -> str:
    low, high = legend(signs)
    bar = render.data(colour.bar(512, 16, on_white), lossless=True)
    return (
        f'<div class="scale"><img alt="colour scale" src="{bar}"><div>'
        f"<span>{figure(-scale, scale)} {escape(low)}</span><span>0</span>"
        f"<span>{escape(high)} {figure(scale, scale)}</span></div></div>"
    )


def _words(words: WordExplanation | None, image: int) -> str:
    if words is None:
        return ""
    prompts = [word_view.html(words, image, n) for n in range(len(words.record.prompts))]
    bar = _scale(word_view.shared_scale(words, image), words.record.signs, on_white=True)
    return f"<h2>The words</h2>{_verdict(words.certificate)}{''.join(prompts)}{bar}"


def _scores(explanation: Explanation, image: int) -> str:
    """The untouched model's scores; the explained pass's where four digits tell them apart."""
    scale = shared_scale(explanation, image)
    own, explained = explanation.scores[image], explanation.explained_scores[image]
    changed = bool(((own - explained).abs() >= 5e-5).any())
    rows = [
        [
            escape(prompt or "(empty prompt)"),
            f"{float(own[number]):+.4f}",
            *([f"{float(explained[number]):+.4f}"] if changed else []),
            figure(float(explanation.maps[image, number].min()), scale),
            figure(float(explanation.maps[image, number].max()), scale),
            figure(float(explanation.maps[image, number].sum()), scale),
        ]
        for number, prompt in enumerate(explanation.record.prompts)
    ]
    head = ["prompt", explanation.record.score, *(["in the explained pass"] if changed else [])]
    head += ["lowest patch", "highest patch", "all patches"]
    return "<h2>Scores</h2>" + render.table(head, rows, numbers=range(1, len(head)))


def _certificate(title: str, certificate: Certificate) -> str:
    if not certificate.checks:
        return ""
    rows = [
        [render.mark(check.verdict), escape(check.name), escape(check.evidence), _measured(check)]
        for check in certificate.checks
    ]
    facts = {
        "the model's own": "; ".join(certificate.native) or "nothing",
        "not the model's": "; ".join(certificate.substituted) or "nothing",
    }
    table = render.table(
        ["verdict", "check", "evidence", "measured / limit"], rows, short=[0, 1, 3]
    )
    made_of = f"<h3>What the map is made of</h3>{render.facts(facts)}"
    return f"<h2>{escape(title)}</h2>{table}{made_of}{_nulls(certificate)}"


def _measured(check: Check) -> str:
    if check.value is None:
        return ""
    limit = "" if check.limit is None else f" / {check.limit:.2g}"
    return f"{check.value:.2g}{limit}"


def _nulls(certificate: Certificate) -> str:
    if not certificate.null_prompts:
        return ""
    rows = [
        [
            escape(f"{kind} prompt"),
            f"{change:.2f}",
            f'<meter min="0" max="2" value="{change:.4f}"></meter>',
        ]
        for kind, change in certificate.null_prompts.items()
    ]
    text = "<p>How different each map is from the map of a prompt that says nothing (0: the same "
    text += "map; 1: unrelated; 2: the opposite)."
    if certificate.common_share is not None:
        text += f" {certificate.common_share:.0%} of a map is the same for every prompt."
    return f"<h3>How much the maps change under null prompts</h3>{text}</p>" + render.table(
        ["prompt", "change", ""], rows, numbers=[1]
    )


def _method(record: Record) -> str:
    entry = methods.catalogue().get(record.method)
    facts: dict[str, str] = {"method": record.method}
    if entry is not None:
        facts |= {
            "computes": entry.summary,
            "reads": entry.reads,
            "changes": entry.changes,
            "values": entry.values,
            "cost": entry.cost,
            "source": entry.source,
        }
    facts |= {key: f"{value}" for key, value in record.settings.items() if value is not None}
    return f"<h2>The method</h2>{render.facts(facts)}"


def _reading_help() -> str:
    return (
        "<details><summary>How these pictures were drawn</summary><p>The maps are stored as the "
        "method gave them: signed, unnormalised, one value a patch (maps.safetensors). Only for "
        "display they are interpolated bilinearly between the patches' centres and coloured on "
        "one scale, from minus to plus the largest absolute value over all prompts of the "
        "picture, so that a weak map looks weak. The photograph is shown in pale grey: all colour "
        "is the map's, and where the map is zero there is none. Equal steps of value "
        "are equal steps to the eye (straight lines in OKLab from grey to vermilion and to azure "
        "of equal lightness and chroma). What the model's preprocessing cut off is hatched: it "
        "was not seen, which is not the same as unimportant.</p></details>"
    )


def _environment(certificate: Certificate, replay: str | None) -> str:
    facts = {str(key): str(value) for key, value in certificate.environment.items()}
    again = (
        f"<pre><code>{escape(replay)}</code></pre>"
        if replay
        else ("<p>Made from objects in memory: no command line makes it again.</p>")
    )
    return f"<h2>Make it again</h2>{again}{render.facts(facts)}"
