"""The index calculus: true statements have one canonical form, wrong ones do not."""

import random
from fractions import Fraction

import pytest

from heatproof import methods
from heatproof.proofs.algebra import all_sizes as a
from heatproof.proofs.algebra import formulas as f
from heatproof.proofs.algebra import indexed
from heatproof.proofs.algebra.all_sizes import c, h, i, j, n, r
from heatproof.proofs.algebra.forms import Form, form_of
from heatproof.proofs.algebra.indexed import apply, delta, one, tensor, value


def form(name: str, **settings: object) -> Form:
    found = form_of(methods.create(name, **settings))
    assert found is not None
    return found


def test_every_theorem_is_checked() -> None:
    assert [step.name for step in a.theorems() if not step.checked] == []
    assert len(a.theorems()) == 12


VALUES, SLOPE = a.values(h, i, c), a.gradient()
U = tensor("u", r, i)
WRONG = {
    "linear, a factor": lambda: a.linear((delta(a.q, r) * delta(a.k, h) * VALUES).times(2)),
    "linear, every head": lambda: a.linear(delta(a.q, r) * VALUES),
    "linear, another key": lambda: a.linear(delta(a.q, r) * delta(a.k, h) * a.values(h, j, c)),
    "chain rule, attention left in": lambda: a.chain_rule(a.weights(r, h, i) * a.channels()),
    "chain rule, summed over heads": lambda: a.chain_rule(a.channels().sum(h)),
    "maps, mean over heads": lambda: a.same_maps(
        (tensor("u", a.ell, r, i) * (tensor("g", a.ell, r, h, c) * tensor("v", a.ell, h, i, c)))
        .sum(a.ell, r, h, c)
        .over("H")
    ),
    "positive parts, per head": lambda: a.rectified(
        apply("relu", (U * a.channels()).sum(r)).sum(h)
    ),
    "positive parts, other sign": lambda: a.rectified(
        apply("relu", (U * a.channels().sum(h)).sum(r).times(-1))
    ),
    "completeness, without o": lambda: a.completeness(tensor("g", r, h, c).sum(c)),
    "zero leaf, another key": lambda: a.zero_leaf(SLOPE.rename({i: j})),
    "one basis, one head": lambda: a.one_basis((tensor("g'", a.x) * VALUES).sum(a.x, h, c)),
    "grad-cam, not divided": lambda: a.grad_cam_of_values((tensor("g", h, c) * VALUES).sum(h, c)),
    "softmax, not differentiated": lambda: a.through_softmax(SLOPE),
    "softmax, first term alone": lambda: a.through_softmax(a.weights(r, h, i) * SLOPE),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_statement_comes_out_unchecked(wrong: str) -> None:
    assert not WRONG[wrong]().checked


def test_the_lemma_fails_for_a_move_that_changes_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Moving one value alone changes o: the step that says otherwise must come out unchecked."""
    moved = lambda head, key, channel: (  # noqa: E731
        a.values(head, key, channel) + delta(head, h) * delta(key, i) * tensor("w", h, channel)
    )
    monkeypatch.setattr(a, "_moved", moved)
    assert not a.lemma_same_output().checked
    assert not a.lemma_squares().checked


# --- the calculus ------------------------------------------------------------------------------


def test_names_and_order_of_bound_indices_do_not_matter() -> None:
    left = (tensor("A", i) * tensor("B", i, j) * tensor("A", j)).sum(i, j)
    right = (tensor("A", n) * tensor("A", i) * tensor("B", n, i)).sum(n, i)
    assert left == right
    assert left != (tensor("A", i) * tensor("B", i, i) * tensor("A", j)).sum(i, j)


def test_a_product_never_captures_an_index() -> None:
    """(sum_i A_i) B_i has a free i; a product that bound it would be sum_i A_i B_i."""
    product = tensor("A", i).sum(i) * tensor("B", i)
    assert product.free == {i}
    assert product != (tensor("A", i) * tensor("B", i)).sum(i)


def test_an_argument_under_a_sum_keeps_its_own_bound_index_apart() -> None:
    inner = (tensor("A", h, i) * tensor("B", h, j)).sum(j)
    assert apply("relu", inner).sum(i) == apply("relu", inner.rename({i: n})).sum(n)
    assert apply("relu", inner).sum(i) != apply("relu", inner.sum(i))


def test_deltas_are_used_up_and_ranges_are_counted() -> None:
    assert (delta(i, j) * tensor("A", j)).sum(j) == tensor("A", i)
    assert (delta(i, j) * tensor("A", j)) == (delta(j, i) * tensor("A", i))
    assert delta(i, i).sum(i) == one().sum(i)
    assert one().sum(i).over("N") == one()
    assert not delta(i, j).is_zero
    assert delta(i, j).distinct(i, j).is_zero


def test_the_product_rule() -> None:
    square = (tensor("A", i) * tensor("A", i)).sum(i)
    assert square.derivative("A", j) == tensor("A", j).times(2)
    with pytest.raises(ValueError, match="relu"):
        apply("relu", tensor("A", i)).derivative("A", j)


def test_rows_add_up_to_one_only_where_that_is_asked_for() -> None:
    row = tensor("A", h, i, normalised=True).sum(i)
    assert row != one()
    assert row.with_rows_of_one() == one()
    weighed = (tensor("A", h, i, normalised=True) * tensor("B", i)).sum(i)
    assert weighed.with_rows_of_one() == weighed


def test_the_canonical_form_keeps_the_value() -> None:
    """A product expanded by the calculus against the product of the two values, in fractions."""
    chance = random.Random(3)
    numbers = {(x, y): Fraction(chance.randint(-3, 3)) for x in range(3) for y in range(3)}
    entries = {"A": lambda x, y: numbers[x, y], "B": lambda x: numbers[x, 0]}
    sizes = {"N": 3, "H": 2}
    left = (tensor("A", i, j) * tensor("B", j)).sum(j) + tensor("B", i).times(2)
    right = (tensor("B", j) - tensor("A", j, i)).sum(j).over("H")
    for token in range(3):
        at = {i: token}
        product = value(left, sizes, entries, at) * value(right, sizes, entries, at)
        assert value(left * right, sizes, entries, at) == product


# --- forms and followers -----------------------------------------------------------------------


@pytest.mark.parametrize("rectify", ["none", "layer", "head"])
@pytest.mark.parametrize("heads", ["one", "model"])
def test_the_two_routes_are_one_for_all_sizes(heads: str, rectify: str) -> None:
    settings = {"heads": heads, "rectify": rectify, "layers": 2}
    run = f.settled([(form("grad-eclip", **settings), form("attention-eclip", **settings))])
    assert run.equal


UNEQUAL = [
    (form("grad-eclip"), form("attention-eclip", heads="model"), 2),
    (form("grad-eclip"), form("attention-eclip", spatial="none"), 1),
    (form("grad-eclip"), form("attention-eclip", projection="none"), 1),
    (form("grad-eclip", layers=1), form("attention-eclip", layers=2), 1),
    (
        form("grad-eclip", heads="model", rectify="layer"),
        form("attention-eclip", heads="model", rectify="head"),
        2,
    ),
    (
        form("grad-eclip", heads="model", spatial="attention", layers=1),
        form("attention-x-gradient"),
        2,
    ),
]


@pytest.mark.parametrize(("left", "right", "heads"), UNEQUAL)
def test_other_settings_are_refuted_by_a_witness_with_so_many_heads(
    left: Form, right: Form, heads: int
) -> None:
    run = f.settled([(left, right)])
    assert not run.equal
    assert run.unequal is not None
    assert run.unequal.witness is not None
    assert run.unequal.witness.heads == heads
    assert run.unequal.witness.values[0] != run.unequal.witness.values[1]


def test_nothing_compared_is_not_equal() -> None:
    asked = form("grad-eclip", layers=5)
    assert not f.settled([(asked, asked)]).equal


def test_followers_are_what_their_algebra_says() -> None:
    found = {result.follower.name: result.comparison for result in f.followers()}
    assert found["Grad-CAM on the values"].relation == "proportional"
    assert found["CAV, text side, last layer, before its ReLU"].relation == "equal"
    assert found["CAV, text side, last layer, as published"].relation == "different"
    assert found["CAV, image side"].relation == "different"
    assert found["CAV, image side"].witness is not None
    assert found["CAV, image side"].witness.heads == 2
    assert found["CAV, image side, one head"].relation == "proportional"
    assert found["MGA-CLIP, integrated gradients as channel weights"].relation == "different"


def test_a_factor_per_map_is_told_from_a_difference() -> None:
    base = tensor("g", i)
    assert f.compare(base, base.over("N")).relation == "proportional"
    assert f.compare(base, base.times(-1)).relation == "different"
    assert f.compare(base, base + tensor("v", i)).relation == "different"


def test_a_formula_reads_as_latex() -> None:
    shown = indexed.latex(f.BASELINES["attention-x-gradient"]())
    assert shown == r"\sum_{h} \sum_{c} A_{h,i} g_{h,c} v_{h,i,c}"
