"""What an audit found: its findings, what was audited on what, and the files that keep it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heatproof.auditing.finding import Finding, Verdict

# The worst of several verdicts, worst first.
ORDER: tuple[Verdict, ...] = ("violated", "cannot tell", "holds", "not applicable")


@dataclass(frozen=True)
class Audit:
    """The findings about one method on one model.

    `environment` is that of a certificate: versions, device, dtype, the weights' hash, the seed;
    `question` says on what it was asked: principles, data, how many pictures.
    """

    method: str
    settings: dict[str, Any]
    model: str
    findings: tuple[Finding, ...]
    notices: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    question: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Nothing that was checked is violated."""
        return all(finding.verdict != "violated" for finding in self.findings)

    def verdict(self, principle: int) -> Verdict:
        """The worst verdict of one principle's checks; "not applicable" where there are none."""
        found = {finding.verdict for finding in self.findings if finding.principle == principle}
        worst: list[Verdict] = [verdict for verdict in ORDER if verdict in found]
        return worst[0] if worst else "not applicable"

    @property
    def sentence(self) -> str:
        """The audit in a line."""
        violated = [finding.check for finding in self.findings if finding.verdict == "violated"]
        if violated:
            return f"{self.method} on {self.model}: violated ({', '.join(violated)})"
        unclear = [finding.check for finding in self.findings if finding.verdict == "cannot tell"]
        told = f"; cannot tell: {', '.join(unclear)}" if unclear else ""
        return f"{self.method} on {self.model}: nothing violated{told}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, as audit.json has them."""
        return {**asdict(self), "holds": self.holds, "schema": 1}

    def save(self, folder: str | Path) -> Path:
        """Write audit.json and audit.html into `folder`; returns the path of the page."""
        from heatproof.report.audit_page import audit_page
        from heatproof.report.folder import check_folder

        target = Path(folder)
        check_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        (target / "audit.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
        page = target / "audit.html"
        page.write_text(audit_page(self), encoding="utf-8")
        return page


def _finding(stored: dict[str, Any]) -> Finding:
    known: dict[str, Any] = {"question": "", **stored}
    return Finding(**known)


def from_json(stored: dict[str, Any]) -> Audit:
    """An audit as `Audit.as_json` gave it."""
    known: dict[str, Any] = {
        "settings": {},
        **{key: stored[key] for key in Audit.__dataclass_fields__ if key in stored},
        "findings": tuple(_finding(finding) for finding in stored["findings"]),
        "notices": tuple(stored.get("notices", ())),
    }
    return Audit(**known)


def league_rows(audits: Sequence[Audit]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the league table: a line a method, a column a check, one-line reasons."""
    checks = list(dict.fromkeys(f.check for audit in audits for f in audit.findings))
    rows: list[list[str]] = []
    for audit in sorted(audits, key=_rank):
        by_name = {finding.check: finding.verdict for finding in audit.findings}
        marks = [SIGNS[by_name[check]] if check in by_name else UNASKED for check in checks]
        rows.append([audit.method, *marks, reason(audit)])
    return ["method", *checks, "first violation"], rows


SIGNS: dict[str, str] = {
    "holds": "holds",
    "violated": "VIOLATED",
    "cannot tell": "?",
    "not applicable": "-",
}


UNASKED = "not asked"


def reason(audit: Audit) -> str:
    """The first violation in one line, else what was not asked; empty where there is neither."""
    found = [f for f in audit.findings if f.verdict == "violated"]
    if found:
        return f"{found[0].check}: {found[0].evidence}"
    return next((told for told in audit.notices if "was not measured" in told), "")


def _rank(audit: Audit) -> tuple[int, int, str]:
    """Fewest violations first, then most checks that hold: what was not asked earns nothing."""
    verdicts = [finding.verdict for finding in audit.findings]
    return verdicts.count("violated"), -verdicts.count("holds"), audit.method
