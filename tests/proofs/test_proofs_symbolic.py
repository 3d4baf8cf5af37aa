"""The derivation: true statements check, wrong ones do not; what is printed is what is checked."""

import pytest
import sympy as sp

from heatproof import methods
from heatproof.proofs.algebra import symbolic as s
from heatproof.proofs.algebra.forms import Form, form_of


def form(name: str, **settings: object) -> Form:
    found = form_of(methods.create(name, **settings))
    assert found is not None
    return found


def test_every_step_of_the_derivation_is_checked() -> None:
    steps = s.derivation()
    assert [step.name for step in steps if not step.checked] == []
    assert len(steps) == 6


def test_a_step_prints_what_it_checks() -> None:
    right = s.chain_rule(s.CHANNEL_SUM).latex
    assert right == (r"\frac{\partial S}{\partial A_{h,i}} = \sum_{c=1}^{d} g_{h,c} v_{h,i,c}")
    assert s.chain_rule(2 * s.CHANNEL_SUM).latex != right


MEAN = s.over_heads(s.NABLA[s.h, s.i]) / s.HEADS
WRONG = {
    "linear, a factor": lambda: s.linear(2 * s.V[s.h, s.i, s.c]),
    "linear, another key": lambda: s.linear(s.V[s.h, s.i + 1, s.c]),
    "chain rule, attention left in": lambda: s.chain_rule(s.A[s.h, s.i] * s.CHANNEL_SUM),
    "chain rule, first channel alone": lambda: s.chain_rule(s.G[s.h, 1] * s.V[s.h, s.i, 1]),
    "maps, mean over heads": lambda: s.same_maps(s.GRAD_ECLIP, s.U[s.i] * MEAN),
    "maps, no spatial weight": lambda: s.same_maps(s.GRAD_ECLIP, s.ATTENTION_ECLIP / s.U[s.i]),
    "positive parts, other sign": lambda: s.rectified(s.GRAD_ECLIP, -s.ATTENTION_ECLIP),
    "completeness, without o": lambda: s.completeness(sp.Sum(s.G[s.h, s.c], (s.c, 1, s.CHANNELS))),
    "softmax, not differentiated": lambda: s.through_softmax(s.NABLA[s.h, s.i]),
    "softmax, first term alone": lambda: s.through_softmax(s.A[s.h, s.i] * s.NABLA[s.h, s.i]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_statement_comes_out_unchecked(wrong: str) -> None:
    assert not WRONG[wrong]().checked


def test_a_statement_without_a_check_is_unchecked() -> None:
    assert not s.step("nothing", s.A[s.h, s.i], s.A[s.h, s.i], lambda _: iter(())).checked


def test_names_stand_for_the_derivatives_of_this_score() -> None:
    """g_2 is dS/do at its second channel: S = o_1 + 3 o_2 put in for the undefined one."""
    layer = s.Layer((1, 1, 2))
    plain = sp.diff(layer.output[1, 1] + 3 * layer.output[1, 2], layer.weights[1, 1])
    named = layer.by_weights(1, 1).subs({layer.gradient[1, 1]: 1, layer.gradient[1, 2]: 3})
    assert sp.expand(plain - named) == 0


# --- any two forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("rectify", ["none", "layer", "head"])
@pytest.mark.parametrize("heads", ["one", "model"])
def test_the_two_routes_have_no_difference(heads: str, rectify: str) -> None:
    settings = {"heads": heads, "rectify": rectify, "layers": 2}
    run = s.compare([(form("grad-eclip", **settings), form("attention-eclip", **settings))])
    assert run.equal


UNEQUAL = [
    (form("grad-eclip"), form("attention-eclip", heads="model"), 2),
    (form("grad-eclip"), form("attention-eclip", spatial="none"), 1),
    (form("grad-eclip"), form("attention-eclip", projection="none"), 1),
    (form("grad-eclip"), form("attention-eclip", rectify="layer"), 1),
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
    (form("raw-attention"), form("attention-x-gradient"), 1),
]


@pytest.mark.parametrize(("one", "other", "heads"), UNEQUAL)
def test_other_settings_differ_from_so_many_heads_on(one: Form, other: Form, heads: int) -> None:
    run = s.compare([(one, other)])
    assert run.refuted
    assert not run.equal
    assert run.size is not None
    assert run.size[0] == heads
    assert run.difference


def test_rectifying_one_head_is_rectifying_the_layer() -> None:
    one, other = form("grad-eclip", rectify="layer"), form("grad-eclip", rectify="head")
    assert s.compare([(one, other)]).equal


def test_nothing_compared_is_not_equal() -> None:
    asked = form("grad-eclip", layers=5)
    assert not s.compare([(asked, asked)]).equal
    assert s.compare([(asked, asked)], calls=5).equal
