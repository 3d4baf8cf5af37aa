"""Hold what an audit found, decide which principles are established, and write its files."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import heatproof.auditing.checks  # pyright: ignore[reportUnusedImport]  # noqa: F401  (registers every check)
from heatproof import checking
from heatproof.auditing.base import DECIDING, DecidingQuestion, Finding, Verdict, checks
from heatproof.auditing.drawing import FigureError, draw
from heatproof.pages import render
from heatproof.pages.folder import check_folder
from heatproof.whole_files import write_whole

State = Literal["holds", "violated", "not established", "not measured"]
"""Of one principle."""

PRINCIPLES = (1, 2)
NOT_ASKED = "it was not asked for"


def _answered(question: DecidingQuestion, verdicts: dict[str, Verdict]) -> bool:
    """Say whether a question is answered by the verdicts of its checks, by id."""
    given = [
        verdicts.get(check.card.name) for check in checks() if check.card.answers == question.id
    ]
    # A question does not arise where none of its checks applies to this method and model.
    none_applies = all(verdict == "not applicable" for verdict in given)
    return "holds" in given or (question.may_not_arise and none_applies)


def _open_in_words(question: DecidingQuestion, verdicts: dict[str, Verdict]) -> str:
    """Say that a question is open, and what its checks found."""
    given = {
        check.card.title: verdicts.get(check.card.name, "not run")
        for check in checks()
        if check.card.answers == question.id
    }
    parts = [f"{title}: {text}" for title, text in given.items() if text != "not applicable"]
    return f"{question.text} ({', '.join(parts) or 'no check applies'})"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The findings about one method on one model.

    environment: that of a certificate: versions, device, dtype, the weights' hash, the seed.
    question: what was asked: principles, data, how many images.
    unmeasured: for a principle that no check could be run for, the reason.
    """

    method: str
    settings: dict[str, Any]
    model: str
    findings: tuple[Finding, ...]
    notices: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    question: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    unmeasured: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def principles(self) -> tuple[int, ...]:
        """The principles that were asked for."""
        asked = self.question.get("principles")
        if asked is None:
            asked = {*self.unmeasured, *(finding.principle for finding in self.findings)}
        return tuple(sorted(asked))

    @property
    def holds(self) -> bool | None:
        """False where a check is violated, True where each principle asked for is established.

        None where nothing is violated, and something is not established.
        """
        states = {self.verdict(principle) for principle in self.principles}
        if "violated" in states:
            return False
        return True if states == {"holds"} else None

    def verdict(self, principle: int) -> State:
        """Return the state of one principle; see `reason`.

        It holds where nothing is violated and all its deciding questions are answered.
        """
        findings = self._findings(principle)
        if any(finding.verdict == "violated" for finding in findings):
            return "violated"
        # Checks that need no labels can violate a principle that was not measured otherwise.
        if not findings or principle in self.unmeasured:
            return "not measured"
        return "not established" if self._open(principle) else "holds"

    def reason(self, principle: int) -> str:
        """Say why the principle is in that state, in a clause; empty where it holds."""
        findings = self._findings(principle)
        match self.verdict(principle):
            case "violated":
                return ", ".join(found.check for found in findings if found.verdict == "violated")
            case "not measured":
                asked = principle in self.principles
                return self.unmeasured.get(principle, "no check ran" if asked else NOT_ASKED)
            case "not established":
                verdicts = self._verdicts(principle)
                return "; ".join(_open_in_words(one, verdicts) for one in self._open(principle))
            case "holds":
                return ""

    def _findings(self, principle: int) -> list[Finding]:
        return [finding for finding in self.findings if finding.principle == principle]

    def _verdicts(self, principle: int) -> dict[str, Verdict]:
        return {finding.id: finding.verdict for finding in self._findings(principle)}

    def _open(self, principle: int) -> list[DecidingQuestion]:
        verdicts = self._verdicts(principle)
        asked = (question for question in DECIDING if question.principle == principle)
        return [question for question in asked if not _answered(question, verdicts)]

    def state_in_words(self, principle: int) -> str:
        """Return the state of one principle with its reason, in a clause."""
        reason = self.reason(principle)
        return f"principle {principle} {self.verdict(principle)}{f' ({reason})' if reason else ''}"

    @property
    def headline(self) -> str:
        """The audit's state in a sentence."""
        if self.holds is False:
            return "At least one principle is violated"
        if self.holds is None:
            return "Nothing is violated, but not every principle is established"
        if len(self.principles) == len(PRINCIPLES):
            return "Both principles hold here"
        return f"Principle {self.principles[0]} holds here; the other was not asked for"

    @property
    def sentence(self) -> str:
        """The audit in a line: what is violated, else what is not established, else what holds."""
        state = {True: "holds", False: "VIOLATED", None: "NOT ESTABLISHED"}[self.holds]
        parts = [self.state_in_words(principle) for principle in PRINCIPLES]
        # Where a principle is not established, its reason names them.
        unclear = [
            finding.check
            for finding in self.findings
            if finding.verdict == "cannot tell"
            and self.verdict(finding.principle) != "not established"
        ]
        if unclear:
            parts.append(f"cannot tell: {', '.join(unclear)}")
        return f"{self.method} on {self.model}: {state}: {'; '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as audit.json has them."""
        states = {
            str(principle): {"state": self.verdict(principle), "reason": self.reason(principle)}
            for principle in PRINCIPLES
        }
        return {**asdict(self), "holds": self.holds, "principles": states, "schema": 2}

    def html(self) -> str:
        """Return audit.html."""
        options = [f"{key}={value}" for key, value in self.settings.items() if value is not None]
        figures = {finding.id: _figure(finding) for finding in self.findings}
        return render.page("audit.html", audit=self, settings=", ".join(options), figures=figures)

    def save(self, folder: str | Path) -> Path:
        """Write audit.json and audit.html into `folder`; return the path of the page."""
        target = checking.path("folder", folder)
        check_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        page, text = target / "audit.html", json.dumps(self.as_json(), indent=1) + "\n"
        page.write_text(self.html(), encoding="utf-8")
        # Last, and whole: an audit whose JSON is there is done, also after a kill.
        write_whole(target / "audit.json", lambda path: path.write_text(text, "utf-8"))
        return page


def _figure(finding: Finding) -> dict[str, str]:
    """Return the check's figure as SVG, or why it could not be drawn from its numbers."""
    try:
        return {"svg": draw(finding), "undrawn": ""}
    except FigureError as error:
        return {"svg": "", "undrawn": str(error)}


def _finding(stored: dict[str, Any]) -> Finding:
    """Read a finding; files of earlier versions name a check by its title alone."""
    by_title = {check.card.title: check.card.name for check in checks()}
    title = stored["check"]
    known: dict[str, Any] = {"id": by_title.get(title, title), "question": "", **stored}
    return Finding(**known)


def from_json(stored: dict[str, Any]) -> Audit:
    """Return an audit from what `Audit.as_json` returned."""
    known: dict[str, Any] = {
        "settings": {},
        **{key: stored[key] for key in Audit.__dataclass_fields__ if key in stored},
        "findings": tuple(_finding(finding) for finding in stored["findings"]),
        "notices": tuple(stored.get("notices", ())),
        "unmeasured": {int(key): why for key, why in stored.get("unmeasured", {}).items()},
    }
    return Audit(**known)
