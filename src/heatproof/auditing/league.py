"""The league: the audits of many methods on one model, ranked in one table."""

from collections.abc import Sequence
from pathlib import Path

from heatproof.auditing.result import Audit
from heatproof.pages import render

SIGNS: dict[str, str] = {
    "holds": "holds",
    "violated": "VIOLATED",
    "cannot tell": "?",
    "not applicable": "-",
}
UNASKED = "not asked"


def league_rows(audits: Sequence[Audit]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table: a row per method, a column per check, a short reason."""
    titles = {finding.id: finding.check for audit in audits for finding in audit.findings}

    def rank(audit: Audit) -> tuple[int, int, int, str]:
        # Fewest violations first, then most checks that hold. A method that was asked less than the
        # others comes after them all: what nobody asked it cannot be compared.
        verdicts = {finding.id: finding.verdict for finding in audit.findings}
        given = list(verdicts.values())
        unasked = len(titles.keys() - verdicts.keys())
        return unasked, given.count("violated"), -given.count("holds"), audit.method

    rows: list[list[str]] = []
    for audit in sorted(audits, key=rank):
        verdicts = {finding.id: finding.verdict for finding in audit.findings}
        marks = [SIGNS[verdicts[check]] if check in verdicts else UNASKED for check in titles]
        rows.append([audit.method, *marks, _reason(audit)])
    return ["method", *titles.values(), "first violation, or what is not established"], rows


def league_html(audits: Sequence[Audit], pages: dict[str, str]) -> str:
    """Return league.html; `pages` leads from methods to the pages of their audits."""
    head, rows = league_rows(audits)
    return render.page("league.html", model=audits[0].model, head=head, rows=rows, pages=pages)


def league_markdown(audits: Sequence[Audit]) -> str:
    """Return the table for a docs page."""
    head, rows = league_rows(audits)
    lines = [head, ["---"] * len(head), *([f"`{row[0]}`", *row[1:]] for row in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "/") for c in line) + " |" for line in lines)


def save_league(audits: Sequence[Audit], folder: Path) -> Path:
    """Write league.html and league.md beside the methods' folders; returns the page's path."""
    pages = {audit.method: f"{audit.method}/audit.html" for audit in audits}
    page = folder / "league.html"
    page.write_text(league_html(audits, pages), encoding="utf-8")
    (folder / "league.md").write_text(league_markdown(audits) + "\n", encoding="utf-8")
    return page


def _reason(audit: Audit) -> str:
    """Return the first violation in one line, and which principle is not established, and why."""
    parts = [f"{f.check}: {f.evidence}" for f in audit.findings if f.verdict == "violated"][:1]
    states = {principle: audit.verdict(principle) for principle in audit.principles}
    parts += [audit.state_in_words(n) for n, state in states.items() if state.startswith("not ")]
    return "; ".join(parts)
