"""An index calculus: sums of products of tensors whose indices run over ranges of any size.

Ranges have names (H heads, N tokens, d channels) and never a number, so what is proved holds for
every size. An expression is a sum of terms; a term is a rational number, powers of the ranges'
sizes, and factors under sums over its bound indices. It is kept in a canonical form: Kronecker
deltas are used up, bound indices are renumbered in one way, factors are sorted. Two expressions
with the same canonical form are equal for all sizes and all values. The converse is not used:
what is not equal here is refuted by a witness, in numbers (`witness`).
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce
from math import factorial, prod
from typing import Any

DELTA = "delta"
MOST_ORDERS = 5040
"""Canonical renumbering tries all orders of a term's bound indices; a term with more is refused."""


@dataclass(frozen=True, order=True)
class Index:
    """An index with the name of the range that it runs over."""

    name: str
    range: str


@dataclass(frozen=True)
class Factor:
    """A tensor's entry, a Kronecker delta, or an opaque function of an expression.

    normalised: the entries sum to one over the last index, as attention weights do.
    argument: what an opaque function is applied to; None for an entry.
    """

    name: str
    indices: tuple[Index, ...] = ()
    normalised: bool = False
    argument: "Expression | None" = None

    def rename(self, names: Mapping[Index, Index]) -> "Factor":
        """Return the factor under other indices."""
        inner = None if self.argument is None else self.argument.rename(names)
        indices = tuple(names.get(index, index) for index in self.indices)
        return replace(self, indices=indices, argument=inner)

    @property
    def free(self) -> frozenset[Index]:
        """Return the indices that it depends on."""
        return frozenset(self.indices) if self.argument is None else self.argument.free

    @cached_property
    def key(self) -> str:
        """Return a text by which factors are sorted and told apart."""
        if self.argument is not None:
            return f"{self.name}({self.argument.key})"
        return f"{self.name}[{','.join(f'{n.range}:{n.name}' for n in self.indices)}]"


@dataclass(frozen=True)
class Term:
    """A product under sums; `powers` are those of the ranges' sizes, such as H to the -1."""

    factors: tuple[Factor, ...] = ()
    bound: frozenset[Index] = frozenset()
    powers: tuple[tuple[str, int], ...] = ()

    @cached_property
    def key(self) -> str:
        """Return a text that two terms share exactly where they are the same product."""
        bound = ",".join(f"{n.range}:{n.name}" for n in sorted(self.bound))
        factors = " ".join(factor.key for factor in self.factors)
        return f"{self.powers} sum({bound}) {factors}"

    @property
    def free(self) -> frozenset[Index]:
        """Return the indices that the term depends on."""
        used = frozenset(n for factor in self.factors for n in factor.free)
        return used - self.bound


