"""`prove`: is method A the same function as method B, by algebra, exactly, and on models?"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof import checking, methods, specs
from heatproof.errors import InputError, UnknownName
from heatproof.index import parse
from heatproof.methods import Method
from heatproof.proofs import models as on_models
from heatproof.proofs.algebra import all_sizes, exact, formulas, limits, symbolic
from heatproof.proofs.algebra.all_sizes import Step
from heatproof.proofs.algebra.exact import ExactRun
from heatproof.proofs.algebra.forms import Form, form_of
from heatproof.proofs.algebra.formulas import AllSizes
from heatproof.proofs.algebra.symbolic import SymbolicRun
from heatproof.proofs.cost import Cost, measure
from heatproof.proofs.models import ModelCase, ModelRun, text_of
from heatproof.proofs.result import Level, Pair, Proof, Verdict
from heatproof.registry import Option

CALLS: dict[str, tuple[int | None, ...]] = {"layers": (None, 1, 2)}
"""Values that an option without a list of values is run over; others stay at their default."""

LEVEL_ENDS = "level "
"""Progress texts that begin so report the verdict of a level."""


def prove(
    a: str | Method,
    b: str | Method,
    *,
    options: dict[str, Any] | None = None,
    models: Sequence[str] = (),
    cost: bool = True,
    cost_model: str = "scenes",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Proof:
    """Prove or refute that two methods are one function, on all their common settings.

    Args:
        a, b: catalogue names, with options as `grad-eclip:heads=model,layers=1`, or method
            objects. An option that is named on one side stays at its default on the other; one
            that both have and neither names is run over all its values, in step.
        options: set on each side that has them.
        models: further models by their names, beside a tiny random one of every family and
            `scenes`.
        cost: measure what either side costs, on `cost_model`.
        seed: for the random networks of fractions.

    Raises:
        InputError: no such method, option, value or model.
    """
    given = checking.settings("options", options)
    specifications = checking.names("models", models)
    for spec in (*specifications, checking.text("cost_model", cost_model)):
        # Names are checked before any work, so that a misspelt model costs nothing.
        specs.check(spec)
    checking.flag("cost", cost)
    checking.seed(seed)
    say = checking.progress(progress, "doing") or _silent
    pairs, varied = settings(_side(a, given), _side(b, given))
    _check_used(given, pairs[0])
    further = [on_models.loaded(spec) for spec in specifications]
    forms = _forms(pairs)
    derived = exactly = settled = None
    steps: tuple[Step, ...] = ()
    if forms is not None:
        say("deriving")
        # The derivation is the same for all pairs: it explains why the two maps are equal.
        steps = (*all_sizes.theorems(), *symbolic.derivation())
        asked = [form.layers for pair in forms for form in pair if isinstance(form.layers, int)]
        settled = formulas.settled(forms, max([2, *asked]))
        derived = symbolic.compare(forms, max([2, *asked]))
    same = text_of(pairs[0][0]) == text_of(pairs[0][1]) and type(pairs[0][0]) is type(pairs[0][1])
    levels = [_ended(_symbolic_level(derived, settled, steps, same), say)]
    if forms is not None:
        say("calculating with fractions")
        exactly = exact.compare(pairs, seed)
    levels.append(_ended(_exact_level(exactly), say))
    run = on_models.compare(pairs, _cases(further), say)
    levels.append(_ended(_models_level(run, derived), say))
    measured = None
    if cost:
        say(f"measuring on {cost_model}")
        measured = _measured(pairs[0], cost_model)
    return Proof(
        names=(_name(a), _name(b)),
        verdict=_verdict(levels),
        levels=tuple(levels),
        varied=varied,
        pairs=pairs,
        steps=steps,
        all_sizes=settled,
        symbolic=derived,
        exact=exactly,
        models=run,
        limits=limits.limits() if forms is not None and _sums_gradients(forms) else (),
        cost=measured,
        seed=seed,
    )


def _silent(text: str) -> None:
    del text


def _ended(level: Level, say: Callable[[str], None]) -> Level:
    """Report a level's verdict as soon as it is known."""
    say(f"{LEVEL_ENDS}{level.name}: {level.verdict}; {level.evidence}")
    return level


# --- which settings --------------------------------------------------------------------------


@dataclass(frozen=True)
class ProofSide:
    """One side of the question: a method's name with its given options, or a method object."""

    name: str
    given: dict[str, Any]
    free: dict[str, Option]
    object: Method | None = None

    def at(self, chosen: dict[str, Any]) -> Method:
        """Return the method with these values of its free options."""
        if self.object is not None:
            return self.object
        return methods.create(self.name, **self.given, **chosen)


def _side(given: str | Method, options: dict[str, Any]) -> ProofSide:
    if isinstance(given, Method):
        return ProofSide(given.card.name, dict(given.settings()), {}, given)
    if not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"got the method {checking.shown(given)}, expected a name or a method object"
        )
    name, own = parse(given)
    known = methods.catalogue()
    if name not in known:
        raise UnknownName("method", name, known)
    allowed = known[name].options
    taken = {key: value for key, value in options.items() if key in allowed} | own
    # Created once here: a wrong option or value is refused before any work.
    methods.create(name, **taken)
    free = {key: option for key, option in allowed.items() if key not in taken}
    return ProofSide(name, taken, free)


