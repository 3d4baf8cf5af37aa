"""Check that the model's modules compute the same while a method runs as in an untouched pass."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Verdict,
    register_check,
)
from heatproof.auditing.comparison import code_of, percent, relative_change
from heatproof.auditing.monitor import replay
from heatproof.auditing.monitor.module_recorder import ModuleRecorder, TopCall
from heatproof.auditing.monitor.replay import MARGIN, OutputDifference, UntouchedPass
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.methods.proxy import MethodProxy
from heatproof.reading import AttentionLayer
from heatproof.reading.weight_edits import fingerprint, temporary_weights

# A limit above which the monitor would miss what it looks for: one head in place of the model's
# moves an attention's output by 17 % to 39 %, other known changes by half of a percent and more.
COARSE = 0.01


@register_check
@dataclass(frozen=True)
class ForwardMonitorCheck(AuditCheck):
    """Watch one image with one prompt, then run again what was run, with nobody's code around.

    How it works is told in `auditing/monitor`.
    """

    card = CheckCard(
        name="forward-monitor",
        title="forward monitor",
        principle=1,
        place=2,
        question="While it runs, do the model's modules give what they give in an untouched pass?",
        answers="own pass",
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Watch the method; weights that user code leaves changed are noted, and restored."""
        foreign = subject.method.foreign
        restored = temporary_weights(context.model.module, restore="copy")
        with restored if foreign else nullcontext():
            record = _watch(subject, context.first(1, 1))
        code = code_of(subject.method, "plan")
        return self.finding(*_verdict(subject, record), record.numbers(), code)


class _MonitoredMethod(MethodProxy):
    """A method whose pass and attribution are recorded, and nothing that is done around them."""

    def __init__(self, method: Method, recorder: ModuleRecorder) -> None:
        super().__init__(method)
        self.recorder = recorder

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(layers, side)
        self.recorder.active, self.recorder.phase = True, "pass"
        return plan

    def attribute(self, read: ReadPass) -> Tensor:
        self.recorder.phase = "attribution"
        try:
            return super().attribute(read)
        finally:
            self.recorder.active = False


def _monitored(method: Method, recorder: ModuleRecorder) -> Method:
    if not isinstance(method, Foreign):
        return _MonitoredMethod(method, recorder)

    def call(image: Any, prompt: str) -> Any:
        recorder.active = True
        try:
            return method.call(image, prompt)
        finally:
            recorder.active = False

    return Foreign(call, takes=method.takes, name=method.name)


@dataclass(frozen=True, kw_only=True)
class MonitorRecord:
    """What was recorded while the method ran, and what came of the comparisons.

    left: what the method left changed. changed: differences in passes through the model's entries.
    own: differences of layers that the code called by itself; `incomparable` of these calls could
    be compared with nothing. limit: a relative difference that rounding can make.
    """

    recorder: ModuleRecorder
    untouched: UntouchedPass
    left: list[str]
    changed: list[OutputDifference]
    own: list[OutputDifference]
    incomparable: int
    limit: float
    layers: Sequence[AttentionLayer]

    @property
    def entries(self) -> list[TopCall]:
        """Calls of what an untouched pass calls at the top."""
        return [top for top in self.recorder.tops if top.entry]

    @property
    def own_calls(self) -> list[TopCall]:
        """Calls of layers that the code made by itself."""
        return [top for top in self.recorder.tops if not top.entry]

    @property
    def replayed(self) -> int:
        """How many passes were run again."""
        return sum(top.inputs is not None for top in self.entries)

    @property
    def skipped(self) -> list[str]:
        """Attention modules that the code's own pass went around, while it ran their block."""
        ran = {call.path for top in self.own_calls for call in top.calls}
        paths = dict.fromkeys(layer.path.split("#")[0] for layer in self.layers)
        return [path for path in paths if path not in ran and _siblings(path) & ran]

    @property
    def saw_image(self) -> bool:
        """Whether any module of the image tower ran below one of the model's entries."""
        image = set(self.untouched.calls)
        below = (call.path for top in self.entries for call in top.calls)
        return any(path in image for path in below) or any(t.path in image for t in self.entries)

    @property
    def untraced(self) -> list[str]:
        """Modules of the image tower whose weights were used directly, with no layer after them.

        What came of such a use shows in no output that could be compared.
        """
        order = self.untouched.order
        used = {name.rpartition(".")[0] for name in self.recorder.weights}
        used = {path for path in used if path in order} - set(self.recorder.entries or ())
        ran = [order.index(c.path) for t in self.own_calls for c in t.calls if c.path in order]
        last = max(ran, default=-1)
        return sorted(path for path in used if order.index(path) > last)

    def numbers(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        first = (self.changed or self.own or [None])[0]
        return {
            "passes": len(self.entries),
            "passes run again": self.replayed,
            "changed passes": [vars(difference) for difference in self.changed],
            "own calls": len(self.own_calls),
            "own calls that differ": [vars(difference) for difference in self.own],
            "own calls not comparable": self.incomparable,
            "skipped": self.skipped,
            "weights used directly": dict(sorted(self.recorder.weights.items())),
            "left behind": self.left,
            "first place": None if first is None else first.path,
            "limit": self.limit,
        }


def _siblings(path: str) -> set[str]:
    """Return modules that are known to stand beside an attention module in a residual block."""
    parent = path.rpartition(".")[0]
    names = ("ln_1", "ln_2", "mlp", "norm1", "norm2", "layer_norm1", "layer_norm2")
    return {f"{parent}.{name}" for name in names}


def _watch(subject: Subject, context: CheckContext) -> MonitorRecord:
    model, root, pixels = context.model, context.model.module, context.pixels()
    layers = context.attention_layers()
    # Before anything of the method runs: what differs afterwards is its doing.
    weights, hooks = fingerprint(root), _count_hooks(root)
    untouched, tops = replay.untouched_pass(model, pixels)
    limit = MARGIN * replay.rounding(model, pixels, untouched)
    entries = {*replay.with_holders(tops), *replay.text_entries(model, context.prompts)}
    # Inactive until the method itself is asked: what the engine does before is not the method's.
    recorder = ModuleRecorder(root, entries, active=False)
    monitored = replace(subject, method=_monitored(subject.method, recorder))
    with recorder.hooked():
        context.maps(monitored)
    left = [] if weights == fingerprint(root) else ["changed weights"]
    with torch.no_grad():
        moved = relative_change(model.image.encode(pixels), untouched.embedding)
    if moved > limit:
        left.append(f"an embedding that moved by {percent(moved)}")
    if _count_hooks(root) > hooks:
        left.append("forward hooks of its own")
    changed = replay.changed_passes(root, recorder, limit)
    own, incomparable = replay.own_pass(model, recorder, pixels, limit)
    return MonitorRecord(
        recorder=recorder,
        untouched=untouched,
        left=left,
        changed=changed,
        own=own,
        incomparable=incomparable,
        limit=limit,
        layers=layers,
    )


def _count_hooks(module: nn.Module) -> int:
    """Count hooks, and forwards that were replaced on the instance."""
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + ("forward" in part.__dict__)  # pyright: ignore[reportPrivateUsage]
        for part in module.modules()
    )


