"""The answer of `prove`, the levels of proof that carry it, and the files that hold it."""

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from heatproof import checking
from heatproof.methods import Method
from heatproof.pages import render
from heatproof.pages.folder import check_folder
from heatproof.proofs import counterexample
from heatproof.proofs.algebra.all_sizes import Step
from heatproof.proofs.algebra.exact import ExactDifference, ExactRun
from heatproof.proofs.algebra.formulas import AllSizes
from heatproof.proofs.algebra.limits import Limit
from heatproof.proofs.algebra.symbolic import SymbolicRun
from heatproof.proofs.cost import Cost
from heatproof.proofs.models import TOLERANCE, ModelRun, text_of

Verdict = Literal["proved", "refuted", "open"]
LevelVerdict = Literal["proved", "refuted", "open", "not refuted", "not applicable"]
Pair = tuple[Method, Method]

HEADLINES: dict[Verdict, str] = {
    "proved": "PROVED",
    "refuted": "REFUTED",
    "open": "OPEN: neither proved nor refuted",
}
COSTS = {
    "passes": "forward passes",
    "gradients": "gradients of the score",
    "saved_tensors": "tensors saved for the backward pass",
    "saved_bytes": "bytes saved for the backward pass",
    "peak_bytes": "peak bytes of activations",
    "seconds": "seconds",
}
PACKAGES = ("heatproof", "torch", "sympy", "open_clip_torch", "timm", "transformers")


