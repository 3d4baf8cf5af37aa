"""How a statistic becomes a verdict: by controls, measured on the same pictures.

A statistic is 0 for a map that follows nothing; its interval is of 99 %, for an audit asks many
questions. Two marks are measured, none is set: the `limit`, zero or the highest value that a
negative control reaches (a method that is itself a control is held to the others), and what a map
scores that follows by construction. A method

- passes where its whole interval lies above the limit;
- fails where its interval holds zero and lies wholly below half of what the map that follows
  scores at least (the lower end of that interval): few pictures make both ends give way;
- is unclear else: more pictures would tell.

A check is broken where a negative control passes by this very rule, and blunt where the map that
follows does not: it cannot tell then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heatproof.auditing.task import AuditTask, Mapped
from heatproof.statistics import Interval

LEVEL = 0.99
Attribution = Literal["passes", "fails", "unclear", "broken", "blunt"]


@dataclass(frozen=True)
class Judged:
    """A statistic held to its controls. `broken_by` names the negative controls that pass."""

    statistic: Interval
    controls: Mapping[str, Interval]
    follower: Interval
    limit: float
    outcome: Attribution
    broken_by: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why the check cannot tell, in a clause."""
        if self.outcome == "broken":
            return f"the check is broken here: the control {' and '.join(self.broken_by)} passes it"
        if self.outcome == "blunt":
            return (
                "the check has no power here: a map that follows by construction scores "
                f"{self.follower}, not above the limit {self.limit:.3f}"
            )
        return (
            f"it does not clear the limit {self.limit:.3f}, and cannot be told from one that goes "
            f"part of the way to a map that follows ({self.follower.value:.3f}): try more pictures"
        )

    @property
    def numbers(self) -> dict[str, Any]:
        return {
            "statistic": self.statistic.plain,
            "controls": {name: each.plain for name, each in self.controls.items()},
            "a map that follows": self.follower.plain,
            "limit": round(self.limit, 6),
            "outcome": self.outcome,
            "broken by": list(self.broken_by),
        }


def held(
    bench: AuditTask, subject: Mapped, key: str, measure: Callable[[Mapped], Interval]
) -> Judged:
    """The subject's statistic against that of the controls, which are measured once a bench."""

    def kept(other: Mapped) -> Interval:
        return bench.kept(("statistic", key, other), lambda: measure(other))

    controls = {name: kept(control) for name, control in bench.controls.items()}
    own = next((name for name, each in bench.controls.items() if each == subject), None)
    return judge(kept(subject), controls, kept(bench.follower), own)


def judge(
    statistic: Interval,
    controls: Mapping[str, Interval],
    follower: Interval,
    own: str | None = None,
) -> Judged:
    """`own` is the control that the method itself is, if it is one."""
    broken = tuple(
        name for name, each in controls.items() if each.low > _limit(controls, leave_out=name)
    )
    limit = _limit(controls, leave_out=own)
    if broken:
        outcome: Attribution = "broken"
    elif not follower.low > limit:
        outcome = "blunt"
    elif statistic.low > limit:
        outcome = "passes"
    elif statistic.low <= 0 and statistic.high < follower.low / 2:
        outcome = "fails"
    else:
        outcome = "unclear"
    return Judged(statistic, controls, follower, limit, outcome, broken)


def _limit(controls: Mapping[str, Interval], leave_out: str | None) -> float:
    values = [each.value for name, each in controls.items() if name != leave_out]
    return max([0.0, *(value for value in values if value == value)])
