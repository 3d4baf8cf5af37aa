"""The checks behind a certificate: from the evidence of read passes to verdicts in plain words."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.certificate import HANDED_IN, NO_CHECK, Certificate, Check, Light
from heatproof.methods.base import Factors, Method, Side
from heatproof.models.model import Model
from heatproof.models.towers import Readout
from heatproof.tolerances import TOLERANCE

# Controls that say nothing about any picture; an explanation should change under them.
NULL_PROMPTS = {
    "empty": "",
    "gibberish": "xqvz kjwprt fghlm",
    "unrelated": "the quarterly report of a shipping insurance company",
}
UNCHANGED = 0.01


@dataclass(frozen=True)
class Following:
    """How maps follow their prompts: by kind of null prompt, in all, and in one light."""

    changes: dict[str, float]
    common_share: float | None
    light: Light
    warnings: tuple[str, ...] = ()
    says_nothing: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Evidence:
    """What all chunks of one explanation showed, put together."""

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
    side: Side,
    labels: tuple[Sequence[str], Sequence[str]],
    evidence: Evidence,
    following: Following,
    warnings: Sequence[str],
    seed: int,
    more: Sequence[Check] = (),
) -> Certificate:
    """Hold the evidence to the tolerances. `labels` name items and targets; `more` are checks that
    were made elsewhere."""
    factors = method.factors(side)
    readout = model.image.readout if side == "image" or model.text is None else model.text.readout
    checks = (
        _parity(model, factors, labels, evidence),
        _native(factors),
        _readout(readout, evidence),
        _reached(evidence),
        _complete(model, method, evidence),
        _finite(evidence),
        *more,
    )
    return Certificate(
        checks,
        factors.native,
        factors.substituted,
        following.changes,
        (*warnings, *following.warnings),
        environment(model, seed),
        factors.replaced,
        following.common_share,
        following.light,
        following.says_nothing,
        model.weights,
    )


def unchecked(model: Model, method: Method, side: Side, following: Following) -> Certificate:
    """What is known without any check: what the method says of itself."""
    factors = method.factors(side)
    return Certificate(
        (),
        factors.native,
        factors.substituted,
        warnings=following.warnings,
        replaced=factors.replaced,
        follows=following.light,
        says_nothing=following.says_nothing,
        weights=model.weights,
        reason=HANDED_IN if method.foreign else NO_CHECK,
    )


def _parity(
    model: Model, factors: Factors, labels: tuple[Sequence[str], Sequence[str]], ev: Evidence
) -> Check:
    gaps = (ev.explained - ev.untouched).abs()
    # Relative to the largest score, or to 1.
    limit = TOLERANCE[model.precision] * max(1.0, float(ev.untouched.abs().max()))
    gap = float(gaps.max())
    if gap <= limit:
        text = f"the explained pass scores as the untouched model does, to {gap:.2g}"
        return Check("parity", "holds", text, gap, limit)
    item, target = divmod(int(gaps.argmax()), gaps.shape[1])
    pair = f"{labels[0][item]!r} with {labels[1][target]!r}"
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
    made_of = "; ".join(factors.substituted)
    text = f"This map is made of something that your model never computes: {made_of}."
    if factors.replaced == "backward rule":
        text = (
            f"The forward pass is your model's own; the derivatives follow another rule: {made_of}."
        )
    return Check("native factors", "violated", text)


def _readout(readout: Readout, ev: Evidence) -> Check:
    expected = torch.zeros_like(ev.live_rows)
    for item, row in enumerate(ev.readout):
        expected[item, ev.content if row is None else row] = True
    if torch.equal(expected, ev.live_rows):
        text = f"the score depends on the {readout.name} alone, as described"
        if readout.row is None and readout.name == "mean of tokens":
            text = "the score depends on every patch's row, as described (mean of tokens)"
        return Check("readout", "holds", text)
    rows = [int(count) for count in ev.live_rows.sum(1)]
    text = f"This map reads the {readout.name}, but {min(rows)} to {max(rows)} rows feed the score."
    return Check("readout", "violated", text)


def _reached(ev: Evidence) -> Check:
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


def change(
    maps: Float[Tensor, "image prompt token"], null: Float[Tensor, "image token"]
) -> Float[Tensor, "image prompt"]:
    """1 - cosine of each signed map to the null prompt's; 0 where both are zero everywhere."""
    null = null.unsqueeze(1)
    lengths = maps.norm(dim=-1) * null.norm(dim=-1)
    cosine = (maps * null).sum(-1) / lengths.clamp(min=torch.finfo(maps.dtype).tiny)
    both_zero = (maps.norm(dim=-1) == 0) & (null.norm(dim=-1) == 0)
    return torch.where(both_zero, torch.zeros_like(cosine), 1 - cosine)


def environment(model: Model, seed: int) -> dict[str, Any]:
    """Versions, hardware, dtype, hash and seed: what one needs to make the same map again."""
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
