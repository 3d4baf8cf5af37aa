"""audit.html: the verdicts of an audit for a reviewer with a minute, numbers behind them."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from heatproof import __version__
from heatproof.auditing.base import Finding
from heatproof.auditing.figures import Undrawn, drawn
from heatproof.auditing.result import UNASKED, Audit, league_rows
from heatproof.pages import render

PRINCIPLES = {
    1: ("Explain the model itself", "Is every quantity of the map one that the model computes?"),
    2: ("Follow the model's performance", "Is the map good where the model is, and only there?"),
}
GLYPHS = {
    "holds": ("✓", "ok", "holds"),
    "VIOLATED": ("✕", "bad", "violated"),
    "?": ("?", "faint", "cannot tell"),
    "-": ("·", "faint", "not applicable"),
    UNASKED: (" ", "faint", UNASKED),
}


def audit_page(audit: Audit) -> str:
    """The whole page of one audit."""
    set_to = {key: value for key, value in audit.settings.items() if value is not None}
    told = f" ({', '.join(f'{k}={v}' for k, v in set_to.items())})" if set_to else ""
    body = [
        f"<header><h1>Audit of {escape(audit.method)}</h1>"
        f"<p>{escape(audit.model + told)} · heatproof {__version__} · {audit.seconds:.0f} s</p>"
        "</header>",
        _verdict(audit),
        _notices(audit.notices),
        _summary(audit.findings),
        *(_principle(audit, number) for number in PRINCIPLES),
        f"<h2>Made with</h2>{render.facts(audit.environment)}",
    ]
    whole = f'<main class="audit">{"".join(body)}</main>'
    return render.document(f"audit of {audit.method}", whole)


def league_page(audits: Sequence[Audit], pages: dict[str, str]) -> str:
    """The page of many audits: the league table, each method leading to its own page."""
    head, rows = league_rows(audits)
    cells = [
        [
            f'<a href="{escape(pages[row[0]])}">{escape(row[0])}</a>'
            if row[0] in pages
            else escape(row[0]),
            *map(_glyph, row[1:-1]),
            f'<span title="{escape(row[-1])}">{escape(row[-1])}</span>',
        ]
        for row in rows
    ]
    model = escape(audits[0].model)
    title = f"<header><h1>Audit of {len(audits)} methods</h1><p>{model}</p></header>"
    whole = f'<main class="audit league">{title}{render.table(head, cells)}</main>'
    return render.document("audit", whole)


def _glyph(sign: str) -> str:
    """A mark that is a letter wide; what it stands for is there to hover on and to read out."""
    shape, kind, told = GLYPHS[sign]
    return f'<span class="{kind}" role="img" aria-label="{told}" title="{told}">{shape}</span>'


def league_markdown(audits: Sequence[Audit]) -> str:
    """The league table for a docs page."""
    head, rows = league_rows(audits)
    lines = [head, ["---"] * len(head), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "/") for c in line) + " |" for line in lines)


KINDS = {True: "holds", False: "fails", None: "unproven"}


def _verdict(audit: Audit) -> str:
    told = audit.told
    principles = "<br>".join(escape(f"{told(n)[:1].upper()}{told(n)[1:]}") for n in PRINCIPLES)
    return (
        f'<div class="verdict {KINDS[audit.holds]}" role="note">'
        f"<strong>{escape(audit.headline)}</strong>{principles}</div>"
    )


def _notices(notices: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in notices)
    return f'<ul class="notices">{items}</ul>' if items else ""


def _summary(findings: Sequence[Finding]) -> str:
    rows = [
        [
            render.mark(f.verdict),
            f'<a href="#{_anchor(f)}">{escape(f.check)}</a>',
            f"<span>{escape(f.evidence)}</span>",
        ]
        for f in findings
    ]
    table = render.table(["verdict", "check", "evidence"], rows, short=[0, 1])
    return f'<div class="summary">{table}</div>'


def _principle(audit: Audit, number: int) -> str:
    found = [finding for finding in audit.findings if finding.principle == number]
    name, question = PRINCIPLES[number]
    heading = f"<h2>Principle {number}: {name}</h2><p>{question}</p>"
    if not found:
        return heading + f"<p>Not measured: {escape(audit.reason(number))}.</p>"
    return heading + "".join(map(_finding, found))


def _finding(finding: Finding) -> str:
    figure = _figure(finding)
    code = f"<p>Look at: <code>{escape(finding.code)}</code></p>" if finding.code else ""
    numbers = escape(json.dumps(finding.numbers, indent=1))
    return (
        f'<section class="finding" id="{_anchor(finding)}"><div>'
        f"<h3>{render.mark(finding.verdict)} {escape(finding.check)}</h3>"
        f'<p class="faint">{escape(finding.question)}</p><p>{escape(finding.evidence)}</p>'
        f"{code}<details><summary>Numbers</summary><pre>{numbers}</pre></details></div>"
        f"{figure}</section>"
    )


def _figure(finding: Finding) -> str:
    try:
        picture = drawn(finding)
    except Undrawn as error:  # the numbers stand below as they are
        return f'<p class="faint">No figure: {escape(str(error))}.</p>'
    return f'<figure class="chart">{picture}</figure>' if picture else ""


def _anchor(finding: Finding) -> str:
    return finding.check.replace(" ", "-")


def save_league(audits: Sequence[Audit], folder: Path) -> Path:
    """league.html and league.md beside a folder a method; returns the page's path."""
    pages = {audit.method: f"{audit.method}/audit.html" for audit in audits}
    page = folder / "league.html"
    page.write_text(league_page(audits, pages), encoding="utf-8")
    (folder / "league.md").write_text(league_markdown(audits) + "\n", encoding="utf-8")
    return page