class Expression:
    """A sum of terms in canonical form."""

    def __init__(self, terms: Iterable[tuple[Fraction, Term]]) -> None:
        amounts: dict[str, Fraction] = {}
        known: dict[str, Term] = {}
        for amount, term in terms:
            form = _canonical(term)
            if form is not None:
                known[form.key] = form
                amounts[form.key] = amounts.get(form.key, Fraction(0)) + amount
        self.terms = tuple(
            (amounts[key], known[key]) for key in sorted(amounts) if amounts[key] != 0
        )

    @property
    def is_zero(self) -> bool:
        """Return whether the canonical form is empty: zero for all sizes and values."""
        return not self.terms

    @cached_property
    def key(self) -> str:
        """Return a text that two expressions share exactly where their forms are the same."""
        return " + ".join(f"{amount}*{term.key}" for amount, term in self.terms)

    @property
    def free(self) -> frozenset[Index]:
        """Return the indices that the expression depends on."""
        return frozenset(n for _, term in self.terms for n in term.free)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __add__(self, other: "Expression") -> "Expression":
        return Expression((*self.terms, *other.terms))

    def __sub__(self, other: "Expression") -> "Expression":
        return self + other.times(-1)

    def __mul__(self, other: "Expression") -> "Expression":
        return Expression(
            (one * two, _joined(left, right))
            for (one, left), (two, right) in itertools.product(self.terms, other.terms)
        )

    def times(self, number: int | Fraction) -> "Expression":
        """Return a multiple."""
        return Expression((amount * number, term) for amount, term in self.terms)

    def over(self, *ranges: str) -> "Expression":
        """Divide by the sizes of these ranges."""
        powers = tuple((name, -1) for name in ranges)
        return Expression(
            (amount, replace(term, powers=(*term.powers, *powers))) for amount, term in self.terms
        )

    def sum(self, *indices: Index) -> "Expression":
        """Sum over indices; one that does not occur gives the size of its range."""
        return Expression(
            (amount, replace(term, bound=term.bound | set(indices))) for amount, term in self.terms
        )

    def rename(self, names: Mapping[Index, Index]) -> "Expression":
        """Put other free indices in place of some."""
        return Expression((amount, _renamed(term, names)) for amount, term in self.terms)

    def derivative(self, name: str, *indices: Index) -> "Expression":
        """Differentiate with respect to one entry of a tensor, by the product rule.

        Raises:
            ValueError: the tensor stands inside an opaque function, whose derivative is unknown.
        """
        return Expression(_slopes(self, name, indices))

    def replace(self, name: str, by: "Expression", *indices: Index) -> "Expression":
        """Write `by`, which depends on `indices`, in place of every entry of a tensor."""
        return reduce(
            Expression.__add__,
            (_substituted(amount, term, name, by, indices) for amount, term in self.terms),
            ZERO,
        )

    def with_rows_of_one(self) -> "Expression":
        """Apply sum_i A_i = 1 to normalised tensors.

        It is a step of its own, after all derivatives: by a free variable A the sum is no constant.
        """
        return Expression((amount, _normalised(term)) for amount, term in self.terms)

    def distinct(self, one: Index, other: Index) -> "Expression":
        """Drop the terms that hold a delta of two free indices which are known to differ."""
        pair = {one, other}
        return Expression(
            (amount, term)
            for amount, term in self.terms
            if not any(f.name == DELTA and set(f.indices) == pair for f in term.factors)
        )


def one() -> Expression:
    """Return the number 1."""
    return Expression([(Fraction(1), Term())])


ZERO = Expression([])


def tensor(name: str, *indices: Index, normalised: bool = False) -> Expression:
    """Return an entry of a tensor."""
    return Expression([(Fraction(1), Term((Factor(name, indices, normalised),)))])


def delta(left: Index, right: Index) -> Expression:
    """Return Kronecker's delta."""
    return tensor(DELTA, left, right)


def apply(name: str, argument: Expression) -> Expression:
    """Return an opaque function of an expression: equal where name and argument are."""
    return Expression([(Fraction(1), Term((Factor(name, argument=argument),)))])


# --- canonical form ----------------------------------------------------------------------------


def _canonical(term: Term) -> Term | None:
    """Return the one form that all ways of writing a product share; None where it is zero."""
    term = _without_deltas(term)
    if any(f.argument is not None and f.argument.is_zero for f in term.factors):
        # Every opaque function used here (ReLU) is zero at zero.
        return None
    powers = Counter[str]()
    for name, power in term.powers:
        powers[name] += power
    used = {n for factor in term.factors for n in factor.free}
    for index in term.bound - used:
        # A sum over an index that nothing depends on counts the range.
        powers[index.range] += 1
    bound = sorted(term.bound & used)
    named = tuple(sorted((name, power) for name, power in powers.items() if power))
    apart = _apart(replace(term, bound=frozenset(bound)), used)
    return min(
        (
            Term(_sorted(apart.factors, names), frozenset(names.values()), named)
            for names in _numberings(sorted(apart.bound), apart.free)
        ),
        key=lambda form: form.key,
    )


def _without_deltas(term: Term) -> Term:
    """Use up each delta: a bound index of it goes; of two free ones the first is written."""
    for place, factor in enumerate(term.factors):
        if factor.name != DELTA:
            continue
        left, right = factor.indices
        rest = (*term.factors[:place], *term.factors[place + 1 :])
        if left.range != right.range:
            raise ValueError(f"a delta of {left} and {right}, which run over different ranges")
        if left == right:
            return _without_deltas(replace(term, factors=rest))
        gone, stays = (left, right) if left in term.bound else (right, left)
        if gone in term.bound:
            factors = tuple(factor.rename({gone: stays}) for factor in rest)
            return _without_deltas(replace(term, factors=factors, bound=term.bound - {gone}))
        first, last = sorted((left, right))
        if any(last in other.free for other in rest):
            # Under the delta both are one: the first of them is written everywhere.
            factors = tuple(other.rename({last: first}) for other in rest)
            return _without_deltas(replace(term, factors=(*factors, factor)))
    return term


