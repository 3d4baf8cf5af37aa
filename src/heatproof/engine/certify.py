"""The checks behind a certificate: from the evidence of all batches to verdicts in plain words."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.certificate import HANDED_IN, NO_CHECK, Certificate, Check
from heatproof.engine.following import Following
from heatproof.methods.base import Factors, Method
from heatproof.methods.pass_context import Side
from heatproof.models.model import Model
from heatproof.models.towers import Readout
from heatproof.tolerances import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What all batches of one explanation showed, put together.

    Attributes:
        names: what the items and the targets are called.
        untouched: scores of the model's own encoder.
        explained: scores of the pass that was explained.
        sums: the values' sums over tokens.
        total: what they promise to add up to; None where nothing is promised.
        live_rows: the query rows of the last attention call that feed the score.
        readout: the described readout row of each item; None where all of `content` is read out.
        has_gradient: whether the score's gradient arrived, by path.
        finite: whether all values are finite numbers.
    """

    side: Side
    names: tuple[Sequence[str], Sequence[str]]
    untouched: Float[Tensor, "item target"]
    explained: Float[Tensor, "item target"]
    sums: Float[Tensor, "item target"]
    total: Float[Tensor, "item target"] | None
    live_rows: Bool[Tensor, "item query"]
    readout: list[int | None]
    content: slice
    has_gradient: dict[str, bool]
    finite: bool


def certify(
    model: Model,
    method: Method,
    factors: Factors,
    evidence: Evidence,
    following: Following,
    *,
    input_check: Check,
    warnings: Sequence[str],
    seed: int,
) -> Certificate:
    """Return the certificate: each check compares the evidence with its tolerance."""
    tower = model.text if evidence.side == "text" else None
    readout = (tower or model.image).readout
    checks = (
        _parity(model, factors, evidence),
        _native(factors),
        _readout(readout, evidence),
        _reach(evidence),
        _complete(model, method, evidence),
        _finite(evidence),
        input_check,
    )
    return Certificate(
        checks=checks,
        native=factors.native,
        substituted=factors.substituted,
        replaced=factors.replaced,
        null_prompts=following.changes,
        common_share=following.common_share,
        follows=following.light,
        says_nothing=following.says_nothing,
        warnings=(*warnings, *following.warnings),
        environment=environment(model, seed),
        weights=model.weights,
    )


def unchecked(model: Model, method: Method, factors: Factors, following: Following) -> Certificate:
    """Return a certificate without checks: what the method says of itself."""
    return Certificate(
        checks=(),
        native=factors.native,
        substituted=factors.substituted,
        replaced=factors.replaced,
        follows=following.light,
        says_nothing=following.says_nothing,
        warnings=following.warnings,
        weights=model.weights,
        reason=HANDED_IN if method.foreign else NO_CHECK,
    )


def environment(model: Model, seed: int) -> dict[str, Any]:
    """Return what one needs to make the same map again: versions, device, dtype, weights, seed."""
    packages = ("heatproof", "torch", "open_clip_torch", "timm", "transformers")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        **versions,
        "device": str(model.device),
        "dtype": str(model.precision).removeprefix("torch."),
        "weights_sha256": model.weights_hash,
        "seed": seed,
    }


# --- the checks -------------------------------------------------------------------------------


def _parity(model: Model, factors: Factors, ev: Evidence) -> Check:
    gaps = (ev.explained - ev.untouched).abs()
    # Relative to the largest score. Scores near 0 (cosines) are compared absolutely: what is left
    # of them after cancellation is no measure of rounding.
    limit = TOLERANCE[model.precision] * max(1.0, float(ev.untouched.abs().max()))
    gap = float(gaps.max())
    if gap <= limit:
        text = f"the explained pass scores as the untouched model does, to {gap:.2g}"
        return Check("parity", "holds", text, gap, limit)
    item, target = divmod(int(gaps.argmax()), gaps.shape[1])
    pair = f"{ev.names[0][item]!r} with {ev.names[1][target]!r}"
    theirs, yours = (float(t[item, target]) for t in (ev.explained, ev.untouched))
    scores = f"{theirs:.4g} where yours scores {yours:.4g}"
    why = f": {'; '.join(factors.substituted)}" if factors.substituted else ""
    text = f"This map explains another model than yours{why}. That model scores {pair} {scores}."
    return Check("parity", "violated", text + _flips(ev), gap, limit)


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


def _readout(readout: Readout, ev: Evidence) -> Check:
    described = torch.zeros_like(ev.live_rows)
    for item, row in enumerate(ev.readout):
        described[item, ev.content if row is None else row] = True
    if torch.equal(described, ev.live_rows):
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
    dead = [path for path, arrived in ev.has_gradient.items() if not arrived]
    if not dead:
        count = len(ev.has_gradient)
        calls = (
            "the attention call that was"
            if count == 1
            else f"all {count} attention calls that were"
        )
        text = f"the score's gradient reaches {calls} read"
        return Check("gradient reach", "holds", text)
    text = f"No gradient of the score reaches {dead[0]}: the map says nothing about that layer."
    return Check("gradient reach", "violated", text)


def _complete(model: Model, method: Method, ev: Evidence) -> Check:
    if ev.total is None:
        return Check("completeness", "not applicable", "the method promises no sum")
    gap = float((ev.sums - ev.total).abs().max())
    # Both sides are computed from the same pass, and never in less than float32.
    limit = TOLERANCE[torch.float64 if model.dtype == torch.float64 else torch.float32]
    limit *= max(1.0, float(ev.total.abs().max()))
    if gap <= limit:
        return Check("completeness", "holds", f"the values {_promise(method)}", gap, limit)
    text = f"This map breaks its promise: its values miss their sum by {gap:.3g}."
    return Check("completeness", "violated", text, gap, limit)


def _promise(method: Method) -> str:
    return method.card.values.split("; ", 1)[-1].replace("all key tokens ", "of all key tokens ")


def _finite(ev: Evidence) -> Check:
    if ev.finite:
        return Check("finite", "holds", "every value is a finite number")
    return Check(
        "finite", "violated", "This map holds values that are no numbers (NaN or infinite)."
    )