def _verdict(subject: Subject, record: MonitorRecord) -> tuple[Verdict, str]:
    accused = record.changed
    if not subject.method.foreign and not subject.method.factors("image").substituted:
        # A perturbation asks the model about other states; the pass it explains is another matter.
        accused = [difference for difference in record.changed if difference.phase == "pass"]
    if record.left:
        return "violated", f"It leaves the model changed: {', '.join(record.left)}."
    if accused:
        return "violated", _changed_in_words(accused, record)
    if record.own:
        return "violated", _own_pass_in_words(record)
    if not record.recorder.tops:
        return "cannot tell", _nothing_ran_in_words(record)
    if not record.saw_image and len(record.own_calls) <= record.incomparable:
        if record.own_calls:
            return "cannot tell", (
                f"It calls {len(record.own_calls)} of the model's layers by itself, on inputs on "
                "which the model's own pass cannot be compared."
            )
        return "cannot tell", "Only the text tower ran: the image never went through the model."
    if record.untraced:
        return "cannot tell", (
            f"It computes with the weights of {', '.join(record.untraced)} by itself, and runs no "
            "module after that whose output could be compared."
        )
    if record.limit > COARSE:
        return "cannot tell", (
            "Rounding hides the changes: in this number format a module's output may differ by "
            f"{percent(record.limit)} although nothing is changed. Audit a model in float32."
        )
    return "holds", _unchanged_in_words(record)


def _changed_in_words(accused: list[OutputDifference], record: MonitorRecord) -> str:
    first = accused[0]
    size = "in shape" if first.size is None else f"by {percent(first.size)}"
    return (
        f"The model's own pass is changed while the method runs: {first.path or 'its output'} "
        f"differs {size} from the same pass without the method (rounding: {record.limit:.1g}), in "
        f"{len(accused)} of {record.replayed} passes."
    )


def _own_pass_in_words(record: MonitorRecord) -> str:
    first = record.own[0]
    largest = max(record.own, key=lambda difference: difference.size or 0)
    around = f", going around {', '.join(record.skipped)}" if record.skipped else ""
    return (
        f"It runs a forward pass of its own, layer by layer{around}: {first.path} is the first to "
        f"differ from the untouched pass on the same input, by {percent(first.size or 0)}; "
        f"{largest.path} differs most, by {percent(largest.size or 0)} (rounding: "
        f"{record.limit:.1g})."
    )


def _nothing_ran_in_words(record: MonitorRecord) -> str:
    names = list(record.recorder.weights)
    if names:
        return (
            "It never runs the model's modules and computes with its weights directly "
            f"({len(names)} of them, {names[0]} first): there is nothing to compare with."
        )
    return "It never uses the model's modules or weights: what it explains cannot be seen here."


def _unchanged_in_words(record: MonitorRecord) -> str:
    edited = len(record.changed)
    parts: list[str] = []
    if record.replayed:
        part = f"{record.replayed} of {len(record.entries)} passes were run again, untouched"
        parts.append(part if edited else f"{part}: no module differs")
    if record.own_calls:
        count = len(record.own_calls)
        parts.append(f"{count} layers called one by one return what the model's own pass returns")
    if edited:
        parts.append(f"{edited} with an edited state differ: perturbations, not what is explained")
    return f"{'; '.join(parts)} (rounding: {record.limit:.1g})."