def _numberings(bound: Sequence[Index], free: frozenset[Index]) -> Iterator[dict[Index, Index]]:
    """Yield every way to name the bound indices `_1`, `_2`, ... within each range.

    Names of free indices are left out: within an opaque function they may be bound further out.
    """
    groups = [
        [n for n in bound if n.range == name] for name in dict.fromkeys(n.range for n in bound)
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    if prod(factorial(len(group)) for group in groups) > MOST_ORDERS:
        raise ValueError(f"a term with {len(bound)} bound indices has too many orders")
    for chosen in orders:
        names: dict[Index, Index] = {}
        for group in chosen:
            fresh = (Index(f"_{n}", group[0].range) for n in itertools.count(1))
            unused = (index for index in fresh if index not in free)
            names |= dict(zip(group, unused, strict=False))
        yield names


def _sorted(factors: Iterable[Factor], names: Mapping[Index, Index]) -> tuple[Factor, ...]:
    renamed = [_ordered(factor.rename(names)) for factor in factors]
    return tuple(sorted(renamed, key=lambda factor: factor.key))


def _ordered(factor: Factor) -> Factor:
    """Return a delta with its two indices in order: it is symmetric."""
    if factor.name != DELTA:
        return factor
    return replace(factor, indices=tuple(sorted(factor.indices)))


def _renamed(term: Term, names: Mapping[Index, Index]) -> Term:
    apart = _apart(term, set(names.values()) | set(names))
    factors = tuple(factor.rename(names) for factor in apart.factors)
    return replace(apart, factors=factors)


def _apart(term: Term, taken: Iterable[Index]) -> Term:
    """Return the term with bound indices that clash with none of `taken`."""
    known = set(taken) | {n for factor in term.factors for n in factor.free}
    names: dict[Index, Index] = {}
    for index in sorted(term.bound):
        fresh = (Index(f"{index.name}~{n}", index.range) for n in itertools.count())
        names[index] = next(new for new in fresh if new not in known)
        known.add(names[index])
    factors = tuple(factor.rename(names) for factor in term.factors)
    return replace(term, factors=factors, bound=frozenset(names.values()))


def _joined(left: Term, right: Term) -> Term:
    taken = left.bound | {n for factor in left.factors for n in factor.free}
    # The bound indices of one side must not capture free ones of the other.
    right = _apart(right, taken)
    left = _apart(left, {n for factor in right.factors for n in factor.free} | right.bound)
    return Term(
        (*left.factors, *right.factors),
        left.bound | right.bound,
        (*left.powers, *right.powers),
    )


# --- rules -------------------------------------------------------------------------------------


def _slopes(
    expression: Expression, name: str, indices: Sequence[Index]
) -> Iterator[tuple[Fraction, Term]]:
    for amount, given in expression.terms:
        term = _apart(given, indices)
        for place, factor in enumerate(term.factors):
            if factor.argument is not None and name in _names(factor.argument):
                raise ValueError(f"{name} stands inside {factor.name}, which is not differentiated")
            if factor.name != name:
                continue
            rest = (*term.factors[:place], *term.factors[place + 1 :])
            deltas = tuple(
                Factor(DELTA, (own, by)) for own, by in zip(factor.indices, indices, strict=True)
            )
            yield amount, replace(term, factors=(*rest, *deltas))


def _names(expression: Expression) -> set[str]:
    return {
        name
        for _, term in expression.terms
        for factor in term.factors
        for name in ({factor.name} if factor.argument is None else _names(factor.argument))
    }


def _substituted(
    amount: Fraction, term: Term, name: str, by: Expression, indices: Sequence[Index]
) -> Expression:
    result = Expression([(amount, Term(powers=term.powers))])
    apart = _apart(term, [*indices, *by.free])
    for factor in apart.factors:
        if factor.argument is not None:
            result *= apply(factor.name, factor.argument.replace(name, by, *indices))
        elif factor.name == name:
            result *= by.rename(dict(zip(indices, factor.indices, strict=True)))
        else:
            result *= Expression([(Fraction(1), Term((factor,)))])
    return result.sum(*apart.bound)


def _normalised(term: Term) -> Term:
    for place, factor in enumerate(term.factors):
        if not factor.normalised:
            continue
        last = factor.indices[-1]
        rest = (*term.factors[:place], *term.factors[place + 1 :])
        if last in term.bound and not any(last in other.free for other in rest):
            return _normalised(replace(term, factors=rest, bound=term.bound - {last}))
    return term


# --- reading -----------------------------------------------------------------------------------

NAMES: dict[str, str] = {
    DELTA: r"\delta",
    "relu": r"\operatorname{ReLU}",
    "alpha": r"\alpha",
    "A1": "A",
}
"""Names that LaTeX writes otherwise; A1 are the weights of one head."""
BOUND = {"H": "hk", "N": "ijm", "d": "ce", "R": "rq", "L": r"\ell", "D": "xy"}
"""Letters for bound indices, by range."""


def latex(expression: Expression) -> str:
    """Return LaTeX of the canonical form: sums, factors, sizes."""
    if expression.is_zero:
        return "0"
    parts = [_latex_term(amount, term) for amount, term in expression.terms]
    return " ".join(
        part if n == 0 or part.startswith("-") else f"+ {part}" for n, part in enumerate(parts)
    )


def _latex_term(amount: Fraction, term: Term) -> str:
    taken = {n.name for n in term.free}
    names: dict[Index, Index] = {}
    for index in sorted(term.bound):
        letters = [x for x in BOUND.get(index.range, "xyz") if x not in taken] or [index.name]
        letter = r"\ell" if index.range == "L" else letters[0]
        names[index] = Index(letter, index.range)
        taken.add(letter)
    sums = "".join(rf"\sum_{{{names[n].name}}} " for n in sorted(term.bound, key=lambda n: n.range))
    sizes = "".join(
        rf"{name}^{{{power}}} " if power != 1 else f"{name} " for name, power in term.powers
    )
    sign = "-" if amount < 0 else ""
    number = "" if abs(amount) == 1 and (term.factors or term.powers) else f"{abs(amount)} "
    factors = " ".join(_latex_factor(factor.rename(names)) for factor in term.factors)
    return f"{sign}{number}{sizes}{sums}{factors}".strip()


def _latex_factor(factor: Factor) -> str:
    name = NAMES.get(factor.name, factor.name)
    if factor.argument is not None:
        return rf"{name}\left({latex(factor.argument)}\right)"
    indices = ",".join(index.name for index in factor.indices)
    return f"{name}_{{{indices}}}" if indices else name


# --- numbers -----------------------------------------------------------------------------------

Entries = Mapping[str, Any]
"""By name, a function of the indices' values."""


def value(
    expression: Expression,
    sizes: Mapping[str, int],
    entries: Entries,
    at: Mapping[Index, int] | None = None,
) -> Fraction:
    """Evaluate at concrete sizes, with exact fractions; `at` fixes the free indices."""
    places = dict(at or {})
    return sum(
        (amount * _term_value(term, sizes, entries, places) for amount, term in expression.terms),
        Fraction(0),
    )


def _term_value(
    term: Term, sizes: Mapping[str, int], entries: Entries, places: dict[Index, int]
) -> Fraction:
    scale = Fraction(1)
    for name, power in term.powers:
        scale *= Fraction(sizes[name]) ** power
    bound = sorted(term.bound)
    total = Fraction(0)
    for chosen in itertools.product(*(range(sizes[index.range]) for index in bound)):
        here = places | dict(zip(bound, chosen, strict=True))
        product = Fraction(1)
        for factor in term.factors:
            product *= _factor_value(factor, sizes, entries, here)
        total += product
    return scale * total


def _factor_value(
    factor: Factor, sizes: Mapping[str, int], entries: Entries, places: dict[Index, int]
) -> Fraction:
    if factor.argument is not None:
        # ReLU is the only opaque function that is ever evaluated.
        return max(Fraction(0), value(factor.argument, sizes, entries, places))
    numbers = [places[index] for index in factor.indices]
    if factor.name == DELTA:
        return Fraction(numbers[0] == numbers[1])
    return Fraction(entries[factor.name](*numbers))
