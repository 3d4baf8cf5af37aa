"""The equivalence for every number of layers, rows, heads, tokens and channels, and any score.

Each theorem is a left and a right side in the index calculus; it is checked by subtracting one from
the other. S enters through g = dS/do alone, so that any differentiable score is covered. A is a
free variable: the softmax is not differentiated through, but in `through_softmax`.

The lemma: of all maps M_i = sum_hc w_hc v_hic, whose w depends on v through o only, exactly the one
with w = dS/do is the attention gradient sum_h dS/dA_hi. `if` is the chain rule. `only if`: move two
values of one head, v_i by A_j x and v_j by -A_i x. Then o stays (so w and g stay), and M_i minus
the gradient moves by A_j sum_c (w - g)_c x_c. With x = w - g this is A_j times a sum of squares,
and A_j > 0 behind a softmax: the two maps can agree for all values only if w = g. It takes two
tokens. Where w may depend on v in any way, w = g follows at each v whose matrix (token by channel)
has full column rank, and only there: ViT-B/16 has more channels than tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from heatproof.proofs.algebra.indexed import (
    Expression,
    Index,
    apply,
    delta,
    latex,
    tensor,
)

ell = Index("ell", "L")
r, q = Index("r", "R"), Index("q", "R")
h, k = Index("h", "H"), Index("k", "H")
i, j, n = Index("i", "N"), Index("j", "N"), Index("n", "N")
c, e = Index("c", "d"), Index("e", "d")
x = Index("x", "D")


@dataclass(frozen=True)
class Step:
    """One statement, as it stands on the page, and whether the machine finds it to hold.

    sizes: for which sizes of layer it was checked.
    """

    name: str
    latex: str
    checked: bool
    sizes: str = "all sizes"


def theorem(name: str, shown: str, left: Expression, right: Expression) -> Step:
    """Check left = right for all sizes; `shown` is the left side as people write it."""
    return Step(name, f"{shown} = {latex(right)}", (left - right).is_zero)


# --- the layer ---------------------------------------------------------------------------------


def weights(*at: Index, name: str = "A") -> Expression:
    """Return an attention weight of a readout row: at (layer,) row, head, key."""
    return tensor(name, *at, normalised=True)


def values(head: Index, key: Index, channel: Index) -> Expression:
    """Return v by head, key and channel."""
    return tensor("v", head, key, channel)


def output(row: Index, head: Index, channel: Index) -> Expression:
    """Return o = sum_j A_j v_j at a readout row, by head and channel."""
    return (weights(row, head, n) * values(head, n, channel)).sum(n)


def by_score(of: Callable[[Index, Index, Index], Expression], name: str, *at: Index) -> Expression:
    """Return dS/d(entry of `name`) for any differentiable S of the outputs `of`: the chain rule.

    dS/dX = sum over rows, heads and channels of g times do/dX, with g = dS/do.
    """
    return (tensor("g", q, k, e) * of(q, k, e).derivative(name, *at)).sum(q, k, e)


def gradient() -> Expression:
    """Return dS/dA at row r, head h, key i, derived from o."""
    return by_score(output, "A", r, h, i)


def channels() -> Expression:
    """Return sum_c g_c v_ic at row r, head h, key i."""
    return (tensor("g", r, h, c) * values(h, i, c)).sum(c)


# --- theorems ----------------------------------------------------------------------------------


def linear(right: Expression | None = None) -> Step:
    """o is linear in A: its derivative holds no A, and one head's output no other head's weight."""
    right = delta(q, r) * delta(k, h) * values(h, i, c) if right is None else right
    left = output(q, k, c).derivative("A", r, h, i)
    shown = r"\frac{\partial o_{q,k,c}}{\partial A_{r,h,i}}"
    return theorem("the attention output is linear in its weights", shown, left, right)


def chain_rule(right: Expression | None = None) -> Step:
    """dS/dA_i = g . v_i."""
    shown = r"\frac{\partial S}{\partial A_{r,h,i}}"
    right = channels() if right is None else right
    return theorem("chain rule, for any differentiable score", shown, gradient(), right)


def same_maps(right: Expression | None = None) -> Step:
    """Grad-ECLIP's map of any layers, rows and heads is Attention-ECLIP's.

    Each layer has its own A, v, g and u; the layer is one more index.
    """

    def out(row: Index, head: Index, channel: Index) -> Expression:
        return (weights(ell, row, head, n) * tensor("v", ell, head, n, channel)).sum(n)

    slope = (tensor("g", ell, q, k, e) * out(q, k, e).derivative("A", ell, r, h, i)).sum(q, k, e)
    spatial = tensor("u", ell, r, i)
    left = (spatial * slope.sum(h)).sum(ell, r)
    if right is None:
        channel_sum = (tensor("g", ell, r, h, c) * tensor("v", ell, h, i, c)).sum(c)
        right = (spatial * channel_sum.sum(h)).sum(ell, r)
    shown = (
        r"\sum_{\ell} \sum_{r} u_{\ell,r,i} "
        r"\sum_{h} \frac{\partial S}{\partial A_{\ell,r,h,i}}"
    )
    return theorem("Attention-ECLIP is Grad-ECLIP, over any layers", shown, left, right)


def rectified(right: Expression | None = None) -> Step:
    """The published map, cut off below zero after rows and heads are summed."""
    spatial = tensor("u", r, i)
    left = apply("relu", (spatial * gradient().sum(h)).sum(r))
    right = apply("relu", (spatial * channels().sum(h)).sum(r)) if right is None else right
    shown = (
        r"\operatorname{ReLU}\left(\sum_{r} u_{r,i} "
        r"\sum_{h} \frac{\partial S}{\partial A_{r,h,i}}\right)"
    )
    return theorem("and so are their positive parts", shown, left, right)


def completeness(right: Expression | None = None) -> Step:
    """Attention times its gradient adds up to g . o over all keys."""
    left = (weights(r, h, i) * gradient()).sum(i)
    if right is None:
        right = (tensor("g", r, h, c) * output(r, h, c)).sum(c)
    shown = r"\sum_{i} A_{r,h,i} \frac{\partial S}{\partial A_{r,h,i}}"
    return theorem("attention times its gradient adds up to g . o", shown, left, right)


def zero_leaf(right: Expression | None = None) -> Step:
    """A zero beside the readout row has the gradient of the weights, and no weight is formed."""

    def shifted(row: Index, head: Index, channel: Index) -> Expression:
        leaf = tensor("Delta", row, head, n) * values(head, n, channel)
        return output(row, head, channel) + leaf.sum(n)

    left = by_score(shifted, "Delta", r, h, i)
    shown = r"\frac{\partial S(o + \Delta v)}{\partial \Delta_{r,h,i}}"
    return theorem(
        "a zero leaf has the same gradient", shown, left, gradient() if right is None else right
    )


def one_basis(right: Expression | None = None) -> Step:
    """Before the output projection W or after it: gradient times value is the same number."""
    # o' = W o and g = W^T g' by the chain rule; both are written with g'.
    after = (tensor("g'", x) * (tensor("W", x, h, c) * values(h, i, c)).sum(h, c)).sum(x)
    if right is None:
        back = (tensor("g'", x) * tensor("W", x, h, c)).sum(x)
        right = (back * values(h, i, c)).sum(h, c)
    shown = r"\sum_{x} g'_{x} \left(W v_{i}\right)_{x}"
    return theorem("the output projection changes nothing, but for its bias", shown, after, right)


def grad_cam_of_values(right: Expression | None = None) -> Step:
    """Grad-CAM on the last layer's values is Grad-ECLIP without a spatial weight, over N.

    Channel weights are the mean over all tokens of dS/dv; each row of A adds up to one. One row is
    read out.
    """
    one_row = (weights(k, n) * values(k, n, e)).sum(n)
    slope = (tensor("g", k, e) * one_row.derivative("v", h, j, c)).sum(k, e)
    mean = slope.sum(j).over("N").with_rows_of_one()
    left = (mean * values(h, i, c)).sum(h, c)
    if right is None:
        right = (tensor("g", h, c) * values(h, i, c)).sum(h, c).over("N")
    shown = (
        r"\sum_{h,c} \Big(\tfrac1N \sum_{j} \frac{\partial S}{\partial v_{h,j,c}}\Big) v_{h,i,c}"
    )
    return theorem("Grad-CAM on the values is an attention gradient", shown, left, right)


def through_softmax(right: Expression | None = None) -> Step:
    """The limit: by the logits s it is another derivative. dA_j/ds_i = A_j (delta_ji - A_i)."""
    jacobian = weights(r, h, j) * (delta(j, i) - weights(r, h, i))
    slope = gradient().rename({i: j})
    left = (slope * jacobian).sum(j)
    if right is None:
        inner = (weights(r, h, j) * slope).sum(j)
        right = weights(r, h, i) * (gradient() - inner)
    shown = r"\frac{\partial S}{\partial s_{r,h,i}}"
    return theorem("the limit: through the softmax it is not dS/dA", shown, left, right)


# --- the lemma ---------------------------------------------------------------------------------


def _moved(head: Index, key: Index, channel: Index) -> Expression:
    """Return the values with those of tokens i and j of head h moved along w - g."""
    along = _excess(channel)
    back = delta(key, i) * _attention(j) - delta(key, j) * _attention(i)
    return values(head, key, channel) + delta(head, h) * back * along


def _attention(key: Index) -> Expression:
    return weights(h, key)


def _excess(channel: Index) -> Expression:
    return tensor("w", h, channel) - tensor("g", h, channel)


def lemma_same_output() -> Step:
    """The move leaves o as it is, in every head and channel."""
    before = (weights(k, n) * values(k, n, c)).sum(n)
    after = (weights(k, n) * _moved(k, n, c)).sum(n)
    return theorem(
        "lemma: the move leaves the output", r"\sum_{n} A_{k,n} \tilde v_{k,n,c}", after, before
    )


def lemma_squares() -> Step:
    """The move changes M_i minus the attention gradient by A_j times a sum of squares."""
    excess = tensor("w", k, e) - tensor("g", k, e)
    before = (excess * values(k, i, e)).sum(k, e)
    after = (excess * _moved(k, i, e)).sum(k, e)
    squares = _attention(j) * (_excess(e) * _excess(e)).sum(e)
    shown = r"\sum_{k,e} (w - g)_{k,e} (\tilde v - v)_{k,i,e}"
    return theorem(
        "lemma: it changes the gap by squares alone",
        shown,
        (after - before).distinct(i, j),
        squares,
    )


def lemma_if() -> Step:
    """With w = g the map is the attention gradient."""
    mapped = (tensor("w", h, c) * values(h, i, c)).sum(h, c)
    left = mapped.replace("w", tensor("g", h, c), h, c)
    right = (
        tensor("g", k, e) * (weights(k, n) * values(k, n, e)).sum(n).derivative("A", h, i)
    ).sum(k, e)
    return theorem(
        "lemma: with w = g it is the attention gradient",
        r"\sum_{h,c} w_{h,c} v_{h,i,c}\Big|_{w = g}",
        left,
        right.sum(h),
    )


def theorems() -> tuple[Step, ...]:
    """Return all theorems, checked."""
    return (
        linear(),
        chain_rule(),
        same_maps(),
        rectified(),
        completeness(),
        zero_leaf(),
        one_basis(),
        grad_cam_of_values(),
        through_softmax(),
        lemma_if(),
        lemma_same_output(),
        lemma_squares(),
    )
