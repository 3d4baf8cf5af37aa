"""The proof that comes with a map: is this an explanation of that very model?"""

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["holds", "violated", "not applicable"]


@dataclass(frozen=True)
class Check:
    """One question asked of an explanation: the `value` measured, the `limit` it is held to."""

    name: str
    verdict: Verdict
    evidence: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Certificate:
    """What was checked, what the map is made of, and where it was made.

    `native` and `substituted` name the factors of the map that the untouched model computes and
    those that it never does. `null_prompts` maps a control prompt's kind ("empty", "gibberish",
    "unrelated") to how much the map changes under it: 1 - cosine of the two signed maps, mean over
    images and prompts (0: the same map, the prompt is ignored). `warnings` do not fail it.
    """

    checks: tuple[Check, ...]
    native: tuple[str, ...]
    substituted: tuple[str, ...]
    null_prompts: dict[str, float] = field(default_factory=dict[str, float])
    warnings: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def holds(self) -> bool:
        return all(check.verdict != "violated" for check in self.checks)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence for a reader who is no expert."""
        failed = [check for check in self.checks if check.verdict == "violated"]
        if not failed:
            return "This map was computed from the untouched model: its certificate holds."
        return failed[0].evidence
