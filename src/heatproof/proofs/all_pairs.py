"""`prove` on all pairs of the catalogue: equal, equal under a switch, refuted with a witness.

Each method runs with every value of its listed options, and on the last layer alone (numbers, such
as counts of samples, are small and fixed). The smallest model comes first and settles most pairs;
what is left goes on to the larger ones. Maps are compared over all key tokens in float64, both
sides, as `prove` does.

- *equal*: the two methods, each at its defaults, have one map on every model that both take.
- *equal under a switch*: some settings of the two have.
- *same up to a factor*: one map is the other times one positive number per map: every ranking, and
  so every metric of ranks, is the same. At the defaults, or under a switch.
- *refuted*: none of these. The witness is the smallest model on which the defaults differ; for two
  methods with a formula it is the smallest layer of fractions too.

*Proved* stands beside what the index calculus shows for all sizes; the rest is equal on models.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof import methods
from heatproof.errors import HeatproofError
from heatproof.methods import Method, Side
from heatproof.proofs import models as on_models
from heatproof.proofs.algebra import all_sizes, formulas
from heatproof.proofs.algebra.forms import form_of
from heatproof.proofs.models import TOLERANCE, ModelCase, text_of

Relation = Literal[
    "equal", "equal under a switch", "same up to a factor", "refuted", "not comparable"
]
SMALL: dict[str, dict[str, Any]] = {
    "rise": {"masks": 40},
    "integrated-gradients": {"steps": 4},
    "m2ib": {"steps": 2, "batch": 2},
    "second-order": {"steps": 2},
    "kernel-shap": {"samples": 40},
}
"""Counts that decide no equality, brought down so that all pairs take minutes."""
CALLS: dict[str, tuple[int, ...]] = {"layers": (1,)}
"""Values that an option without a list is run with, beside its default."""
PAPER = ("grad-eclip", "attention-eclip")
FIRST = "open_clip vit"
"""Of the smallest models the one that most methods take."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """A method at one setting; `default` marks the catalogue's own."""

    method: Method
    default: bool

    @property
    def name(self) -> str:
        """Return the method's name."""
        return self.method.card.name


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """What is known of two methods.

    settings: the two settings that are equal (or so up to a factor), as the command line writes
        them; empty where the defaults are.
    proved: whether the index calculus shows it for all sizes.
    witness: where the defaults differ.
    models: how many models were compared on the pair that decided.
    """

    names: tuple[str, str]
    relation: Relation
    settings: tuple[str, str] = ("", "")
    proved: bool = False
    witness: str = ""
    models: int = 0


def entries(names: Sequence[str] | None = None) -> list[Entry]:
    """Return every method at every setting of its listed options, the defaults first."""
    found: list[Entry] = []
    for name, card in methods.catalogue().items():
        if names is not None and name not in names:
            continue
        # The pair of the paper is run over layers by `prove` itself.
        calls = {} if name in PAPER else CALLS
        listed = {k: o for k, o in card.options.items() if o.allowed or k in calls}
        ordered = [
            (option.default, *(x for x in option.allowed or CALLS[key] if x != option.default))
            for key, option in listed.items()
        ]
        for number, values in enumerate(itertools.product(*ordered)):
            chosen = dict(zip(listed, values, strict=True))
            created = methods.create(name, **SMALL.get(name, {}), **chosen)
            found.append(Entry(created, number == 0))
    return found


# --- on models -----------------------------------------------------------------------------------


