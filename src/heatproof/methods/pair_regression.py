"""Bayesian regression of score differences on coalitions, with a gradient map as its prior mean.

A pair of coalitions is a set S of players and its complement. With z_i = 1 where player i is in S
and -1 elsewhere,

    v(S) - v(complement) = sum_i z_i phi_i + what three players or more do together,

and least squares over all S gives the Banzhaf values phi (Hammer & Holzman, 1992); over sizes drawn
by the Shapley kernel, and with their sum fixed, the Shapley values (arXiv 1705.07874). Interactions
of two players cancel within a pair.

Few pairs leave most directions of phi undetermined. They are filled from a Gaussian process prior:
phi_i = c * guess_i + u_i, where c has no prior and u_i the variance 1 - q + q * guess_i^2, up to a
factor: what a gradient map gets wrong is larger where the map is. q and the share of noise are not
chosen: the result is the mean over a grid of them, weighted by their restricted likelihood.
Source: Rasmussen & Williams, 2006, chapters 2.7 and 5.4.1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Signs = Float[Tensor, "pair player"]
Values = Float[Tensor, "player target"]

# Shares of noise in the variance of a difference, from almost none to almost all.
NOISE = (0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
# q: how far the guess's own size tells how wrong it may be.
LIKENESS = (0.0, 0.5, 0.9)
TOGETHER = 64  # targets at once


@dataclass(frozen=True)
class Estimate:
    """Values of players with their standard errors, in float64.

    An error is the posterior standard deviation. On average over players, 95 % of the intervals
    `values` +- 1.96 `errors` cover what infinitely many pairs would give (Nychka, JASA 83, 1988).
    They say nothing of a single player that the prior does not expect, such as a strong one where
    the guess is zero: its interval covers less often while pairs are few.
    """

    values: Values
    errors: Values


def regress(
    signs: Signs,
    differences: Float[Tensor, "pair target"],
    guess: Values | None = None,
    total: Float[Tensor, " target"] | None = None,
) -> Estimate:
    """Estimate each player's value from pairs of coalitions.

    Args:
        signs: 1 where a player is in the pair's first coalition, -1 where in its second.
        differences: score of the first coalition, less that of the second.
        guess: a map that the values may be like, up to a factor that is fitted.
        total: what the values add up to, where that is known.
    """
    if not signs.shape[1]:
        nothing = signs.new_zeros(0, differences.shape[1])
        return Estimate(nothing, nothing)
    parts: list[Estimate] = []
    for start in range(0, differences.shape[1], TOGETHER):
        some = slice(start, start + TOGETHER)
        rows = _compressed(signs, differences[:, some])
        sums = None if total is None else total[some]
        if guess is None:
            even = signs.new_ones(rows.differences.shape[1], signs.shape[1])
            priors = [_prior(even, None, sums)]
        else:
            like = _unit(guess[:, some]).T
            priors = [_prior(1 - q + q * like.square(), like, sums) for q in LIKENESS]
        parts.append(_averaged([part for prior in priors for part in _posteriors(rows, prior)]))
    return Estimate(
        torch.cat([part.values for part in parts], 1), torch.cat([part.errors for part in parts], 1)
    )


@dataclass(frozen=True)
class _Rows:
    """Pairs, rotated so that there are no more rows than players; `rest` is the sum of squares
    that no values explain, `count` the number of pairs."""

    signs: Float[Tensor, "row player"]
    differences: Float[Tensor, "row target"]
    rest: Float[Tensor, " target"]
    count: int


@dataclass(frozen=True)
class _Prior:
    """What is known before any pair: a guess up to a factor, a known part, and a covariance.

    The covariance of a target is diag(own) - outer(own, own) / sum(own) where `sums`, which keeps
    the sum of the values fixed; else it is diag(own).
    """

    own: Float[Tensor, "target player"]
    guess: Float[Tensor, "target player"]
    known: Float[Tensor, "target player"]
    sums: bool

    def times(self, signs: Signs) -> Float[Tensor, "target player row"]:
        """Return the covariance times the rows."""
        product = self.own.unsqueeze(2) * signs.T
        if not self.sums:
            return product
        share = self.own / self.own.sum(1, keepdim=True)
        return product - share.unsqueeze(2) * product.sum(1, keepdim=True)

    def variance(self) -> Float[Tensor, "target player"]:
        """Return the covariance's diagonal."""
        share = self.own / self.own.sum(1, keepdim=True) if self.sums else 0.0
        return self.own * (1 - share)


