"""Attribution error: the map's sum against the score's change from an explicit baseline.

For methods that promise a sum (`Method.total`). The measure is arXiv 2605.22417's: attribution
result against attribution target. Its normalisation is ours.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.ablation import fills
from heatproof.auditing.base import Finding
from heatproof.auditing.method_proxy import Wrapped
from heatproof.auditing.task import AuditTask
from heatproof.evaluation.subject import Subject
from heatproof.methods import Method, ReadPass
from heatproof.reading.interventions import knock_out, masked_keys
from heatproof.statistics import FEWEST
from heatproof.tolerances import TOLERANCE

CHECK = "attribution error"
QUESTION = "Does the map add up to the score's change from the baseline?"


def attribution_error(subject: Subject, bench: AuditTask, *, scenes: int = 64) -> Finding:
    """Mean |sum - change| over pictures, in units of the mean |change|.

    The baseline is the one, of those listed in `numbers`, whose change comes nearest to what the
    method promises. Two controls: a map of zeros, whose error is 1, and the sum of another
    picture's map. An error below both holds, above either is violated.
    """
    rows = (bench.named >= 0).nonzero()[:, 0][:scenes]
    found = _measured(subject, bench, rows)
    if found is None:
        text = "The method promises no sum."
        return Finding(CHECK, 2, QUESTION, "not applicable", text)
    sums, total, changes = found
    name = min(changes, key=lambda key: float((total - changes[key]).abs().mean()))
    change = changes[name]
    unit = float(change.abs().mean())
    missed = (sums - change).abs()
    error = statistics.mean(missed / unit)
    other = statistics.mean((sums.roll(1) - change).abs() / unit)
    gains = {
        "than a map of zeros": (change.abs() - missed) / unit,
        "than another picture's": ((sums.roll(1) - change).abs() - missed) / unit,
    }
    closer = {key: statistics.mean(values) for key, values in gains.items()}
    # Of gains that are all 0 no spread can be measured, and none is needed to see that none is one.
    none = len(rows) >= FEWEST and any(bool((values <= 0).all()) for values in gains.values())
    kept = float((sums - total).abs().max())
    exact = TOLERANCE[bench.model.precision] * max(1.0, float(total.abs().max()))
    numbers: dict[str, Any] = {
        "baseline": name,
        "error": error.plain,
        "error of another picture's sum": other.plain,
        "error of a map of zeros": 1.0,
        "closer": {key: each.plain for key, each in closer.items()},
        "promise missed by": kept,
        "float noise": exact,
        "mean score change by baseline": {
            key: round(float(each.mean()), 6) for key, each in changes.items()
        },
        "mean sum": round(float(sums.mean()), 6),
    }
    seen = (
        f"the sum misses the score's change from the baseline '{name}' by {error} of it (another "
        f"picture's sum by {other.value:.3f}, a map of zeros by 1); the method's own promise is "
        f"kept to {kept:.1g}"
    )
    if all(each.low > 0 for each in closer.values()) or float(missed.max()) <= exact:
        return Finding(CHECK, 2, QUESTION, "holds", f"The sum tells the change: {seen}.", numbers)
    if none or any(each.high <= 0 for each in closer.values()):
        text = f"The sum does not tell the change: {seen}."
        return Finding(CHECK, 2, QUESTION, "violated", text, numbers)
    return Finding(CHECK, 2, QUESTION, "cannot tell", f"Too few pictures: {seen}.", numbers)


class _Summing(Wrapped):
    """The method itself, its sums, promised totals and baselines kept as it runs."""

    def __init__(self, method: Method, bench: AuditTask) -> None:
        super().__init__(method)
        self.bench = bench
        self.sums: list[Tensor] = []
        self.totals: list[Tensor] = []
        self.changes: dict[str, list[Tensor]] = {}

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        values = self.method.attribute(read)
        total = self.method.total(read)
        if total is not None:
            self.sums.append(_plain(values.sum(-1)))
            self.totals.append(_plain(total))
            with torch.no_grad():
                for name, scores in _baselines(self.bench, read).items():
                    self.changes.setdefault(name, []).append(_plain(read.scores - scores))
        return values


def _plain(values: Tensor) -> Tensor:
    return values.detach().double().cpu()[:, 0]


def _baselines(bench: AuditTask, read: ReadPass) -> dict[str, Tensor]:
    """Scores of the baselines: nothing from the last call, no patches, flat pictures."""
    assert read.batch.pixels is not None
    last = bench.attention_layers[-1]
    patches = torch.ones(1, last.keys, dtype=torch.bool)
    patches[:, read.batch.content] = False
    silent = {last.path: knock_out(range(last.heads))}
    found = {"the last attention call hands nothing on": read.rerun(interventions=silent)}
    if (
        not patches.all()
        and patches.any()
        and all(s.keys == last.keys for s in bench.attention_layers)
    ):
        gone = {site.path: masked_keys(patches) for site in bench.attention_layers}
        found["no patch tokens"] = read.rerun(interventions=gone)
    for name, fill in fills(bench.model, bench.grid).items():
        found[f"{name} picture"] = read.rerun(fill(read.batch.pixels))
    # Where preprocessing ends in mean and deviation, zeros are the training data's mean colour.
    found["zeros"] = read.rerun(torch.zeros_like(read.batch.pixels))
    return found


def _measured(
    subject: Subject, bench: AuditTask, rows: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]] | None:
    spy = _Summing(subject.method, bench)
    order: list[Tensor] = []
    if subject.method.foreign:
        return None
    for label in bench.named[rows].unique().tolist():
        mine = rows[bench.named[rows] == label]
        Subject(spy).maps(
            bench.model, bench.pixels[mine], [bench.data.prompts[label]], seed=bench.seed
        )
        if not spy.sums:
            return None
        order.append(mine)
    at = torch.cat(order).argsort()
    return (
        torch.cat(spy.sums)[at],
        torch.cat(spy.totals)[at],
        {name: torch.cat(parts)[at] for name, parts in spy.changes.items()},
    )