@dataclass
class PairTable:
    """Which entries agree so far: by pair, over all models and sides that both take.

    compared: on how many models; `equal` and `alike` (up to a factor) start as True.
    """

    entries: list[Entry]
    equal: Bool[Tensor, "entry entry"] = field(init=False)
    alike: Bool[Tensor, "entry entry"] = field(init=False)
    compared: Tensor = field(init=False)
    witnesses: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])

    def __post_init__(self) -> None:
        """Begin with every pair equal and nothing compared."""
        count = len(self.entries)
        self.equal = torch.ones(count, count, dtype=torch.bool)
        self.alike = self.equal.clone()
        self.compared = torch.zeros(count, count, dtype=torch.long)

    def agreeing(self) -> set[int]:
        """Return the entries that some other method's entry agrees with so far."""
        agree = self.alike & self._others() & (self.compared > 0)
        return set(torch.nonzero(agree.any(1))[:, 0].tolist())

    def untried(self) -> set[int]:
        """Return the entries that no model has taken yet, on any side."""
        tried = (self.compared > 0).any(1)
        return set(torch.nonzero(~tried)[:, 0].tolist())

    def _others(self) -> Bool[Tensor, "entry entry"]:
        names = [entry.name for entry in self.entries]
        return torch.tensor([[a != b for b in names] for a in names], dtype=torch.bool)

    def add(self, case: ModelCase) -> None:
        """Compare on one more model what still agrees, and what no model has taken yet."""
        new, agreeing = self.untried(), self.agreeing()
        met = torch.zeros_like(self.equal)
        for side in case.sides:
            maps = {n: _values(case, self.entries[n], side) for n in sorted(new | agreeing)}
            known = {n: values for n, values in maps.items() if values is not None}
            # An entry that is taken for the first time is held to all others.
            if new & set(known):
                rest = set(range(len(self.entries))) - set(maps)
                more = {n: _values(case, self.entries[n], side) for n in sorted(rest)}
                known |= {n: values for n, values in more.items() if values is not None}
            self._compare(case, side, known, met)
        self.compared += met.long()

    def _compare(self, case: ModelCase, side: Side, maps: dict[int, Tensor], met: Tensor) -> None:
        for (a, left), (b, right) in itertools.combinations(maps.items(), 2):
            if self.entries[a].name == self.entries[b].name:
                continue
            # Two maps that hold nothing establish nothing.
            if not left.any() and not right.any():
                continue
            met[a, b] = met[b, a] = True
            same = left.shape == right.shape and _close(left, right)
            alike = same or (left.shape == right.shape and _close(_unit(left), _unit(right)))
            self.equal[a, b] &= same
            self.alike[a, b] &= alike
            self.equal[b, a], self.alike[b, a] = self.equal[a, b], self.alike[a, b]
            if not same and (a, b) not in self.witnesses:
                self.witnesses[a, b] = _witness(case, side, left, right)


def _values(case: ModelCase, entry: Entry, side: Side) -> Tensor | None:
    if side not in entry.method.card.sides:
        return None
    try:
        values = case.values(entry.method, side).double()
    except HeatproofError:
        # A refusal is no disagreement.
        return None
    return values if values.isfinite().all() else None


def _close(left: Tensor, right: Tensor) -> bool:
    scale = max(float(left.abs().max()), float(right.abs().max()))
    return float((left - right).abs().max()) <= TOLERANCE * scale


def _unit(values: Float[Tensor, "item target token"]) -> Float[Tensor, "item target token"]:
    norm = values.norm(dim=-1, keepdim=True)
    return values / norm.masked_fill(norm == 0, 1)


def _witness(case: ModelCase, side: Side, left: Tensor, right: Tensor) -> str:
    if left.shape != right.shape:
        return f"{case.name}, {side} side: maps of different shapes"
    place = int((left - right).abs().argmax())
    token = place % left.shape[-1]
    values = (float(left.flatten()[place]), float(right.flatten()[place]))
    return (
        f"{case.name}, {side} side, token {token} of {left.shape[-1]}: {values[0]:.3g} and "
        f"{values[1]:.3g}"
    )


def ordered_cases() -> list[Callable[[], ModelCase]]:
    """Return makers of the models, the one with the fewest tokens first."""
    sized: list[tuple[bool, int, bool, str]] = []
    for name in on_models.SPECIMENS:
        case = on_models.specimen(name)
        layout = case.model.image.layout(*case.pixels.shape[-2:])
        # Models that read no text settle the image side alone, and most methods refuse a model
        # without a transformer's layers: they come later.
        late = len(case.sides) == 1 or len(case.model.attention_layers("image")) < 2
        sized.append((late, layout.rows * layout.cols, name != FIRST, name))
    return [lambda n=name: on_models.specimen(n) for *_, name in sorted(sized)]


