"""The checks behind a certificate: from the evidence of all batches to verdicts in plain words."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from heatproof.certificate import NO_CHECK, Certificate, Check, ParitySample, Weights
from heatproof.engine.following import PromptTracking
from heatproof.engine.input_check import InputDifferences
from heatproof.methods.base import Factors, Method
from heatproof.methods.pass_context import Side
from heatproof.models.model import Model
from heatproof.models.towers import Readout
from heatproof.tolerances import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the passes of one explanation showed of its items and targets.

    Attributes:
        names: what the items and the targets are called.
        untouched: scores of the model's own encoder.
        explained: scores of the pass that was explained.
        compared: the items of which the untouched model was run by itself. Of the others
            `untouched` is what the pass that was read gave before a method took part.
        sums: the values' sums over tokens.
        total: what they promise to add up to; None where nothing is promised.
        live_rows: the query rows of the last attention call that feed the score, by gradient.
        described_rows: those that are described as the readout.
        row_gaps: in place of these two: how far the embedding, computed from the readout row
            alone, is from the model's own, relative to its length.
        has_gradient: whether the score's gradient arrived, by path.
        finite: whether all values are finite numbers.
        largest_score: the largest |score| of the whole explanation, at least 1.
        largest_total: the largest |total|, at least 1.
        sample: how many items were compared, of how many in all.
    """

    side: Side
    names: tuple[Sequence[str], Sequence[str]]
    untouched: Float[np.ndarray, "item target"]
    explained: Float[np.ndarray, "item target"]
    compared: Bool[np.ndarray, " item"]
    sums: Float[np.ndarray, "item target"]
    total: Float[np.ndarray, "item target"] | None
    live_rows: Bool[np.ndarray, "item query"] | None
    described_rows: Bool[np.ndarray, "item query"] | None
    row_gaps: Float[np.ndarray, " item"] | None
    has_gradient: dict[str, Bool[np.ndarray, "item target"]]
    finite: Bool[np.ndarray, "item target"]
    largest_score: float
    largest_total: float
    sample: ParitySample

    def select(self, images: Sequence[int], prompts: Sequence[int]) -> "Evidence":
        """Return the evidence of some images and prompts."""
        items, targets = (images, prompts) if self.side == "image" else (prompts, images)
        items, targets = list(items), list(targets)
        rows = np.ix_(items, targets)
        return replace(
            self,
            names=(_some(self.names[0], items), _some(self.names[1], targets)),
            untouched=self.untouched[rows],
            explained=self.explained[rows],
            compared=self.compared[items],
            sums=self.sums[rows],
            total=None if self.total is None else self.total[rows],
            live_rows=None if self.live_rows is None else self.live_rows[items],
            described_rows=None if self.described_rows is None else self.described_rows[items],
            row_gaps=None if self.row_gaps is None else self.row_gaps[items],
            has_gradient={path: arrived[rows] for path, arrived in self.has_gradient.items()},
            finite=self.finite[rows],
        )


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a certificate says of the model, beside what was measured."""

    readout: Readout
    precision: torch.dtype
    dtype: torch.dtype
    weights: Weights
    environment: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is known of an explanation: its certificates are made from it.

    Attributes:
        promise: what the method says its values add up to.
        evidence: None where nothing was checked, for the given `reason`.
        input_check: compares with the library's own call.
        warnings: of the whole explanation.
    """

    factors: Factors
    tracking: PromptTracking
    model: ModelFacts
    promise: str = ""
    evidence: Evidence | None = None
    input_check: InputDifferences | None = None
    warnings: tuple[str, ...] = ()
    reason: str = NO_CHECK

    def certify(self, images: Sequence[int], prompts: Sequence[int]) -> Certificate:
        """Return the certificate of some images and prompts: each check is that of the worst."""
        following, factors = self.tracking.select(images, prompts), self.factors
        return Certificate(
            checks=self._checks(images, prompts),
            native=factors.native,
            substituted=factors.substituted,
            replaced=factors.replaced,
            null_prompts=following.changes,
            common_share=following.common_share,
            follows=following.light,
            says_nothing=following.says_nothing,
            warnings=(*self.warnings, *following.warnings),
            environment=self.model.environment,
            weights=self.model.weights,
            reason=self.reason,
        )

    def _checks(self, images: Sequence[int], prompts: Sequence[int]) -> tuple[Check, ...]:
        if self.evidence is None or self.input_check is None:
            return ()
        evidence = self.evidence.select(images, prompts)
        return (
            _parity(self.model, self.factors, evidence),
            _native(self.factors),
            _readout(self.model, evidence),
            _reach(evidence),
            _complete(self.model, self.promise, evidence),
            _finite(evidence),
            self.input_check.select(images, prompts),
        )


def facts(model: Model, side: Side, seed: int | None, weights: str = "") -> ModelFacts:
    """Return what a certificate says of the model; without a seed, not where it was made.

    weights: their hash, where it is known.
    """
    tower = model.text if side == "text" else None
    return ModelFacts(
        readout=(tower or model.image).readout,
        precision=model.precision,
        dtype=model.dtype,
        weights=model.weights,
        environment={} if seed is None else environment(model, seed, weights),
    )


def promise_of(method: Method) -> str:
    """Return what the method's card says that its values add up to."""
    return method.card.values.split("; ", 1)[-1].replace("all key tokens ", "of all key tokens ")


def environment(model: Model, seed: int, weights: str = "") -> dict[str, Any]:
    """Return what one needs to make the same map again: versions, device, dtype, weights, seed.

    weights: their hash, where it is known.
    """
    return {
        "python": platform.python_version(),
        **_versions(),
        "device": str(model.device),
        "dtype": str(model.precision).removeprefix("torch."),
        "weights_sha256": weights or model.weights_hash,
        "seed": seed,
    }