@dataclass(frozen=True)
class _Posterior:
    """The posterior under one prior and one share of noise."""

    likelihood: Float[Tensor, " target"]
    mean: Float[Tensor, "target player"]
    variance: Float[Tensor, "target player"]


def _unit(guess: Values) -> Values:
    return guess / guess.square().mean(0).sqrt().clamp(min=torch.finfo(guess.dtype).tiny)


def _compressed(signs: Signs, differences: Float[Tensor, "pair target"]) -> _Rows:
    if len(signs) <= signs.shape[1]:
        nothing = differences.new_zeros(differences.shape[1])
        return _Rows(signs, differences, nothing, len(signs))
    basis, rows = torch.linalg.qr(signs)
    rotated = basis.T @ differences
    rest = differences.square().sum(0) - rotated.square().sum(0)
    return _Rows(rows, rotated, rest.clamp(min=0), len(signs))


def _prior(
    own: Float[Tensor, "target player"],
    guess: Float[Tensor, "target player"] | None,
    total: Float[Tensor, " target"] | None,
) -> _Prior:
    own = own / own.sum(1, keepdim=True)
    guess = torch.zeros_like(own) if guess is None else guess
    if total is None:
        return _Prior(own, guess, torch.zeros_like(own), False)
    # Given their sum, the values are what the prior's own shares make of it, and what sums to zero.
    return _Prior(own, guess - own * guess.sum(1, keepdim=True), own * total[:, None], True)


def _posteriors(rows: _Rows, prior: _Prior) -> Iterator[_Posterior]:
    spanned = prior.times(rows.signs)
    spread, basis = torch.linalg.eigh(rows.signs @ spanned)
    spread, gain = spread.clamp(min=0), spanned @ basis
    y, x = (
        (part.unsqueeze(1) @ basis).squeeze(1)
        for part in (
            rows.differences.T - prior.known @ rows.signs.T,
            prior.guess @ rows.signs.T,
        )
    )
    beyond = rows.count - y.shape[1]  # rows that the compression took out
    # A guess that is zero has no factor to fit.
    fits = x.square().sum(1) > 1e-12 * x.shape[1]
    freedom = rows.count - fits.to(y.dtype)
    for noise in NOISE:
        height = (1 - noise) * spread + noise
        information = torch.where(fits, (x.square() / height).sum(1), 1.0)
        factor = torch.where(fits, (x * y / height).sum(1) / information, 0.0)
        left = y - x * factor[:, None]
        squares = (left.square() / height).sum(1) + rows.rest / noise
        squares = squares.clamp(min=torch.finfo(y.dtype).tiny)
        volume = height.log().sum(1) + beyond * math.log(noise) + information.log()
        weights = (1 - noise) * gain / height.unsqueeze(1)
        mean = prior.known + prior.guess * factor[:, None] + (weights @ left.unsqueeze(2))[..., 0]
        variance = (1 - noise) * (prior.variance() - (weights * gain).sum(2))
        # The factor's own uncertainty, where the pairs do not already say what is there.
        unsaid = prior.guess - (weights @ x.unsqueeze(2))[..., 0]
        variance = variance + torch.where(fits, 1 / information, 0.0)[:, None] * unsaid.square()
        # The scale is estimated too, which widens the errors as Student's t does.
        scale = squares / (freedom - 2).clamp(min=1)
        yield _Posterior(
            -(freedom * squares.log() + volume) / 2,
            mean,
            scale[:, None] * variance.clamp(min=0),
        )


def _averaged(parts: Sequence[_Posterior]) -> Estimate:
    weights = torch.stack([part.likelihood for part in parts]).softmax(0).unsqueeze(2)
    means = torch.stack([part.mean for part in parts])
    variances = torch.stack([part.variance for part in parts])
    mean = (weights * means).sum(0)
    # What the parts disagree about is uncertain too.
    variance = (weights * (variances + (means - mean).square())).sum(0)
    return Estimate(mean.T, variance.sqrt().T)