def all_pairs(
    names: Sequence[str] | None = None,
    cases: Sequence[Callable[[], ModelCase]] | None = None,
    say: Say = lambda _: None,
) -> list[PairResult]:
    """Return the result of every pair of methods.

    Args:
        names: some methods; all of the catalogue by default.
        cases: makers of the models, the smallest first; by default one of every family.
        say: called as each model and level ends.
    """
    every = entries(names)
    comparison = PairTable(every)
    makers = ordered_cases() if cases is None else cases
    for make in makers:
        case = make()
        comparison.add(case)
        say(
            f"level models, {case.name}: {len(comparison.agreeing())} of {len(every)} settings "
            f"agree with one of another method"
        )
    results = list(_results(comparison))
    counts = {x: sum(r.relation == x for r in results) for x in ("equal", "refuted")}
    say(f"level symbolic: {sum(r.proved for r in results)} of {len(results)} pairs proved equal")
    say(f"{len(results)} pairs: {counts['equal']} equal, {counts['refuted']} refuted")
    return results


def _results(comparison: PairTable) -> Iterator[PairResult]:
    places: dict[str, list[int]] = {}
    for number, entry in enumerate(comparison.entries):
        places.setdefault(entry.name, []).append(number)
    for one, other in itertools.combinations(places, 2):
        yield _result(comparison, places[one], places[other])


def _result(comparison: PairTable, left: list[int], right: list[int]) -> PairResult:
    """Decide a pair: the defaults first, then all settings, equal before up to a factor."""
    every = comparison.entries
    a, b = left[0], right[0]
    names = (every[a].name, every[b].name)
    pairs = list(itertools.product(left, right))
    for relation, table in (("equal", comparison.equal), ("factor", comparison.alike)):
        for x, y in pairs:
            if not (table[x, y] and comparison.compared[x, y]):
                continue
            default = (x, y) == (a, b)
            settings = (text_of(every[x].method), text_of(every[y].method))
            found: Relation = "same up to a factor"
            if relation == "equal":
                found = "equal" if default else "equal under a switch"
            return PairResult(
                names=names,
                relation=found,
                settings=("", "") if default else settings,
                proved=relation == "equal" and _proved(every[x].method, every[y].method),
                witness="" if default else _difference(comparison, a, b),
                models=int(comparison.compared[x, y]),
            )
    if not comparison.compared[a, b]:
        return PairResult(names=names, relation="not comparable")
    return PairResult(names=names, relation="refuted", witness=_difference(comparison, a, b))


def _proved(one: Method, other: Method) -> bool:
    pair = (form_of(one), form_of(other))
    return (
        pair[0] is not None and pair[1] is not None and formulas.settled([(pair[0], pair[1])]).equal
    )


def _difference(comparison: PairTable, a: int, b: int) -> str:
    """Say where the defaults differ: on the smallest model, and on a layer of fractions."""
    found = comparison.witnesses.get((a, b)) or comparison.witnesses.get((b, a), "")
    forms = [form_of(comparison.entries[n].method) for n in (a, b)]
    if forms[0] is None or forms[1] is None:
        return found
    unequal = formulas.settled([(forms[0], forms[1])]).unequal
    return found + ("" if unequal is None else unequal.witness_words)


def plain(results: Sequence[PairResult]) -> dict[str, Any]:
    """Return results, theorems and followers as plain values: all that the docs page shows."""
    return {
        "pairs": [vars(result) for result in results],
        "theorems": [vars(step) for step in all_sizes.theorems()],
        "followers": [
            {
                "name": result.follower.name,
                "read": result.follower.read,
                "against": result.follower.against,
                "note": result.follower.note,
                "formula": result.formula,
                "relation": result.comparison.relation,
                "factor": result.comparison.factor,
                "witness": ""
                if result.comparison.witness is None
                else result.comparison.witness.words,
            }
            for result in formulas.followers()
        ],
    }
