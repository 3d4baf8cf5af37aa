"""A proof as text: markdown with its LaTeX, JSON, and a summary for the terminal."""

import json
import math
import platform
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

from heatproof.proofs import counterexample
from heatproof.proofs.algebra.exact import ExactDifference
from heatproof.proofs.algebra.limits import Limit
from heatproof.proofs.cost import Cost
from heatproof.proofs.models import TOLERANCE, ModelRun, text_of
from heatproof.proofs.prove_methods import Proof

SAID = {"proved": "PROVED", "refuted": "REFUTED", "open": "OPEN: neither proved nor refuted"}
MEASURES = {
    "passes": "forward passes",
    "gradients": "gradients of the score",
    "saved_tensors": "tensors saved for the backward pass",
    "saved_bytes": "bytes saved for the backward pass",
    "peak_bytes": "peak bytes of activations",
    "seconds": "seconds",
}


def save(proof: Proof, folder: Path) -> list[Path]:
    """Write proof.json, proof.md and the counterexamples; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in (counterexample.EXACT, counterexample.MODEL):
        (folder / earlier).unlink(missing_ok=True)
        (folder / earlier).with_suffix(".safetensors").unlink(missing_ok=True)
    made = [folder / "proof.json", folder / "proof.md"]
    made[0].write_text(as_json(proof) + "\n", "utf-8")
    made[1].write_text(markdown(proof), "utf-8")
    if proof.models.smallest is not None:
        made.append(counterexample.save_on_model(proof.models.smallest, folder))
    if proof.exact is not None and proof.exact.smallest is not None:
        made.append(counterexample.save_exact(proof.exact.smallest, folder))
    return made


def question(proof: Proof) -> str:
    return f"{proof.names[0]} = {proof.names[1]}?"


def verdict(proof: Proof) -> str:
    """The verdict with the levels that carry it."""
    said = SAID[proof.verdict]
    if proof.verdict == "open":
        return f"{said} (not refuted on {len(proof.models.by_model)} models)"
    return f"{said} ({', '.join(proof.carried_by)})"


def scope(proof: Proof) -> str:
    """What was run over."""
    if not proof.varied:
        return f"one setting: {' against '.join(text_of(each) for each in proof.pairs[0])}"
    varied = "; ".join(f"{k}: {', '.join(map(str, v))}" for k, v in proof.varied.items())
    return f"{len(proof.pairs)} settings ({varied})"


def summary(proof: Proof) -> Iterator[str]:
    """The terminal's lines."""
    yield f"{question(proof)}  {verdict(proof)}"
    yield f"  {scope(proof)}"
    for level in proof.levels:
        yield f"  {level.name}: {level.verdict}; {level.evidence}"
    if proof.models.refused:
        yield f"  refused: {refusals(proof.models)}"
    if proof.models.smallest is not None:
        place = proof.models.smallest.place
        where = f"{place.model}, {place.side} side, token {place.token}"
        yield f"  smallest model that shows it: {where}"
        yield f"    {' against '.join(place.settings)}: differ by {place.absolute:.3g}"
    if proof.exact is not None and proof.exact.smallest is not None:
        yield f"  smallest network of fractions that shows it: {fractions(proof.exact.smallest)}"
    for limit in proof.limits:
        yield f"  limit: {sentence(limit)}"
    if proof.cost is not None:
        yield f"  cost on {proof.cost.model} ({proof.cost.device}), second over first:"
        for name, said in MEASURES.items():
            values = " and ".join(_number(getattr(side, name)) for side in proof.cost.sides)
            yield f"    {said}: {values}{_ratio(proof.cost, name)}"


def fractions(found: ExactDifference) -> str:
    """Where two maps of fractions differ."""
    heads, tokens, channels = found.network.size
    one, other = (float(each[found.token]) for each in found.maps)
    return (
        f"{heads} head(s), {tokens} token(s), {channels} channel(s) a head; token {found.token}: "
        f"{one:.6g} against {other:.6g}"
    )


def refusals(run: ModelRun) -> str:
    total = sum(run.refused.values())
    why, most = run.refused.most_common(1)[0]
    return f"{total:,} of {total + run.compared:,} runs; most often ({most}) {why}"


def sentence(limit: Limit) -> str:
    """A limit in one line."""
    heads, tokens, channels = limit.case.size
    return (
        f"{limit.name}: another map, from {heads} head(s), {tokens} token(s), {channels} "
        f"channel(s) on: {_numbers(limit.maps[0])} against {_numbers(limit.maps[1])}"
    )


# --- markdown --------------------------------------------------------------------------------


def markdown(proof: Proof) -> str:
    """The whole proof as a page."""
    parts = [
        f"# {question(proof)}",
        f"**{verdict(proof)}**",
        f"Compared: {scope(proof)}. Random exact networks from seed {proof.seed}.",
        "| level | verdict | evidence |\n|---|---|---|\n"
        + "\n".join(f"| {x.name} | {x.verdict} | {x.evidence} |" for x in proof.levels),
    ]
    parts += _steps(proof) + _difference(proof) + _models(proof.models)
    parts += _limits(proof.limits) + _cost(proof.cost)
    return "\n\n".join(parts) + "\n"


def _steps(proof: Proof) -> list[str]:
    if not proof.steps:
        return []
    parts = [
        "## The derivation",
        "Heads $h$, keys $i$, channels $c$; $A$ the attention weights of the readout's row, $v$ "
        "the values, $o_{h,c} = \\sum_i A_{h,i} v_{h,i,c}$ the attention's output there, $g = "
        "\\partial S/\\partial o$, $u$ the spatial weight, $s$ the logits. $S$ is an undefined "
        "differentiable function of $o$. Each line was checked by SymPy as it is printed, for "
        "several sizes.",
    ]
    for number, step in enumerate(proof.steps, 1):
        mark = "checked" if step.checked else "NOT CHECKED"
        parts.append(f"{number}. **{step.name}** ({mark})\n\n   $$ {step.latex} $$")
    return parts