@cache  # files are searched and read
def _versions() -> dict[str, str]:
    packages = ("heatproof", "torch", "open_clip_torch", "timm", "transformers")
    return {name: metadata.version(name) for name in packages}


# --- the checks -------------------------------------------------------------------------------


def _parity(model: ModelFacts, factors: Factors, ev: Evidence) -> Check:
    gaps = np.abs(ev.explained - ev.untouched)
    # Relative to the largest score. Scores near 0 (cosines) are compared absolutely: what is left
    # of them after cancellation is no measure of rounding.
    limit = TOLERANCE[model.precision] * ev.largest_score
    gap = float(gaps.max())
    if gap <= limit:
        return _parity_holds(ev, gap, limit)
    item, target = divmod(int(gaps.argmax()), gaps.shape[1])
    pair = f"{ev.names[0][item]!r} with {ev.names[1][target]!r}"
    theirs, yours = (float(scores[item, target]) for scores in (ev.explained, ev.untouched))
    scores = f"{theirs:.4g} where yours scores {yours:.4g}"
    why = f": {'; '.join(factors.substituted)}" if factors.substituted else ""
    text = f"This map explains another model than yours{why}. That model scores {pair} {scores}."
    return Check("parity", "violated", text + _flips(ev), gap, limit)


def _parity_holds(ev: Evidence, gap: float, limit: float) -> Check:
    if ev.compared.all():
        text = f"the explained pass scores as the untouched model does, to {gap:.2g}"
        return Check("parity", "holds", text, gap, limit)
    # What was never compared has no gap: the figure is of the others, if there are any here.
    known = np.abs(ev.explained - ev.untouched)[ev.compared]
    most = float(known.max()) if known.size else None
    text = f"the explained pass scores as the untouched model does, {ev.sample.risk}"
    return Check("parity", "holds", text, most, limit, ev.sample)


def _flips(ev: Evidence) -> str:
    if ev.untouched.shape[1] < 2:
        return ""
    flips = int((ev.untouched.argmax(1) != ev.explained.argmax(1)).sum())
    return f" The best match changes for {flips} of {len(ev.untouched)}." if flips else ""


def _native(factors: Factors) -> Check:
    if not factors.substituted:
        text = "every factor of the map is one that the untouched model computes: "
        return Check("native factors", "holds", text + "; ".join(factors.native))
    foreign = "; ".join(factors.substituted)
    text = f"This map is made of something that your model never computes: {foreign}."
    if factors.replaced == "backward rule":
        text = (
            f"The forward pass is your model's own; the derivatives follow another rule: {foreign}."
        )
    return Check("native factors", "violated", text)


def _readout(model: ModelFacts, ev: Evidence) -> Check:
    readout = model.readout
    if ev.row_gaps is not None:
        gap, limit = float(ev.row_gaps.max()), TOLERANCE[model.precision]
        text = f"from the {readout.name} alone, as described, follows the model's own embedding"
        assert gap <= limit  # else the whole pass was taken (`last_block`)
        return Check("readout", "holds", f"{text}, to {gap:.2g}", gap, limit)
    assert ev.live_rows is not None
    assert ev.described_rows is not None
    if np.array_equal(ev.described_rows, ev.live_rows):
        text = f"the score depends on the {readout.name} alone, as described"
        if readout.row is None and readout.name == "mean of tokens":
            text = "the score depends on every patch's row, as described (mean of tokens)"
        return Check("readout", "holds", text)
    rows = [int(count) for count in ev.live_rows.sum(1)]
    text = f"This map reads the {readout.name}, but {min(rows)} to {max(rows)} rows feed the score."
    return Check("readout", "violated", text)


def _reach(ev: Evidence) -> Check:
    if not ev.has_gradient:
        return Check(
            "gradient reach", "not applicable", "no gradient with respect to attention is read"
        )
    dead = [(path, arrived) for path, arrived in ev.has_gradient.items() if not arrived.all()]
    if not dead:
        count = len(ev.has_gradient)
        calls = (
            "the attention call that was"
            if count == 1
            else f"all {count} attention calls that were"
        )
        text = f"the score's gradient reaches {calls} read"
        return Check("gradient reach", "holds", text)
    path, arrived = dead[0]
    which = "" if not arrived.any() else f" in {int((~arrived).sum())} of {arrived.size} maps"
    text = f"No gradient of the score reaches {path}{which}: the map says nothing about that layer."
    return Check("gradient reach", "violated", text)


def _complete(model: ModelFacts, promise: str, ev: Evidence) -> Check:
    if ev.total is None:
        return Check("completeness", "not applicable", "the method promises no sum")
    gap = float(np.abs(ev.sums - ev.total).max())
    # Both sides are computed from the same pass, and never in less than float32.
    limit = TOLERANCE[torch.float64 if model.dtype == torch.float64 else torch.float32]
    limit *= ev.largest_total
    if gap <= limit:
        return Check("completeness", "holds", f"the values {promise}", gap, limit)
    text = f"This map breaks its promise: its values miss their sum by {gap:.3g}."
    return Check("completeness", "violated", text, gap, limit)


def _finite(ev: Evidence) -> Check:
    if ev.finite.all():
        return Check("finite", "holds", "every value is a finite number")
    return Check(
        "finite", "violated", "This map holds values that are no numbers (NaN or infinite)."
    )


def _some(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    return [names[number] for number in numbers]