@dataclass(frozen=True)
class Level:
    """The verdict of one level of proof, with its evidence in one sentence."""

    name: Literal["symbolic", "exact", "models"]
    verdict: LevelVerdict
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The verdict and its evidence.

    `steps` are statements with the sizes they were checked for. `varied` are the options that were
    varied together on both sides; `pairs` one pair of methods
    per setting. Runs are None where a level does not apply, `cost` where it was not asked for.
    """

    names: tuple[str, str]
    verdict: Verdict
    levels: tuple[Level, ...]
    varied: dict[str, tuple[Any, ...]]
    pairs: tuple[Pair, ...]
    steps: tuple[Step, ...]
    symbolic: SymbolicRun | None
    exact: ExactRun | None
    models: ModelRun
    limits: tuple[Limit, ...]
    cost: Cost | None
    seed: int
    all_sizes: AllSizes | None = None

    @property
    def carried_by(self) -> tuple[str, ...]:
        """The levels that carry the verdict."""
        return tuple(level.name for level in self.levels if level.verdict == self.verdict)

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 0 proved, 1 refuted, 3 open."""
        return {"proved": 0, "refuted": 1, "open": 3}[self.verdict]

    @property
    def question(self) -> str:
        """What was asked: "gae = rollout?"."""
        return f"{self.names[0]} = {self.names[1]}?"

    @property
    def headline(self) -> str:
        """The verdict with the levels that carry it."""
        headline = HEADLINES[self.verdict]
        if self.verdict == "open":
            return f"{headline} (not refuted on {len(self.models.by_model)} models)"
        return f"{headline} ({', '.join(self.carried_by)})"

    @property
    def scope(self) -> str:
        """Which settings were compared."""
        if not self.varied:
            return f"one setting: {' against '.join(map(text_of, self.pairs[0]))}"
        varied = "; ".join(f"{k}: {', '.join(map(str, v))}" for k, v in self.varied.items())
        return f"{len(self.pairs)} settings ({varied})"

    def lines(self) -> Iterator[str]:
        """Yield a summary for the terminal."""
        yield f"{self.question}  {self.headline}"
        yield f"  {self.scope}"
        for level in self.levels:
            yield f"  {level.name}: {level.verdict}; {level.evidence}"
        if self.models.refused:
            yield f"  refused: {_refusals(self.models)}"
        if self.models.smallest is not None:
            place = self.models.smallest.place
            where = f"{place.model}, {place.side} side, token {place.token}"
            yield f"  smallest model that shows it: {where}"
            yield f"    {' against '.join(place.settings)}: differ by {place.absolute:.3g}"
        if self.exact is not None and self.exact.smallest is not None:
            yield f"  smallest network of fractions that shows it: {_exact(self.exact.smallest)}"
        for limit in self.limits:
            heads, tokens, channels = limit.case.size
            yield (
                f"  limit: {limit.name}: another map, from {heads} head(s), {tokens} token(s), "
                f"{channels} channel(s) on: {_numbers(limit.maps[0])} against "
                f"{_numbers(limit.maps[1])}"
            )
        if self.cost is not None:
            yield f"  cost on {self.cost.model} ({self.cost.device}), second over first:"
            for name, one, other, ratio in _cost_rows(self.cost):
                yield f"    {name}: {one} and {other}{f' ({ratio})' if ratio else ''}"

    def markdown(self) -> str:
        """Return proof.md, with its LaTeX."""
        return render.page(
            "proof.md",
            proof=self,
            tolerance=TOLERANCE,
            limits=[(limit, _limit(limit)) for limit in self.limits],
            costs=[] if self.cost is None else _cost_rows(self.cost),
        )

    def json(self) -> str:
        """Return proof.json: the whole proof in plain values."""
        run = self.models
        plain: dict[str, Any] = {
            "methods": self.names,
            "verdict": self.verdict,
            "carried_by": self.carried_by,
            "exit_code": self.exit_code,
            "levels": [vars(level) for level in self.levels],
            "varied": self.varied,
            "settings": len(self.pairs),
            "steps": [vars(step) for step in self.steps],
            "all_sizes": None if self.all_sizes is None else self.all_sizes.plain,
            "symbolic": None if self.symbolic is None else vars(self.symbolic),
            "exact": None if self.exact is None else _exact_values(self.exact),
            "models": {
                "compared": run.compared,
                "differing": run.differing,
                "zero_or_no_numbers": run.empty,
                "tolerance": TOLERANCE,
                "largest": None if run.largest is None else vars(run.largest),
                "by_model": run.by_model,
                "refused": dict(run.refused),
            },
            "limits": [_limit(limit) for limit in self.limits],
            "cost": None if self.cost is None else _cost_values(self.cost),
            "seed": self.seed,
            "environment": environment(),
        }
        # Options may be any object of a method handed in: what JSON lacks is written as text.
        return json.dumps(_finite(plain), indent=1, default=str)

    def save(self, folder: str | Path) -> list[Path]:
        """Write proof.json, proof.md and the counterexamples; return their paths."""
        folder = checking.path("folder", folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # A counterexample of an earlier proof in the folder would pass for one of this.
        for earlier in (counterexample.EXACT, counterexample.MODEL):
            (folder / earlier).unlink(missing_ok=True)
            (folder / earlier).with_suffix(".safetensors").unlink(missing_ok=True)
        files = [folder / "proof.json", folder / "proof.md"]
        files[0].write_text(self.json() + "\n", "utf-8")
        files[1].write_text(self.markdown(), "utf-8")
        if self.models.smallest is not None:
            files.append(counterexample.save_on_model(self.models.smallest, folder))
        if self.exact is not None and self.exact.smallest is not None:
            files.append(counterexample.save_exact(self.exact.smallest, folder))
        return files


def environment() -> dict[str, str]:
    """Return the versions that a proof was made with."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def _exact(difference: ExactDifference) -> str:
    """Say where two maps of fractions differ."""
    heads, tokens, channels = difference.network.size
    one, other = (float(values[difference.token]) for values in difference.maps)
    return (
        f"{heads} head(s), {tokens} token(s), {channels} channel(s) per head; token "
        f"{difference.token}: {one:.6g} against {other:.6g}"
    )


def _refusals(run: ModelRun) -> str:
    total = sum(run.refused.values())
    why, most = run.refused.most_common(1)[0]
    return f"{total:,} of {total + run.compared:,} runs; most often ({most}) {why}"


def _cost_rows(cost: Cost) -> list[tuple[str, str, str, str]]:
    """Return what was measured, both sides' figures, and the second over the first."""
    rows: list[tuple[str, str, str, str]] = []
    for name, label in COSTS.items():
        one, other = (_number(getattr(side, name)) for side in cost.sides)
        ratio = cost.ratio(name)
        rows.append((label, one, other, "" if ratio is None else f"{ratio:.2f}"))
    return rows


def _exact_values(run: ExactRun) -> dict[str, Any]:
    heads = {h: {"compared": a, "differing": b} for h, (a, b) in run.by_heads.items()}
    return {"networks": run.networks, "zeros": run.zeros, "by_heads": heads}


def _cost_values(cost: Cost) -> dict[str, Any]:
    sides = [vars(side) for side in cost.sides]
    return {**vars(cost), "sides": sides, "second over first": {x: cost.ratio(x) for x in COSTS}}


def _limit(limit: Limit) -> dict[str, Any]:
    return {
        "name": limit.name,
        "left": limit.left,
        "right": limit.right,
        "case": {key: _nested(value) for key, value in vars(limit.case).items()},
        "maps": [_numbers(values) for values in limit.maps],
        "difference": str(limit.difference),
        "tried": limit.tried,
        "searched in full": limit.below,
    }


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _numbers(values: Sequence[Fraction]) -> str:
    return f"({', '.join(map(str, values))})"


def _nested(values: Any) -> str:
    return str(values) if isinstance(values, Fraction) else f"({', '.join(map(_nested, values))})"


def _finite(value: Any) -> Any:
    """Replace infinity and NaN, which JSON does not have, by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return value