def _difference(proof: Proof) -> list[str]:
    run = proof.symbolic
    if run is None or run.equal or run.size is None:
        return []
    heads, tokens, channels = run.size
    return [
        f"## What remains\n\nThe first map minus the second, {heads} head(s), {tokens} token(s), "
        f"{channels} channel(s) a head:\n\n$$ {run.difference} $$"
    ]


def _models(run: ModelRun) -> list[str]:
    rows = "\n".join(f"| {name} | {worst:.1e} |" for name, worst in run.by_model.items())
    parts = [
        "## On models\n\nLargest difference over the map's largest value, over all settings, both "
        f"sides; {TOLERANCE:.0e} is allowed. Values of all key tokens are compared.\n\n"
        f"| model | largest difference |\n|---|---|\n{rows}"
    ]
    if run.refused:
        listed = "\n".join(f"- {count}: {why}" for why, count in run.refused.most_common())
        parts.append(f"Refused by the methods, compared by nobody:\n\n{listed}")
    return parts


def _limits(limits: Sequence[Limit]) -> list[str]:
    if not limits:
        return []
    parts = [
        "## Where the equivalence ends\n\nThe smallest layers that a search found; the score is "
        "$S = g \\cdot o$."
    ]
    for limit in limits:
        case, below = limit.case, ", ".join(map(str, limit.below)) or "none is smaller"
        parts.append(
            f"**{limit.name}**: $ {limit.left} \\neq {limit.right} $\n\n"
            f"{limit.case.size[0]} head(s), {case.size[1]} token(s), {case.size[2]} channel(s): "
            f"$A$ = {_nested(case.weights)}, $g$ = {_nested(case.gradient)}, $v$ = "
            f"{_nested(case.values)} give {_numbers(limit.maps[0])} and {_numbers(limit.maps[1])}. "
            f"{limit.tried:,} layers tried; sizes searched in full before: {below}."
        )
    return parts


def _cost(cost: Cost | None) -> list[str]:
    if cost is None:
        return []
    one, other = cost.sides
    rows = [
        f"| {said} | {_number(getattr(one, name))} | {_number(getattr(other, name))} | "
        f"{_ratio(cost, name).strip(' ()') or '-'} |"
        for name, said in MEASURES.items()
    ]
    head = f"| | {one.method} | {other.method} | second over first |\n|---|---|---|---|\n"
    head += f"| reads | {one.reads} | {other.reads} | |\n"
    where = f"One picture, one prompt, {cost.model}, {cost.device}, {cost.threads} thread(s)."
    return [f"## Cost\n\n{where}\n\n{head}" + "\n".join(rows)]


def _ratio(cost: Cost, name: str) -> str:
    ratio = cost.ratio(name)
    return "" if ratio is None else f" ({ratio:.2f})"


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _numbers(values: Sequence[Fraction]) -> str:
    return f"({', '.join(map(str, values))})"


def _nested(values: Any) -> str:
    return str(values) if isinstance(values, Fraction) else f"({', '.join(map(_nested, values))})"


# --- JSON ------------------------------------------------------------------------------------


def as_json(proof: Proof) -> str:
    """The whole proof in plain values."""
    run = proof.models
    text: dict[str, Any] = {
        "methods": proof.names,
        "verdict": proof.verdict,
        "carried_by": proof.carried_by,
        "exit_code": proof.exit_code,
        "levels": [vars(level) for level in proof.levels],
        "varied": proof.varied,
        "settings": len(proof.pairs),
        "steps": [vars(step) for step in proof.steps],
        "symbolic": None if proof.symbolic is None else vars(proof.symbolic),
        "exact": _exact(proof),
        "models": {
            "compared": run.compared,
            "differing": run.differing,
            "zero_or_no_numbers": run.empty,
            "tolerance": TOLERANCE,
            "largest": None if run.largest is None else vars(run.largest),
            "by_model": run.by_model,
            "refused": dict(run.refused),
        },
        "limits": [_limit(limit) for limit in proof.limits],
        "cost": _cost_values(proof.cost),
        "seed": proof.seed,
        "environment": environment(),
    }
    return json.dumps(_finite(text), indent=1, default=str)


def environment() -> dict[str, str]:
    packages = ("heatproof", "torch", "sympy", "open_clip_torch", "timm", "transformers")
    return {"python": platform.python_version(), **{x: metadata.version(x) for x in packages}}


def _exact(proof: Proof) -> dict[str, Any] | None:
    if proof.exact is None:
        return None
    run = proof.exact
    heads = {h: {"compared": a, "differing": b} for h, (a, b) in run.by_heads.items()}
    return {"networks": run.networks, "zeros": run.zeros, "by_heads": heads}


def _limit(limit: Limit) -> dict[str, Any]:
    case = {key: _nested(value) for key, value in vars(limit.case).items()}
    return {
        "name": limit.name,
        "left": limit.left,
        "right": limit.right,
        "case": case,
        "maps": [_numbers(each) for each in limit.maps],
        "difference": str(limit.difference),
        "tried": limit.tried,
        "searched in full": limit.below,
    }


def _cost_values(cost: Cost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    sides = [vars(side) for side in cost.sides]
    ratios = {name: cost.ratio(name) for name in MEASURES}
    return {**vars(cost), "sides": sides, "second over first": ratios}


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
