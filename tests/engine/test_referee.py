"""The referee's agreement in another map's certificate."""

from dataclasses import replace

import pytest
import torch

from by_hand_explanations import explanation
from heatproof.certificate import AGREEMENT
from heatproof.engine.referee import agreement, refereed
from heatproof.errors import InputError
from heatproof.explanation import Explanation

PROMPTS = ["one", "other"]


def maps(seed: int) -> torch.Tensor:
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def referee(error: float) -> Explanation:
    by = explanation(maps(0), PROMPTS, method="banzhaf")
    return replace(by, errors=torch.full_like(by.maps, error))


def test_agreement_is_the_rank_correlation_of_each_map() -> None:
    """Fails if all prompts share their ranks, or a sign is lost."""
    own = maps(0)
    own[1, 1] *= -1
    value, low, high = agreement(own.exp(), maps(0), torch.zeros(2, 2, 4, 4))
    assert value[0].tolist() == [1.0, 1.0]
    assert value[1, 0] == 1
    assert value[1, 1] == pytest.approx(-1)
    torch.testing.assert_close(low, value)
    torch.testing.assert_close(high, value)


def test_the_certificate_has_the_worst_and_each_row_its_own() -> None:
    """Fails if a row's certificate shows another row, or the whole one a mean."""
    own = maps(0)
    own[1, 1] = maps(1)[1, 1]
    found = refereed(explanation(own, PROMPTS), referee(0.0))
    rows = [found.certificate_of(n, p).check(AGREEMENT) for n in range(2) for p in range(2)]
    values = [row.value for row in rows if row is not None]
    assert values[:3] == [1.0, 1.0, 1.0]
    whole = found.certificate.check(AGREEMENT)
    assert whole is not None
    assert whole.value == values[3] < 0.9


def test_a_referee_that_is_unsure_establishes_nothing() -> None:
    """Fails if the referee's errors are left out."""
    own = explanation(maps(0), PROMPTS)
    verdicts = [
        check.verdict
        for error in (0.01, 30.0)
        if (check := refereed(own, referee(error)).certificate.check(AGREEMENT))
    ]
    assert verdicts == ["holds", "not established"]


def test_what_is_no_referee_is_refused() -> None:
    """Fails if maps without errors, or of other prompts, are compared all the same."""
    own = explanation(maps(0), PROMPTS)
    with pytest.raises(InputError, match="expected one by banzhaf"):
        refereed(own, own)
    with pytest.raises(InputError, match="same images and prompts"):
        refereed(explanation(maps(0)[:, :1], ["one"]), referee(0.1))
