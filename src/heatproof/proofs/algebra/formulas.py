"""Formulas for all sizes: the catalogue's forms, Grad-ECLIP's followers, and their comparison.

A formula is the map at key i as an index expression. Two formulas are equal where their canonical
forms are; they are proportional where one is the other times a number and sizes of ranges, which
changes no ranking. Otherwise a witness refutes: small integers on the smallest layer that shows it.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any, Literal

from heatproof.methods.base import Side
from heatproof.proofs.algebra.all_sizes import c, e, h, i, j, k, n, q, r
from heatproof.proofs.algebra.forms import Form
from heatproof.proofs.algebra.indexed import (
    ZERO,
    Expression,
    Index,
    apply,
    latex,
    one,
    tensor,
    value,
)

Relation = Literal["equal", "proportional", "different", "open"]
MOST_CALLS = 2
"""Layers of the towers on which forms of several layers are written out, as the other levels do."""
DRAWS = 200
"""Layers of small integers per size that are tried for a witness."""
SIZES = tuple(
    sorted(
        itertools.product((1, 2), (1, 2, 3), (1, 2), (1, 2)),
        key=lambda size: (size[0] * size[1] * size[2] * size[3], size),
    )
)
"""(heads, tokens, channels, rows), the fewest numbers first."""


@dataclass(frozen=True)
class Witness:
    """A layer of fractions on which two formulas differ: the smallest size that shows it."""

    heads: int
    tokens: int
    channels: int
    rows: int
    token: int
    values: tuple[Fraction, Fraction]

    @property
    def words(self) -> str:
        """Say where they differ."""
        left, right = self.values
        return (
            f"{self.heads} head(s), {self.tokens} token(s), {self.channels} channel(s): "
            f"{left} and {right}"
        )


@dataclass(frozen=True)
class FormulaComparison:
    """How two formulas relate; `factor` is the second over the first where proportional."""

    relation: Relation
    factor: str = ""
    witness: Witness | None = None
    difference: str = ""

    @property
    def witness_words(self) -> str:
        """Return "; smallest: ..." where there is a witness, else nothing."""
        return "" if self.witness is None else f"; smallest layer met: {self.witness.words}"


def compare(left: Expression, right: Expression) -> FormulaComparison:
    """Compare two formulas for all sizes."""
    difference = left - right
    if difference.is_zero:
        # Two maps that are zero everywhere are equal, and say nothing.
        return FormulaComparison("open" if left.is_zero else "equal")
    factor = _factor(left, right)
    if factor:
        return FormulaComparison("proportional", factor)
    found = witness(left, right)
    if found is None:
        return FormulaComparison("open", difference=latex(difference))
    return FormulaComparison("different", witness=found, difference=latex(difference))


def _factor(left: Expression, right: Expression) -> str:
    """Return right / left where that is a positive number times powers of sizes, else ""."""
    for one_amount, one_term in left.terms[:1]:
        for other_amount, other_term in right.terms:
            ratio = other_amount / one_amount
            powers = dict(other_term.powers)
            for name, power in one_term.powers:
                powers[name] = powers.get(name, 0) - power
            scaled = left.times(ratio)
            for name, power in powers.items():
                for _ in range(abs(power)):
                    size = one().over(name) if power < 0 else one().sum(Index("_", name))
                    scaled = scaled * size
            if ratio > 0 and (scaled - right).is_zero:
                sizes = [
                    name if power == 1 else f"{name}^{{{power}}}"
                    for name, power in powers.items()
                    if power
                ]
                number = [] if ratio == 1 and sizes else [str(ratio)]
                return " ".join([*number, *sizes])
    return ""


@cache
def witness(left: Expression, right: Expression, *, any_factor: bool = False) -> Witness | None:
    """Search for the smallest layer on which two formulas differ; None where none was met.

    any_factor: maps that differ by a positive factor count as equal.
    """
    names = _tensors(left) | _tensors(right)
    for heads, tokens, channels, rows in SIZES:
        sizes = {"H": heads, "N": tokens, "d": channels, "R": rows, "L": 1, "D": heads * channels}
        for seed in range(DRAWS):
            entries = _drawn(names, sizes, random.Random(seed))
            maps = [
                [value(x, sizes, entries, {i: token, READOUT: 0}) for token in range(tokens)]
                for x in (left, right)
            ]
            token = _differs(maps[0], maps[1], any_factor)
            if token is not None:
                pair = (maps[0][token], maps[1][token])
                return Witness(heads, tokens, channels, rows, token, pair)
    return None


def _differs(left: Sequence[Fraction], right: Sequence[Fraction], any_factor: bool) -> int | None:
    """Return the first token at which two maps differ."""
    places = range(len(left))
    if not any_factor:
        return next((n for n in places if left[n] != right[n]), None)
    if not any(left) or not any(right):
        return None
    for one_place, other in itertools.product(places, repeat=2):
        if left[one_place] * right[other] != left[other] * right[one_place]:
            return one_place
    return next((n for n in places if left[n] * right[n] < 0), None)


def _tensors(expression: Expression) -> frozenset[tuple[str, tuple[str, ...], bool]]:
    found: set[tuple[str, tuple[str, ...], bool]] = set()
    for _, term in expression.terms:
        for factor in term.factors:
            if factor.argument is not None:
                found |= _tensors(factor.argument)
            else:
                ranges = tuple(index.range for index in factor.indices)
                found.add((factor.name, ranges, factor.normalised))
    return frozenset(found)


@dataclass(frozen=True)
class _Entries:
    table: Mapping[tuple[int, ...], Fraction]

    def __call__(self, *at: int) -> Fraction:
        return self.table[at]


@dataclass(frozen=True)
class _Headless:
    """Weights of a one-headed pass, read from those of a model with one head."""

    weights: Callable[..., Fraction]

    def __call__(self, *at: int) -> Fraction:
        return self.weights(*at[:-1], 0, at[-1])


def _drawn(
    names: frozenset[tuple[str, tuple[str, ...], bool]],
    sizes: Mapping[str, int],
    chance: random.Random,
) -> dict[str, Callable[..., Fraction]]:
    """Draw small integers for every tensor; rows of weights add up to one."""
    entries: dict[str, Callable[..., Fraction]] = {}
    for name, ranges, normalised in sorted(names):
        single = re.sub(r"\^\{one,\d+\}", "", name)
        if sizes["H"] == 1 and single != name:
            continue
        table: dict[tuple[int, ...], Fraction] = {}
        for place in itertools.product(*(range(sizes[x]) for x in ranges)):
            low = 1 if normalised or name == "alpha" else -2
            table[place] = Fraction(chance.randint(low, 2))
        if normalised:
            for place in list(table):
                row = [v for other, v in table.items() if other[:-1] == place[:-1]]
                entries_sum = sum(row, Fraction(0))
                table[place] = table[place] / entries_sum if entries_sum else table[place]
        entries[name] = _Entries(table)
    return entries | _with_one_head(names, sizes, entries, chance)


def _with_one_head(
    names: frozenset[tuple[str, tuple[str, ...], bool]],
    sizes: Mapping[str, int],
    entries: Mapping[str, Callable[..., Fraction]],
    chance: random.Random,
) -> dict[str, Callable[..., Fraction]]:
    """Return the entries of one-headed passes where the model has one head: they are its own."""
    found: dict[str, Callable[..., Fraction]] = {}
    if sizes["H"] != 1:
        return found
    for name, ranges, normalised in sorted(names):
        plain = re.sub(r"\^\{one,\d+\}", "", name)
        if plain == name:
            continue
        weights = normalised and "H" not in ranges
        own = (*ranges[:-1], "H", ranges[-1]) if weights else ranges
        known = entries.get(plain) or found.get(f"={plain}")
        if known is None:
            known = _drawn(frozenset({(plain, own, normalised)}), sizes, chance)[plain]
            found[f"={plain}"] = known
        found[name] = _Headless(known) if weights else known
    return found


# --- the catalogue's forms -------------------------------------------------------------------


def formula(form: Form, side: Side, calls: int = MOST_CALLS) -> Expression | None:
    """Write a form out at key i; None where it asks for more layers than the tower has.

    Heads, rows, tokens and channels stay symbols; layers are written one by one, each with tensors
    of its own, since a one-headed layer changes those after it.
    """
    depth = form.depth(side, calls)
    if depth is None:
        return None
    parts = [_layer(form, below, depth) for below in range(depth - 1, -1, -1)]
    return sum(parts, ZERO)


def _layer(form: Form, below: int, depth: int) -> Expression:
    """Write one layer; `below` layers come after it.

    The first one-headed layer has the model's queries, keys and values still; those after it do
    not. In a one-headed pass the channels are the pairs (h, c), and A has no head.
    """
    single = form.heads == "one"
    mark = "'" * below
    own = f"^{{one,{depth}}}{mark}" if single else mark
    entering = mark if below == depth - 1 else own

    def attention(row: Index, head: Index, key: Index) -> Expression:
        at = (row, key) if single else (row, head, key)
        return tensor(f"A{own}", *at, normalised=True)

    def output(row: Index, head: Index, channel: Index) -> Expression:
        return (attention(row, head, n) * tensor(f"v{entering}", head, n, channel)).sum(n)

    if form.route == "none":
        share = attention(r, h, i).sum(r) if single else attention(r, h, i).sum(r, h).over("H")
        return share.over("R")
    if form.route == "channels":
        slope = (tensor(f"g{own}", r, h, c) * tensor(f"v{entering}", h, i, c)).sum(c)
        slope = slope.sum(h) if single else slope
    else:
        at = (r, i) if single else (r, h, i)
        derived = output(q, k, e).derivative(f"A{own}", *at)
        slope = (tensor(f"g{own}", q, k, e) * derived).sum(q, k, e)
    match form.spatial:
        case "own":
            spatial = attention(r, h, i)
        case "attention":
            spatial = attention(r, h, i) if single else attention(r, h, i).sum(h).over("H")
        case "none":
            spatial = one()
        case "loosened":
            spatial = tensor(f"u^{{{form.projection}}}{entering}", r, i)
    by_head = (spatial * slope).sum(r)
    if single:
        return by_head if form.rectify == "none" else apply("relu", by_head)
    if form.rectify == "head":
        return apply("relu", by_head).sum(h)
    total = by_head.sum(h)
    return apply("relu", total) if form.rectify == "layer" else total


# --- followers of Grad-ECLIP -----------------------------------------------------------------


@dataclass(frozen=True)
class Follower:
    """A published method that builds on Grad-ECLIP, as a formula of the last layer.

    read: where the formula is from; `against` is what it is compared with.
    """

    name: str
    read: str
    build: Callable[[], Expression]
    against: str
    note: str = ""


def _slope_of_values() -> Expression:
    """Return dS/dv at head h, key j, channel c, one readout row: derived, not assumed."""
    row = (tensor("A", k, n, normalised=True) * tensor("v", k, n, e)).sum(n)
    return (tensor("g", k, e) * row.derivative("v", h, j, c)).sum(k, e)


def _attention_gradient(spatial: Expression | None = None, own: bool = False) -> Expression:
    """Return u_i (or each head's A_i) times the sum over heads of dS/dA_i, one readout row."""
    slope = (tensor("g", h, c) * tensor("v", h, i, c)).sum(c)
    if own:
        return (tensor("A", h, i, normalised=True) * slope).sum(h)
    return slope.sum(h) if spatial is None else spatial * slope.sum(h)


READOUT = Index("r", "N")
"""The readout's own token among the keys."""
U = tensor("u", i)
BASELINES: dict[str, Callable[[], Expression]] = {
    "grad-eclip (one readout row)": lambda: _attention_gradient(U),
    "grad-eclip:spatial=none": _attention_gradient,
    "attention-x-gradient": lambda: _attention_gradient(own=True),
    "grad-eclip, heads weighed alike": lambda: (
        tensor("u", h, i) * (tensor("g", h, c) * tensor("v", h, i, c)).sum(c)
    ).sum(h),
}


def _one_headed(of: Expression) -> Expression:
    """Return the formula for one head: the weights have no head, channels keep their pair."""
    single = tensor("A1", n, normalised=True)
    return of.replace("A", single, h, n)


def _grad_cam_of_values() -> Expression:
    mean = _slope_of_values().sum(j).over("N").with_rows_of_one()
    return (mean * tensor("v", h, i, c)).sum(h, c)


def _by_readout_value(spatial: Expression) -> Expression:
    """Return spatial times the sum over channels of dS/dv of the readout token times v_i."""
    weight = _slope_of_values().rename({j: READOUT})
    return (spatial * weight * tensor("v", h, i, c)).sum(h, c)


FOLLOWERS: tuple[Follower, ...] = (
    Follower(
        "Grad-CAM on the values",
        "Selvaraju et al., ICCV 2017, with the values as activations",
        _grad_cam_of_values,
        "grad-eclip:spatial=none",
        "channel weights are the mean of dS/dv over all tokens",
    ),
    Follower(
        "CAV, text side, last layer, before its ReLU",
        "authors' code (SIGIR 2025): dS/dv times v, summed over channels and heads",
        lambda: (_slope_of_values().rename({j: i}) * tensor("v", h, i, c)).sum(h, c),
        "attention-x-gradient",
        "dS/dv_i is A_i g: the map is the model's own attention times gradient",
    ),
    Follower(
        "CAV, text side, last layer, as published",
        "authors' code: the ReLU stands before the sum over channels",
        lambda: apply("relu", _slope_of_values().rename({j: i}) * tensor("v", h, i, c)).sum(h, c),
        "attention-x-gradient",
        "rectifying each channel breaks the identity",
    ),
    Follower(
        "CAV, image side",
        "authors' code: dS/dv of the class token weighs the channels; a spatial weight per head",
        lambda: _by_readout_value(tensor("u", h, i)),
        "grad-eclip, heads weighed alike",
        "each head is weighed by the class token's attention to itself: w is not dS/do",
    ),
    Follower(
        "CAV, image side, one head",
        "the same formula with one head",
        lambda: _one_headed(_by_readout_value(U)),
        "grad-eclip (one readout row)",
        "the class token's attention to itself is one number per map: same ranking",
    ),
    Follower(
        "CDA, gradient of the class token, one head",
        "our reading of its G_cls: dS/dv of the class token; formula not seen",
        lambda: _one_headed(_by_readout_value(U)),
        "grad-eclip (one readout row)",
        "explains a reproduction's finding that this row is proportional to the baseline",
    ),
    Follower(
        "MMEL, weights by layer",
        "abstract of arXiv 2509.15243: learnt weights over Grad-ECLIP's layers; formula not seen",
        lambda: tensor("alpha") * _attention_gradient(U),
        "grad-eclip (one readout row)",
        "each layer's part is an attention gradient, whatever the learnt weight",
    ),
    Follower(
        "MGA-CLIP, integrated gradients as channel weights",
        "abstract (2026): path gradients weigh the features; formula not seen",
        lambda: (U * (tensor("G", h, c) * tensor("v", h, i, c)).sum(c)).sum(h),
        "grad-eclip (one readout row)",
        "w is a mean of gradients along a path, not dS/do: by the lemma no attention gradient",
    ),
)


@dataclass(frozen=True)
class FollowerResult:
    """A follower held to its baseline."""

    follower: Follower
    comparison: FormulaComparison
    formula: str


def followers() -> Iterator[FollowerResult]:
    """Compare every follower with its baseline, for all sizes."""
    for follower in FOLLOWERS:
        built, base = follower.build(), BASELINES[follower.against]()
        scalar = _scalar(built, base)
        # A number per map changes no ranking: maps are held to each other up to a factor.
        comparison = FormulaComparison("proportional", scalar) if scalar else compare(built, base)
        if comparison.relation == "different":
            found = witness(built, base, any_factor=True)
            relation = "open" if found is None else "different"
            comparison = replace(comparison, relation=relation, witness=found)
        yield FollowerResult(follower, comparison, latex(built))


def _scalar(built: Expression, base: Expression) -> str:
    """Return the one number per map by which `built` is `base`, as LaTeX, else ""."""
    for number in (tensor("A1", READOUT), tensor("alpha")):
        if (number * base - built).is_zero:
            return latex(number)
    return ""


def settled(pairs: Sequence[tuple[Form, Form]], calls: int = MOST_CALLS) -> "AllSizes":
    """Compare each pair of forms for all sizes, on both sides."""
    sides: tuple[Side, ...] = ("image", "text")
    compared = 0
    worst: FormulaComparison | None = None
    for side, forms in itertools.product(sides, dict.fromkeys(pairs)):
        maps = [formula(form, side, calls) for form in forms]
        if maps[0] is None or maps[1] is None:
            continue
        compared += 1
        found = compare(maps[0], maps[1])
        if found.relation != "equal" and (worst is None or found.relation == "different"):
            worst = found
            if found.relation == "different":
                break
    return AllSizes(compared, worst)


@dataclass(frozen=True)
class AllSizes:
    """The comparison of forms for all sizes; `unequal` is a pair that is not equal, if any."""

    compared: int
    unequal: FormulaComparison | None

    @property
    def equal(self) -> bool:
        """True where something was compared and every pair has one canonical form."""
        return self.compared > 0 and self.unequal is None

    @property
    def plain(self) -> dict[str, Any]:
        """Return the result as plain values."""
        unequal = self.unequal
        return {
            "compared": self.compared,
            "equal": self.equal,
            "relation": None if unequal is None else unequal.relation,
            "witness": None
            if unequal is None or unequal.witness is None
            else unequal.witness.words,
        }
