"""How far a map agrees with `banzhaf`, in that map's certificate: the referee's opinion.

The measure is Spearman's rank correlation over the patches of one map. The referee has errors of
its own: maps are drawn from its values and their standard errors, and the correlation with each is
computed. Rule for the verdict, fixed before any number: `holds` where 97.5 % of these correlations
are above 0, else `not established`. It is never `violated`: a map may answer another question than
the referee (`docs/methods.md`), and a low agreement does not show that it is of another model.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.certificate import AGREEMENT, Certificate, Certificates, Check
from heatproof.errors import InputError
from heatproof.explanation import Explanation
from heatproof.statistics import spearman

REFEREE = "banzhaf"
DRAWS = 200
SURE = (0.025, 0.975)


def refereed(explanation: Explanation, referee: Explanation) -> Explanation:
    """Return the explanation with the referee's agreement among the checks of its certificates.

    Args:
        referee: maps of `banzhaf` for the same model, images and prompts.

    Raises:
        InputError: the referee's maps have no errors, or are of other images or prompts.
    """
    if referee.errors is None or referee.record.method != REFEREE:
        raise InputError(f"got a referee by {referee.record.method}, expected one by {REFEREE}")
    if explanation.maps.shape != referee.maps.shape:
        raise InputError(
            f"got maps {tuple(referee.maps.shape)} of the referee, expected those of the same "
            f"images and prompts, {tuple(explanation.maps.shape)}"
        )
    value, low, high = agreement(explanation.maps, referee.maps, referee.errors)
    inner = explanation.certificates

    def certify(images: Sequence[int], prompts: Sequence[int]) -> Certificate:
        own = explanation.certificate if inner is None else inner.certify(images, prompts)
        rows = (torch.tensor(images)[:, None], torch.tensor(prompts))
        # The worst of all, as everywhere in a certificate; NaN, of a constant map, is the worst.
        worst = value[rows].nan_to_num(-2.0).argmin()
        check = _check(*(float(part[rows].flatten()[worst]) for part in (value, low, high)))
        return replace(own, checks=(*own.checks, check))

    count, prompts = explanation.maps.shape[:2]
    certificates = Certificates(certify, count, prompts)
    return replace(explanation, certificate=certificates.worst, certificates=certificates)


def agreement(
    maps: Float[Tensor, "image prompt row col"],
    referee: Float[Tensor, "image prompt row col"],
    errors: Float[Tensor, "image prompt row col"],
) -> tuple[
    Float[Tensor, "image prompt"], Float[Tensor, "image prompt"], Float[Tensor, "image prompt"]
]:
    """Return rank correlations with the referee, and their lower and upper ends under its errors.

    NaN where one of the maps is constant.
    """
    own, values = maps.flatten(2).double().cpu(), referee.flatten(2).double().cpu()
    noise = torch.randn(
        DRAWS, *values.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    drawn = values + errors.flatten(2).double().cpu() * noise
    spread = spearman(own.expand_as(drawn), drawn)
    low, high = torch.quantile(spread, torch.tensor(SURE, dtype=torch.float64), dim=0)
    return spearman(own, values), low, high


def _check(value: float, low: float, high: float) -> Check:
    text = f"rank correlation {value:.2f} ({low:.2f} to {high:.2f} within the referee's errors)"
    return Check(AGREEMENT, "holds" if low > 0 else "not established", text, value, 0.0)
