"""`banzhaf` on small games whose values are known, and its errors on a model."""

import itertools
from itertools import islice
from math import factorial

import pytest
import torch
from torch import Tensor

import heatproof
import tiny
from by_hand_banzhaf import posterior
from families import picture
from heatproof import methods
from heatproof.methods.banzhaf import drawn_pairs, exact
from heatproof.methods.pair_regression import regress
from heatproof.methods.perturbing import all_coalitions
from method_cases import texts

PLAYERS = 8


def game(seed: int, together: float = 0.3) -> Tensor:
    """Worth of all coalitions: additive, and by a share what two and three players do together."""
    generator = torch.Generator().manual_seed(seed)
    signs = 2 * all_coalitions(PLAYERS).double() - 1
    worth = signs @ torch.randn(PLAYERS, generator=generator, dtype=torch.float64)
    for size in (2, 3):
        for group in itertools.combinations(range(PLAYERS), size):
            weight = together * torch.randn((), generator=generator, dtype=torch.float64)
            worth = worth + weight * signs[:, list(group)].prod(1)
    return worth[:, None]


def number(keep: Tensor) -> Tensor:
    """The rows of `all_coalitions` that these coalitions are."""
    return (keep.long() * 2 ** torch.arange(keep.shape[1])).sum(1)


def banzhaf(worth: Tensor) -> Tensor:
    """By definition: the mean, over coalitions of the others, of what a player adds."""
    values: list[Tensor] = []
    for player in range(PLAYERS):
        without = [n for n in range(2**PLAYERS) if not n >> player & 1]
        values.append(torch.stack([worth[n + 2**player] - worth[n] for n in without]).mean(0))
    return torch.stack(values)


def pairs(worth: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    keep = torch.stack(list(islice(drawn_pairs(PLAYERS, "banzhaf", seed), count)))
    return 2 * keep.double() - 1, worth[number(keep)] - worth[number(~keep)]


def test_all_coalitions_give_the_values_by_definition() -> None:
    """Fails if a coalition's sign or weight is another."""
    worth = game(0)
    found = exact(all_coalitions(PLAYERS), worth, "banzhaf")
    torch.testing.assert_close(found.values, banzhaf(worth))
    assert not found.errors.any()


def test_all_coalitions_give_shapley_values_by_definition() -> None:
    """Fails if a size is weighed as Banzhaf values weigh it."""
    worth = torch.randn(16, 1, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.zeros(4, 1, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        for place, player in enumerate(order):
            before = sum(2**other for other in order[:place])
            expected[player] += worth[before + 2**player] - worth[before]
    found = exact(all_coalitions(4), worth, "shapley").values
    torch.testing.assert_close(found, expected / factorial(4))


def test_the_draw_is_unbiased() -> None:
    """Fails if columns do not change sign: then a player is in the first coalition too often."""
    worth = game(2, together=1.0)
    draws = [(s.T @ d)[:, 0] / len(s) for s, d in (pairs(worth, 3, n) for n in range(800))]
    estimates = torch.stack(draws)
    error = estimates.std(0) / len(draws) ** 0.5
    assert ((estimates.mean(0) - banzhaf(worth)[:, 0]).abs() < 4 * error).all()


def test_as_many_pairs_as_players_are_orthogonal() -> None:
    """Fails if coalitions are drawn one by one."""
    signs, _ = pairs(game(3), PLAYERS, 0)
    torch.testing.assert_close(signs @ signs.T, PLAYERS * torch.eye(PLAYERS).double())


def test_an_additive_game_is_told_exactly() -> None:
    """Fails if the noise is never taken to be small."""
    worth = game(3, together=0.0)
    found = regress(*pairs(worth, 2 * PLAYERS, 0))
    torch.testing.assert_close(found.values, banzhaf(worth), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("guessed", ["nothing", "nearly the values", "something else"])
@pytest.mark.parametrize("count", [6, 12, 32])
def test_intervals_cover_the_values(guessed: str, count: int) -> None:
    """Fails if errors are too small by a third or too large by a half."""
    inside: list[Tensor] = []
    for seed in range(60):
        worth = game(seed)
        true = banzhaf(worth)
        noise = torch.randn(
            true.shape, generator=torch.Generator().manual_seed(1000 + seed)
        ).double()
        guess = {
            "nothing": None,
            "nearly the values": true + 0.5 * noise,
            "something else": noise,
        }[guessed]
        found = regress(*pairs(worth, count, seed), guess)
        inside.append((found.values - true).abs() <= 1.96 * found.errors)
    assert 0.88 <= float(torch.stack(inside).double().mean()) <= 0.98


def test_a_good_guess_makes_errors_smaller() -> None:
    """Fails if the guess is not used, or its factor is not fitted."""
    worth = game(4, together=0.1)
    signs, differences = pairs(worth, 5, 0)
    alone, guessed = (regress(signs, differences, guess) for guess in (None, -7 * banzhaf(worth)))
    assert guessed.errors.mean() < alone.errors.mean() / 2
    assert (guessed.values - banzhaf(worth)).norm() < (alone.values - banzhaf(worth)).norm() / 2


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize("total", [None, 0.7])
def test_errors_are_those_of_dense_conditioning(count: int, total: float | None) -> None:
    """Fails if a term of the variance is left out; with 20 pairs rows are compressed."""
    signs, differences = pairs(game(5), count, 1)
    guess = torch.randn(PLAYERS, 1, generator=torch.Generator().manual_seed(2)).double()
    sums = None if total is None else torch.tensor([total], dtype=torch.float64)
    found = regress(signs, differences, guess, sums)
    mean, variance = posterior(signs, differences[:, 0], guess[:, 0], total)
    torch.testing.assert_close(found.values[:, 0], mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.errors[:, 0], variance.sqrt(), rtol=1e-6, atol=1e-8)
    if total is not None:
        assert float(found.values.sum()) == pytest.approx(total)


def test_targets_do_not_depend_on_each_other() -> None:
    """Fails if a target's scale or noise is taken from another."""
    worth = torch.cat([game(6), 100 * game(7), torch.zeros(2**PLAYERS, 1).double()], 1)
    signs, differences = pairs(worth, 6, 3)
    together = regress(signs, differences)
    for target in range(3):
        alone = regress(signs, differences[:, target, None])
        torch.testing.assert_close(together.values[:, target], alone.values[:, 0])
    assert not together.values[:, 2].any()


def test_it_goes_on_until_the_errors_are_small() -> None:
    """Fails if the precision is not looked at, or the errors of a map are another's."""
    model = tiny.open_clip_vit()
    once = heatproof.explain(model, picture(model), texts(2), method="banzhaf", certify=False)
    method = methods.create("banzhaf", precision=0.02)
    found = heatproof.explain(model, picture(model), texts(2), method=method, certify=False)
    ratios: list[Tensor] = []
    for explained in (once, found):
        assert explained.errors is not None
        assert explained.errors.shape == explained.maps.shape
        largest = explained.maps.abs().amax((2, 3))
        ratios.append((explained.errors.amax((2, 3)) / largest).max())
    assert ratios[1] <= 0.02 * 1.001 < ratios[0]
    short = methods.create("banzhaf", most=8, samples=8, precision=1e-6)
    ended = heatproof.explain(model, picture(model), texts(2), method=short, certify=False)
    assert ended.errors is not None
    assert (ended.errors.amax((2, 3)) > 1e-6 * ended.maps.abs().amax((2, 3))).all()
