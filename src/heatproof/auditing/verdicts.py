"""Turn a statistic into an outcome by controls that are measured on the same images.

A statistic is 0 for a map that does not track the model. Nothing about the outcome is set by hand
but the rule itself: the `limit` is zero or the highest value that a negative control reaches, and
the oracle control (a map that tracks the model by construction) shows what can be reached. A method

- passes where its whole interval lies above the limit;
- fails where its interval contains zero or less and lies wholly below half of the lower end of the
  oracle's interval: with few images both ends give way, and nothing fails;
- is unclear otherwise: more images would tell.

The check is broken where a negative control passes by this rule, and blunt where the oracle does
not: it cannot tell then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heatproof.auditing.base import Verdict
from heatproof.auditing.task import AuditTask, MapSource
from heatproof.statistics import Interval

# Of the intervals that decide: an audit asks many questions, and one in a hundred may mislead.
LEVEL = 0.99
ORACLE = "a map that follows"
"""The oracle control's name in files and figures."""
Outcome = Literal["passes", "fails", "unclear", "broken", "blunt"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method's statistic beside that of the controls.

    broken_by: the negative controls that pass, which none should.
    """

    statistic: Interval
    controls: Mapping[str, Interval]
    oracle: Interval
    limit: float
    outcome: Outcome
    broken_by: tuple[str, ...] = ()

    @property
    def limits(self) -> str:
        """The limit and the oracle's value, for the evidence."""
        return f"limit {self.limit:.3f} from the controls; oracle control {self.oracle.value:.3f}"

    @property
    def why(self) -> str:
        """Why the check cannot tell, in a clause."""
        if self.outcome == "broken":
            return f"the check is broken here: the control {' and '.join(self.broken_by)} passes it"
        if self.outcome == "blunt":
            return (
                f"the check has no power here: the oracle control reaches only {self.oracle}, "
                f"which is not above the limit of {self.limit:.3f}"
            )
        return (
            f"the interval does not lie above the limit of {self.limit:.3f}, and is too wide to "
            f"rule out a map that tracks the model in part (oracle control: "
            f"{self.oracle.value:.3f}); try more images"
        )

    def verdict(self, seen: str, *, passes: str, fails: str) -> tuple[Verdict, str]:
        """Return the verdict and its evidence; `passes` and `fails` say what `seen` then shows."""
        match self.outcome:
            case "passes":
                return "holds", f"{passes}: {seen}."
            case "fails":
                return "violated", f"{fails}: {seen}."
            case _:
                return "cannot tell", f"{seen[0].upper()}{seen[1:]}: {self.why}."

    @property
    def numbers(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "statistic": self.statistic.plain,
            "controls": {name: interval.plain for name, interval in self.controls.items()},
            ORACLE: self.oracle.plain,
            "limit": round(self.limit, 6),
            "outcome": self.outcome,
            "broken by": list(self.broken_by),
        }


def compare_with_controls(
    task: AuditTask, subject: MapSource, key: str, measure: Callable[[MapSource], Interval]
) -> Comparison:
    """Measure the method and the controls, whose values are computed once per task and `key`."""

    def measured(other: MapSource) -> Interval:
        return task.cached(("statistic", key, other), lambda: measure(other))

    controls = {name: measured(control) for name, control in task.controls.items()}
    own = next((name for name, control in task.controls.items() if control == subject), None)
    return compare(measured(subject), controls, measured(task.oracle), own)


def compare(
    statistic: Interval,
    controls: Mapping[str, Interval],
    oracle: Interval,
    own: str | None = None,
) -> Comparison:
    """Apply the rule; `own` names the control that the method itself is, if it is one.

    A control is compared with the other controls only.
    """
    broken = tuple(
        name
        for name, interval in controls.items()
        if interval.low > _limit(controls, leave_out=name)
    )
    limit = _limit(controls, leave_out=own)
    # A check that a negative control passes says nothing about any method.
    if broken:
        outcome: Outcome = "broken"
    elif not oracle.low > limit:
        outcome = "blunt"
    elif statistic.low > limit:
        outcome = "passes"
    elif statistic.low <= 0 and statistic.high < oracle.low / 2:
        outcome = "fails"
    else:
        outcome = "unclear"
    return Comparison(
        statistic=statistic,
        controls=controls,
        oracle=oracle,
        limit=limit,
        outcome=outcome,
        broken_by=broken,
    )


def _limit(controls: Mapping[str, Interval], leave_out: str | None) -> float:
    values = [interval.value for name, interval in controls.items() if name != leave_out]
    return max([0.0, *(value for value in values if value == value)])  # a NaN bounds nothing
