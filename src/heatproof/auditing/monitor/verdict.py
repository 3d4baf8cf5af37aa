"""What the forward monitor saw while a method ran, and its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from heatproof.auditing.base import Finding, Verdict
from heatproof.auditing.measures import code_of, percent
from heatproof.auditing.monitor.module_recorder import Event, TopCall, Watch
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign
from heatproof.reading import AttentionLayer

QUESTION = "While it runs, do the model's modules give what they give in an untouched pass?"

COARSE = 0.01
"""A limit above which the monitor would miss what it looks for: one head in place of the model's
moves an attention's output by 17 % to 39 %, other known changes by half of a percent and more."""


@dataclass(frozen=True)
class Reference:
    """The untouched pass over one picture: every module's outputs, by path, as they came."""

    embedding: Tensor
    events: dict[str, list[Event]]

    @property
    def order(self) -> list[str]:
        return list(self.events)


@dataclass(frozen=True)
class Difference:
    """Where an output differs from the untouched one, how much (relative), in which kind of pass.

    `size` is None where the module ran in one of the two passes alone.
    """

    path: str
    size: float | None
    phase: str


@dataclass(frozen=True)
class Seen:
    """All that was seen while the method ran, and afterwards."""

    watch: Watch
    before: Reference
    left: list[str]
    changed: list[Difference]
    own: list[Difference]
    incomparable: int
    limit: float
    sites: Sequence[AttentionLayer]

    @property
    def entries(self) -> list[TopCall]:
        return [top for top in self.watch.tops if top.entry]

    @property
    def own_calls(self) -> list[TopCall]:
        return [top for top in self.watch.tops if not top.entry]

    @property
    def skipped(self) -> list[str]:
        """Attention modules that user code's own pass went around, while it ran their block."""
        ran = {event.path for top in self.own_calls for event in top.events}
        paths = dict.fromkeys(site.path.split("#")[0] for site in self.sites)
        return [path for path in paths if path not in ran and _siblings(path) & ran]

    @property
    def saw_picture(self) -> bool:
        """Whether any module of the image tower ran at the model's own door."""
        image = set(self.before.events)
        return any(event.path in image for top in self.entries for event in top.events) or any(
            top.path in image for top in self.entries
        )

    @property
    def unfollowed(self) -> list[str]:
        """Modules inside the image tower whose weights were used directly, and after which no
        layer was called whose output would show what came of it."""
        order = self.before.order
        used = {name.rpartition(".")[0] for name in self.watch.weights}
        used = {path for path in used if path in order and path not in (self.watch.entries or ())}
        ran = [order.index(e.path) for t in self.own_calls for e in t.events if e.path in order]
        last = max(ran, default=-1)
        return sorted(path for path in used if order.index(path) > last)

    def numbers(self) -> dict[str, Any]:
        first = (self.changed or self.own or [None])[0]
        return {
            "passes": len(self.entries),
            "passes run again": sum(top.args is not None for top in self.entries),
            "changed passes": [vars(each) for each in self.changed],
            "own calls": len(self.own_calls),
            "own calls that differ": [vars(each) for each in self.own],
            "own calls not comparable": self.incomparable,
            "skipped": self.skipped,
            "weights used directly": dict(sorted(self.watch.weights.items())),
            "left behind": self.left,
            "first place": None if first is None else first.path,
            "limit": self.limit,
        }


def _siblings(path: str) -> set[str]:
    """Modules that are known to stand beside an attention module in a residual block."""
    parent = path.rpartition(".")[0]
    names = ("ln_1", "ln_2", "mlp", "norm1", "norm2", "layer_norm1", "layer_norm2")
    return {f"{parent}.{name}" for name in names}


def judge(subject: Subject, seen: Seen) -> Finding:
    """The forward monitor's finding."""
    verdict, text = _verdict(subject, seen)
    code = code_of(subject.method, "plan")
    return Finding("forward monitor", 1, QUESTION, verdict, text, seen.numbers(), code)


def _verdict(subject: Subject, seen: Seen) -> tuple[Verdict, str]:
    foreign = isinstance(subject.method, Foreign)
    accused = seen.changed
    if not foreign and not subject.method.factors("image").substituted:
        # A perturbation asks the model about other states; the pass it explains is another matter.
        accused = [each for each in seen.changed if each.phase == "pass"]
    if seen.left:
        return "violated", f"It leaves the model changed: {', '.join(seen.left)}."
    if accused:
        return "violated", _changed_text(accused, seen)
    if seen.own:
        return "violated", _own_text(seen)
    if not seen.watch.tops:
        return "cannot tell", _untouched_text(seen)
    compared = seen.saw_picture or len(seen.own_calls) > seen.incomparable
    if not compared:
        if seen.own_calls:
            text = f"It calls {len(seen.own_calls)} of the model's layers by itself, on inputs"
            return "cannot tell", f"{text} that the model's own pass cannot be compared on."
        return "cannot tell", "Only the text tower ran: the picture never went through the model."
    if seen.unfollowed:
        text = f"It computes with weights of {', '.join(seen.unfollowed)} by itself, and runs no"
        return "cannot tell", f"{text} module after that whose output could be compared."
    if seen.limit > COARSE:
        return "cannot tell", (
            f"Rounding hides the changes: in this number format a module may differ by "
            f"{percent(seen.limit)} and nothing is changed. Audit a model in float32."
        )
    return "holds", _holds_text(seen)


def _changed_text(accused: list[Difference], seen: Seen) -> str:
    first = accused[0]
    size = "in shape" if first.size is None else f"by {percent(first.size)}"
    return (
        f"The model's own pass is changed while the method runs: {first.path or 'its output'} "
        f"differs {size} from the same pass left alone (rounding: {seen.limit:.1g}), in "
        f"{len(accused)} of {sum(top.args is not None for top in seen.entries)} passes."
    )


def _own_text(seen: Seen) -> str:
    first = seen.own[0]
    assert first.size is not None
    largest = max(seen.own, key=lambda each: each.size or 0)
    around = f", going around {', '.join(seen.skipped)}" if seen.skipped else ""
    return (
        f"It runs a forward pass of its own, layer by layer{around}: {first.path} is the first to "
        f"differ from the untouched pass on the same input, by {percent(first.size)}; the most "
        f"{largest.path}, by {percent(largest.size or 0)} (rounding: {seen.limit:.1g})."
    )


def _untouched_text(seen: Seen) -> str:
    if seen.watch.weights:
        names = list(seen.watch.weights)
        return (
            f"It never runs the model's modules and computes with its weights directly "
            f"({len(names)} of them, {names[0]} first): nothing to compare with."
        )
    return "It never touches the model's modules or weights: whatever it explains is not seen here."


def _holds_text(seen: Seen) -> str:
    again = sum(top.args is not None for top in seen.entries)
    edited = len(seen.changed)
    parts: list[str] = []
    if again:
        parts.append(
            f"{again} of {len(seen.entries)} passes were run again, untouched: no module differs"
        )
    if seen.own_calls:
        parts.append(f"{len(seen.own_calls)} layers called one by one give what the model's give")
    if edited:
        parts[0] = f"{again} of {len(seen.entries)} passes were run again, untouched"
        parts.append(f"{edited} with an edited state differ: perturbations, not what is explained")
    return f"{'; '.join(parts)} (rounding: {seen.limit:.1g})."
