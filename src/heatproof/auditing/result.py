"""What an audit found: its findings, what was audited on what, and the files that keep it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from heatproof import checking
from heatproof.auditing.base import Finding, Verdict
from heatproof.auditing.figures import Undrawn, drawn
from heatproof.pages import render
from heatproof.pages.folder import check_folder

State = Literal["holds", "violated", "not established", "not measured"]
"""Of one principle."""


@dataclass(frozen=True)
class Question:
    """A question that must be answered before a principle is established.

    One of `checks` has to hold. `may_not_arise`: it is enough that none of them applies.
    """

    text: str
    checks: tuple[str, ...]
    may_not_arise: bool = False

    def answered(self, verdicts: dict[str, Verdict]) -> bool:
        given = [verdicts.get(check) for check in self.checks]
        none_applies = all(verdict == "not applicable" for verdict in given)
        return "holds" in given or (self.may_not_arise and none_applies)

    def open(self, verdicts: dict[str, Verdict]) -> str:
        """Say that it is open, and what its checks say."""
        given = {check: verdicts.get(check, "not run") for check in self.checks}
        told = [f"{check}: {each}" for check, each in given.items() if each != "not applicable"]
        return f"{self.text} ({', '.join(told) or 'no check applies'})"


# The other checks (implied model, sign, attribution error) can violate a principle, and cannot
# establish one: docs/audit.md gives the reasons.
DECIDING: dict[int, tuple[Question, ...]] = {
    1: (
        Question("is it the model's own pass?", ("parity", "forward monitor")),
        Question("is it the model's function alone?", ("reparametrisation",), may_not_arise=True),
        Question("is it the model's own output?", ("readout",), may_not_arise=True),
    ),
    2: (
        Question(
            "is the map better where the model is?",
            ("graded family", "moved model, unmoved map", "right and wrong"),
        ),
        Question("does the map depend on the prompt?", ("null prompts",), may_not_arise=True),
    ),
}
NOT_ASKED = "it was not asked for"


@dataclass(frozen=True)
class Audit:
    """The findings about one method on one model.

    `environment` is that of a certificate: versions, device, dtype, the weights' hash, the seed;
    `question` says on what it was asked: principles, data, how many pictures. `unmeasured` gives,
    for a principle that no check could be run for, the reason.
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
        """False where a check is violated; True where each principle that was asked for is
        established; None where nothing is violated, and something is not established."""
        states = {self.verdict(principle) for principle in self.principles}
        if "violated" in states:
            return False
        return True if states == {"holds"} else None

    def verdict(self, principle: int) -> State:
        """The state of one principle; see `reason`.

        It holds where nothing is violated and its deciding questions are answered (`DECIDING`).
        """
        verdicts = self._verdicts(principle)
        if "violated" in verdicts.values():
            return "violated"
        if not verdicts:
            return "not measured"
        return "not established" if self._open(principle) else "holds"

    def reason(self, principle: int) -> str:
        """Why the principle is in that state, in a clause; empty where it holds."""
        verdicts = self._verdicts(principle)
        match self.verdict(principle):
            case "violated":
                return ", ".join(name for name, each in verdicts.items() if each == "violated")
            case "not measured":
                asked = principle in self.principles
                return self.unmeasured.get(principle, "no check ran" if asked else NOT_ASKED)
            case "not established":
                return "; ".join(question.open(verdicts) for question in self._open(principle))
            case "holds":
                return ""

    def _verdicts(self, principle: int) -> dict[str, Verdict]:
        return {each.check: each.verdict for each in self.findings if each.principle == principle}

    def _open(self, principle: int) -> list[Question]:
        verdicts = self._verdicts(principle)
        return [each for each in DECIDING[principle] if not each.answered(verdicts)]

    def told(self, principle: int) -> str:
        """The state of one principle with its reason, in a clause."""
        reason = self.reason(principle)
        return f"principle {principle} {self.verdict(principle)}{f' ({reason})' if reason else ''}"

    @property
    def headline(self) -> str:
        """The audit's state in a sentence."""
        if self.holds is False:
            return "At least one principle is violated"
        if self.holds is None:
            return "Nothing is violated, but not every principle is established"
        if len(self.principles) == len(DECIDING):
            return "Both principles hold here"
        return f"Principle {self.principles[0]} holds here; the other was not asked for"

    @property
    def sentence(self) -> str:
        """The audit in a line: what is violated, else what is not established, else what holds."""
        state = {True: "holds", False: "VIOLATED", None: "NOT ESTABLISHED"}[self.holds]
        parts = [self.told(principle) for principle in DECIDING]
        # Where a principle is not established, its reason names them.
        unclear = [
            each.check
            for each in self.findings
            if each.verdict == "cannot tell" and self.verdict(each.principle) != "not established"
        ]
        if unclear:
            parts.append(f"cannot tell: {', '.join(unclear)}")
        return f"{self.method} on {self.model}: {state}: {'; '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        """Plain values, as audit.json has them."""
        states = {
            str(principle): {"state": self.verdict(principle), "reason": self.reason(principle)}
            for principle in DECIDING
        }
        return {**asdict(self), "holds": self.holds, "principles": states, "schema": 2}

    def html(self) -> str:
        """Return audit.html."""
        given = {key: value for key, value in self.settings.items() if value is not None}
        return render.page(
            "audit.html",
            audit=self,
            settings=", ".join(f"{key}={value}" for key, value in given.items()),
            figures={finding.check: _figure(finding) for finding in self.findings},
        )

    def save(self, folder: str | Path) -> Path:
        """Write audit.json and audit.html into `folder`; returns the path of the page."""
        target = checking.path("folder", folder)
        check_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        (target / "audit.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
        page = target / "audit.html"
        page.write_text(self.html(), encoding="utf-8")
        return page


def _figure(finding: Finding) -> dict[str, str]:
    """Return the check's figure as SVG, or why it could not be drawn from its numbers."""
    try:
        return {"svg": drawn(finding), "undrawn": ""}
    except Undrawn as error:
        return {"svg": "", "undrawn": str(error)}


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
        "unmeasured": {int(key): why for key, why in stored.get("unmeasured", {}).items()},
    }
    return Audit(**known)