def settings(a: ProofSide, b: ProofSide) -> tuple[tuple[Pair, ...], dict[str, tuple[Any, ...]]]:
    """Return one pair of methods per common setting, the defaults first, and what was varied."""
    varied: dict[str, tuple[Any, ...]] = {}
    for key in a.free:
        # Only options that both sides have, with the same meaning and default, are varied together.
        if key in b.free and a.free[key] == b.free[key]:
            values = a.free[key].allowed or CALLS.get(key, ())
            default = a.free[key].default
            if values:
                varied[key] = (default, *(value for value in values if value != default))
    pairs: list[Pair] = []
    for values in itertools.product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        pairs.append((a.at(chosen), b.at(chosen)))
    return tuple(pairs), varied


def _check_used(options: dict[str, Any], pair: Pair) -> None:
    for key in options:
        if not any(key in method.settings() for method in pair):
            names = " nor ".join(dict.fromkeys(method.card.name for method in pair))
            raise InputError(f"neither {names} has an option {key!r}; see heatproof methods")


def _name(given: str | Method) -> str:
    return text_of(given) if isinstance(given, Method) else given


def _forms(pairs: Sequence[Pair]) -> list[tuple[Form, Form]] | None:
    forms = [(form_of(one), form_of(other)) for one, other in pairs]
    known = [(one, other) for one, other in forms if one is not None and other is not None]
    return known if len(known) == len(forms) else None


def _sums_gradients(forms: Sequence[tuple[Form, Form]]) -> bool:
    """True where the equivalence matters: either map is a sum of dS/dA or g . v."""
    return any(form.route != "none" for pair in forms for form in pair)


def _cases(further: Sequence[ModelCase]) -> Iterator[ModelCase]:
    yield from on_models.specimens()
    yield on_models.loaded("scenes")
    yield from further


def _measured(pair: Pair, spec: str) -> Cost | None:
    """The cost of the first setting; None where a method has no image side."""
    if any("image" not in method.card.sides for method in pair):
        return None
    return measure(pair, spec)


# --- verdicts --------------------------------------------------------------------------------


def _verdict(levels: Sequence[Level]) -> Verdict:
    found = {level.name: level.verdict for level in levels}
    # One counterexample refutes, whatever the other levels say.
    if "refuted" in found.values():
        return "refuted"
    # Only algebra proves; models and fractions can refute it or agree.
    if found["symbolic"] == "proved" and found["exact"] != "open":
        return "proved"
    return "open"


def _symbolic_level(
    run: SymbolicRun | None, settled: AllSizes | None, steps: Sequence[Step], same: bool
) -> Level:
    if run is None and same:
        return Level("symbolic", "proved", "one and the same method with the same settings")
    if run is None or settled is None:
        return Level("symbolic", "not applicable", "no symbolic form of both methods is known")
    unchecked = [step.name for step in steps if not step.checked]
    if unchecked:
        return Level("symbolic", "open", f"a step did not check: {unchecked[0]}")
    if run.equal and settled.equal:
        return Level(
            "symbolic",
            "proved",
            f"for any number of heads, tokens, channels and readout rows and any differentiable "
            f"score, {run.settings} setting(s); SymPy finds the same at {len(symbolic.SIZES)} "
            f"sizes of layer",
        )
    if run.equal or run.size is None:
        return Level("symbolic", "open", "equal at a few sizes, not shown for all sizes")
    where = "{} head(s), {} token(s), {} channel(s) a head".format(*run.size)
    if run.refuted:
        witness = "" if settled.unequal is None else settled.unequal.witness_words
        return Level(
            "symbolic", "refuted", f"the difference does not vanish, from {where} on{witness}"
        )
    return Level("symbolic", "open", f"the difference was not shown to vanish, from {where} on")


def _exact_level(run: ExactRun | None) -> Level:
    if run is None:
        return Level("exact", "not applicable", "no exact form of both methods is known")
    if not run.compared:
        return Level(
            "exact", "not applicable", "exact networks have two layers; more were asked for"
        )
    count = f"{run.compared:,} maps on {run.networks} random networks of fractions"
    if run.equal:
        return Level(
            "exact",
            "proved",
            f"equal (==, nothing rounded): all {count}, {run.zeros:,} of them zero",
        )
    if not run.differing:
        return Level("exact", "open", f"all {count} were zero, which shows nothing")
    heads = ", ".join(
        f"{heads} head(s): {differing} of {compared}"
        for heads, (compared, differing) in sorted(run.by_heads.items())
    )
    return Level("exact", "refuted", f"{run.differing:,} of {count} differ ({heads})")


def _models_level(run: ModelRun, derived: SymbolicRun | None) -> Level:
    if not run.compared:
        why = next(iter(run.refused), "nothing to compare")
        return Level("models", "not applicable", f"no model allows both methods: {why}")
    assert run.largest is not None
    place, count = run.largest, f"{run.compared:,} runs on {len(run.by_model)} models in float64"
    where = (
        f"{place.relative:.1e} of the map's largest value ({place.model}, {place.side} side, item "
        f"{place.item}, target {place.target}, token {place.token})"
    )
    if run.differing:
        return Level("models", "refuted", f"{run.differing:,} of {count} differ, by up to {where}")
    if run.empty == run.compared:
        return Level(
            "models", "open", f"{count}: every map is zero or holds no numbers, which shows nothing"
        )
    proved = derived is not None and derived.equal
    return Level(
        "models",
        "proved" if proved else "not refuted",
        f"equal to {on_models.TOLERANCE:.0e}: all {count}; largest difference {where}",
    )
