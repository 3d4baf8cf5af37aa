"""What a check found: its question, the verdict, the evidence in a sentence and in numbers."""

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "violated", "not applicable", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """One check of one method on one model.

    `evidence` is a sentence with the figures that carry the verdict. `numbers` are plain values
    that go to JSON as they are, and hold all that a figure of the check is drawn from, the floors
    and controls that the verdict's threshold was derived from included. `code` says where to look:
    the file or object that causes what was found. "cannot tell" means that the check's own controls
    do not separate here; "not applicable", that the question does not arise.
    """

    check: str
    principle: Literal[1, 2]
    question: str
    verdict: Verdict
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict[str, Any])
    code: str = ""
