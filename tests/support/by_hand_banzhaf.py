"""`banzhaf` once more: dense Gaussian conditioning, coalitions drawn player by player."""

from typing import Any

import torch
from torch import Tensor

import by_hand
from by_hand import Told, replicates
from by_hand_perturb import on_tokens, own_score, without

NOISE = (0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95)


@replicates("banzhaf")
def banzhaf(
    told: Told, remove: str, fill: str, samples: int, value: str, gradient: str, **_: Any
) -> Tensor:
    """Fewer samples than coalitions, one round."""
    count = len(told.content)
    assert samples < 2**count
    pairs = [stays(count, value, n) for n in range(samples // 2)]
    signs = torch.tensor([[1.0 if s else -1.0 for s in stay] for stay in pairs]).double()
    differences = [
        without(told, [i for i in range(count) if not stay[i]], remove, fill)
        - without(told, [i for i in range(count) if stay[i]], remove, fill)
        for stay in pairs
    ]
    guess = None
    if gradient == "libragrad":
        guess = by_hand.TWINS["libragrad"](told, of="fullgrad-plus").detach()[told.content]
    total = None
    if value == "shapley":
        total = own_score(told) - without(told, range(count), remove, fill)
    mean, _variance = posterior(signs, torch.tensor(differences, dtype=torch.float64), guess, total)
    return on_tokens(told, mean.tolist())


def stays(count: int, value: str, number: int) -> list[bool]:
    """The first coalition of pair `number`: drawn anew from the start, for it alone."""
    generator = torch.Generator().manual_seed(0)
    if value == "shapley":
        mass = torch.tensor([1 / (k * (count - k)) for k in range(1, count)], dtype=torch.float64)
        for _ in range(number + 1):
            size = int(torch.multinomial(mass, 1, generator=generator)) + 1
            noise = torch.rand(count, generator=generator)
        smallest = sorted(range(count), key=lambda i: float(noise[i]))[:size]
        return [i in smallest for i in range(count)]
    order = 1
    while order < count:
        order *= 2
    assert number < order
    rows = torch.randperm(order, generator=generator).tolist()
    columns = torch.randperm(order, generator=generator).tolist()
    flips = torch.rand(count, generator=generator) < 0.5
    # Sylvester's matrix: the sign is the parity of the bits that row and column share.
    signs = [(rows[number] & columns[i]).bit_count() % 2 == 0 for i in range(count)]
    return [sign != bool(flips[i]) for i, sign in enumerate(signs)]


def posterior(
    signs: Tensor, y: Tensor, guess: Tensor | None, total: float | None
) -> tuple[Tensor, Tensor]:
    """Mean and variance, over the grid, of values whose prior is Gaussian about c * guess.

    The factor c has no prior: generalised least squares, and the restricted likelihood.
    """
    ones = torch.ones(signs.shape[1]).double()
    shapes = [ones]
    if guess is not None:
        guess = guess / guess.square().mean().sqrt()
        shapes = [1 - q + q * guess.square() for q in (0.0, 0.5, 0.9)]
    logs: list[Tensor] = []
    means: list[Tensor] = []
    variances: list[Tensor] = []
    for shape in shapes:
        prior, known, like = torch.diag(shape / shape.sum()), 0 * ones, guess
        if total is not None:  # conditioned on the sum, as on one more row without noise
            pull = prior @ ones / (ones @ prior @ ones)
            prior, known = prior - torch.outer(pull, ones) @ prior, pull * total
            like = None if guess is None else guess - pull * (ones @ guess)
        for noise in NOISE:
            own = (1 - noise) * prior
            inverse = torch.linalg.inv(signs @ own @ signs.T + noise * torch.eye(len(y)).double())
            left, freedom, log = y - signs @ known, len(y), inverse.logdet() / 2
            mean = known
            if like is not None:
                x = signs @ like
                weight = x @ inverse @ x
                factor = (x @ inverse @ left) / weight
                left, mean, freedom = left - factor * x, known + factor * like, len(y) - 1
                log = log - weight.log() / 2
            squares = left @ inverse @ left
            gain = own @ signs.T @ inverse
            variance = (own - gain @ signs @ own).diagonal()
            if like is not None:
                variance = variance + (like - gain @ signs @ like).square() / weight
            logs.append(log - freedom / 2 * squares.log())
            means.append(mean + gain @ left)
            variances.append(variance * squares / max(freedom - 2, 1))
    weights = torch.stack(logs).softmax(0)[:, None]
    mean = (weights * torch.stack(means)).sum(0)
    spread = torch.stack(variances) + (torch.stack(means) - mean).square()
    return mean, (weights * spread).sum(0)
