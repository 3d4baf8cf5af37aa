"""Metrics that ask how the score or the map follows a change, where the answer is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from heatproof import metrics
from heatproof.errors import InputError
from heatproof.metrics import Infidelity, SensitivityMax, Trial
from planted_trials import (
    BLACK,
    CELLS,
    COLS,
    NULLS,
    ROWS,
    SIZE,
    Words,
    blinded,
    patch_means,
    planted,
)


def measured(name: str, trial: Trial, **settings: Any) -> Tensor:
    return metrics.create(name, **settings).measure(trial).double()


def explaining(trial: Trial, explain: Any) -> Trial:
    return replace(trial, maps=explain(torch.arange(len(trial))), explain=explain)


def near(found: Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- infidelity -------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["fitted", "map"])
@pytest.mark.parametrize("imputer", ["zero", "tokens"])
def test_infidelity_of_the_true_linear_map_is_zero(imputer: str, unit: str) -> None:
    """Break: kept patches summed in place of the hidden ones."""
    near(measured("infidelity", planted(), imputer=imputer, unit=unit), 0.0, 1e-12)


def test_infidelity_of_other_maps_is_what_they_miss() -> None:
    """Break: a factor of any sign (`best` not clamped): the reversed map is then perfect."""
    trial = planted()
    nothing = measured("infidelity", replace(trial, maps=torch.zeros_like(trial.maps)))
    assert bool((nothing > 0.1).all())
    reversed_maps = replace(trial, maps=-trial.maps)
    near(measured("infidelity", reversed_maps), nothing)
    near(measured("infidelity", reversed_maps, unit="map"), 4 * nothing)
    near(measured("infidelity", replace(trial, maps=3 * trial.maps), unit="map"), 4 * nothing)
    near(measured("infidelity", replace(trial, maps=3 * trial.maps)), 0.0, 1e-12)


@pytest.mark.parametrize("unit", ["fitted", "map"])
def test_infidelity_is_captums(unit: str) -> None:
    """Parity with captum's `infidelity`, over cells. Break: a mean of |error|."""
    captum = pytest.importorskip("captum.metrics")
    trial = planted()
    generator = torch.Generator().manual_seed(4)
    trial = replace(
        trial, maps=trial.maps + 0.2 * torch.randn(trial.maps.shape, generator=generator)
    )
    metric = Infidelity(imputer="tokens", samples=9, unit=unit)  # type: ignore[arg-type]
    hidden = metric._hidden(CELLS, trial.seed)[1:].double()
    items = torch.arange(5)

    def forward(keep: Tensor, item: Tensor) -> Tensor:
        assert trial.tokens is not None
        return trial.tokens(keep, item)  # type: ignore[arg-type]  # linear in a share that is kept

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        taken = hidden.repeat(5, 1)
        return taken, inputs - taken

    expected = captum.infidelity(
        forward,
        perturb,
        torch.ones(5, CELLS, dtype=torch.float64),
        trial.maps.flatten(1),
        additional_forward_args=items,
        n_perturb_samples=9,
        normalize=unit == "fitted",
    )
    near(metric.measure(trial), expected.detach(), 1e-9)


# --- completeness -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["completeness", "attribution-error"])
def test_a_map_that_adds_up_has_no_error(name: str) -> None:
    """Break: the mean of the map for its sum."""
    trial = planted()
    near(measured(name, trial), 0.0, 1e-9)
    for baseline in ("zero", "tokens", "nothing"):  # nothing is left of a picture of zeros
        near(measured(name, trial, baseline=baseline), 0.0, 1e-6)
    near(measured(name, replace(trial, total=None), baseline="zero"), 0.0, 1e-6)


def test_the_error_is_what_is_missing() -> None:
    """Break: a signed gap; `larger` of the sum alone."""
    trial = planted()
    assert trial.total is not None
    more = replace(trial, maps=trial.maps + 0.5)
    near(measured("completeness", more), 0.5 * CELLS)
    near(measured("completeness", replace(trial, maps=trial.maps - 0.5)), 0.5 * CELLS)
    near(measured("attribution-error", replace(trial, maps=torch.zeros_like(trial.maps))), 1.0)
    near(measured("attribution-error", replace(trial, maps=-trial.maps)), 2.0)
    near(measured("attribution-error", replace(trial, maps=4 * trial.maps)), 0.75)
    nothing = replace(trial, maps=0 * trial.maps, total=0 * trial.total)
    assert bool(measured("attribution-error", nothing).isnan().all())


def test_another_baseline_is_another_promise() -> None:
    """Break: the baseline's score not taken off."""
    trial = planted()
    assert trial.score is not None
    black = trial.score(torch.full((5, 3, *SIZE), BLACK, dtype=torch.float64), torch.arange(5))
    near(measured("completeness", trial, baseline="black"), black.abs())


# --- sensitivity ------------------------------------------------------------------------------


def test_sensitivity_of_a_constant_explainer_is_zero() -> None:
    """Break: the norm of the new map for that of the difference."""
    trial = planted()
    same = explaining(trial, lambda item, *_, **__: torch.ones(len(item), ROWS, COLS))
    near(measured("sensitivity-max", same), 0.0)


def changes(samples: int, seed: int = 0, radius: float = 0.02) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(3, *SIZE, generator=generator) for _ in range(samples)]
    return [(2 * each - 1).double() * radius for each in drawn]


def test_sensitivity_of_a_linear_explainer_is_known() -> None:
    """Break: the sum of the changes for their largest; changes of one sign."""
    trial = planted()
    moved = torch.stack([patch_means(change[None])[0] for change in changes(10)])
    weights = trial.models.weights  # type: ignore[union-attr]
    lengths = (weights[:, None] * moved.double()).norm(dim=2).amax(1)
    near(measured("sensitivity-max", trial), lengths / trial.maps.flatten(1).norm(dim=1))
    assert float(torch.stack(changes(10)).abs().max()) == pytest.approx(0.02, rel=1e-3)
    assert bool(measured("sensitivity-max", blinded(trial)).gt(1).all())
    nothing = explaining(trial, lambda item, *_, **__: torch.zeros(len(item), ROWS, COLS))
    assert bool(measured("sensitivity-max", nothing).isnan().all())


def test_sensitivity_is_captums() -> None:
    """Parity with captum's `sensitivity_max`. Break: the sum of the changes for their largest."""
    captum = pytest.importorskip("captum.metrics")
    trial = planted()
    assert trial.explain is not None
    explain, drawn = trial.explain, torch.stack(changes(4))

    def again(pixels: Any) -> tuple[Tensor, ...]:
        each = pixels if isinstance(pixels, Tensor) else pixels[0]
        item = torch.arange(5).repeat_interleave(len(each) // 5)
        return (explain(item, each),)

    expected = captum.sensitivity_max(
        again,
        trial.pixels,
        perturb_func=lambda inputs: inputs + drawn.repeat(5, 1, 1, 1),
        n_perturb_samples=4,
    )
    near(SensitivityMax(samples=4).measure(trial).double(), expected.detach(), 1e-6)


# --- randomisation ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cascade", "independent"])
def test_a_model_blind_map_does_not_change(order: str) -> None:
    """Break: the cells of the random model's map in reverse."""
    trial = blinded(planted())
    near(measured("model-randomisation", trial, order=order), 1.0)
    near(measured("smooth-randomisation", trial, order=order, samples=2), 1.0)
    near(measured("efficient-randomisation", trial), 0.0)


@pytest.mark.parametrize("order", ["cascade", "independent"])
@pytest.mark.parametrize("absolute", [True, False])
def test_randomisation_is_scipys_rank_correlation_of_the_random_models_maps(
    order: str, absolute: bool
) -> None:
    """Break: `absolute` ignored; `order` ignored; the model of the step before."""
    trial = planted()
    model: Any = trial.models
    before = [each.clone() for each in model.factors]
    means = patch_means(trial.pixels).double()
    expected = torch.zeros(5, 3)
    for n in range(3):
        factors = list(before)
        for block in range(n + 1) if order == "cascade" else (n,):
            factors[block] = model.random[block].expand_as(before[block])
        for item in range(5):
            one = trial.maps[item].flatten()
            other = (factors[0] * factors[1] * factors[2])[item] if factors[2].dim() == 2 else 0
            other = other * means[item]
            if absolute:
                one, other = one.abs(), other.abs()
            expected[item, n] = stats.spearmanr(one, other).statistic
    metric = metrics.create("model-randomisation", order=order, absolute=absolute)
    near(metric.curves(trial), expected.double(), 1e-6)  # type: ignore[attr-defined]
    near(metric.measure(trial), expected.double().mean(1), 1e-6)
    assert metric.fractions(trial).tolist() == pytest.approx([1 / 3, 2 / 3, 1])  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(before, model.factors, strict=True))


def test_a_map_that_flips_its_sign_is_the_same_only_without_it() -> None:
    """Break: `absolute` by default False."""
    trial = planted()
    model: Any = trial.models
    own = model.factors[2].clone()

    def explain(item: Tensor, *_: Any, **__: Any) -> Tensor:
        sign = 1.0 if torch.equal(model.weights, own) else -1.0
        return sign * trial.maps[item]

    flipping = explaining(trial, explain)
    near(measured("model-randomisation", flipping), 1.0)
    near(measured("model-randomisation", flipping, absolute=False), -1.0)


def test_smooth_randomisation_compares_means_over_noisy_pictures() -> None:
    """Break: noise drawn anew for the random model; the clean map for the smooth one."""
    trial = planted()
    seen: list[Tensor] = []

    def explain(item: Tensor, pixels: Tensor | None = None, **_: Any) -> Tensor:
        del item
        assert pixels is not None
        seen.append(pixels)
        return (patch_means(pixels).double() ** 9).unflatten(1, (ROWS, COLS))

    metric = metrics.create("smooth-randomisation", samples=30)
    near(metric.measure(replace(trial, explain=explain)).double(), 1.0)
    pictures = torch.stack(seen[:30])
    spread = (pictures - trial.pixels).std((0, 2, 3, 4))
    span = trial.pixels.amax((1, 2, 3)) - trial.pixels.amin((1, 2, 3))
    near(spread, 0.1 * span, 0.02)
    assert torch.equal(pictures, torch.stack(seen[30:60]))
    with pytest.raises(InputError, match=r"got samples=0, noise=0\.1 for smooth-randomisation"):
        measured("smooth-randomisation", trial, samples=0)


def test_efficient_randomisation_is_the_rise_of_numpys_histogram_entropy() -> None:
    """Break: the fall for the rise; 50 bins."""
    trial = planted()
    model: Any = trial.models

    def entropy(maps: Tensor) -> np.ndarray:
        counts = [np.histogram(each.flatten().numpy(), 100)[0] for each in maps]
        return np.array([stats.entropy(count) for count in counts])

    with model("cascade", 3):
        after = model.explain(torch.arange(5))
    before = entropy(trial.maps)
    near(measured("efficient-randomisation", trial), (entropy(after) - before) / before)
    flat = replace(trial, maps=torch.ones_like(trial.maps))
    assert bool(measured("efficient-randomisation", flat).isnan().all())


# --- prompts ----------------------------------------------------------------------------------


def test_a_prompt_blind_map_changes_nothing_and_an_opposite_one_everything() -> None:
    """Break: the item's own prompt asked again, in place of the null prompt."""
    trial = planted()
    near(measured("prompt-sensitivity", blinded(trial)), 0.0)
    signs = {None: 1.0, "empty": -1.0, "gibberish": 1.0, "unrelated": 3.0}

    def explain(item: Tensor, *_: Any, prompt: Any = None, **__: Any) -> Tensor:
        return signs[prompt] * trial.maps[item]

    turned = explaining(trial, explain)
    near(measured("prompt-sensitivity", turned, null="empty"), 2.0)
    near(measured("prompt-sensitivity", turned, null="unrelated"), 0.0)
    near(measured("prompt-sensitivity", turned), 2 / 3)


def test_prompt_sensitivity_is_the_mean_over_null_prompts() -> None:
    """Break: the item's own prompt asked again; the absolute map."""
    trial = planted()
    assert trial.explain is not None
    items = torch.arange(5)
    likeness = [
        F.cosine_similarity(trial.maps.flatten(1), trial.explain(items, prompt=n).flatten(1))
        for n in NULLS
    ]
    near(measured("prompt-sensitivity", trial), 1 - torch.stack(likeness).mean(0))


# --- drop and increase ------------------------------------------------------------------------


def weighed(trial: Trial) -> tuple[Tensor, Tensor]:
    """The scores of the pictures, and of the pictures times their maps."""
    assert trial.score is not None
    low, high = trial.maps.amin((1, 2)), trial.maps.amax((1, 2))
    scaled = (trial.maps - low[:, None, None]) / (high - low)[:, None, None]
    large = F.interpolate(scaled[:, None], SIZE, mode="bilinear", align_corners=False)
    items = torch.arange(len(trial))
    return trial.score(trial.pixels, items), trial.score(trial.pixels * large, items)


@pytest.mark.parametrize("sign", [1, -1])
def test_drop_and_increase_are_scores_of_the_weighed_picture(sign: int) -> None:
    """Break: the gain for the drop; the map enlarged by nearest neighbours."""
    trial = planted()
    trial = replace(trial, maps=sign * trial.maps + 0.5 * trial.maps.flip(0))
    whole, part = weighed(trial)
    near(measured("drop", trial), (whole - part).clamp(min=0))
    near(measured("increase", trial), (part > whole).double())
    positive = whole.masked_fill(whole <= 0, torch.nan)
    found = measured("drop", trial, per="score")
    torch.testing.assert_close(found, (whole - part).clamp(min=0) / positive, equal_nan=True)


def test_a_constant_map_weighs_nothing() -> None:
    """Break: a constant map taken for a half everywhere."""
    flat = replace(planted(), maps=torch.ones(5, ROWS, COLS))
    assert bool(measured("drop", flat).isnan().all())
    assert bool(measured("increase", flat).isnan().all())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_drop_and_increase_are_pytorch_grad_cams() -> None:
    """Parity with `DropInConfidence` and `IncreaseInConfidence`. Break: the gain for the drop."""
    peers = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    trial = planted()
    trial = replace(trial, maps=trial.maps + trial.maps.flip(0))
    assert trial.score is not None
    score = trial.score
    low, high = trial.maps.amin((1, 2)), trial.maps.amax((1, 2))
    scaled = (trial.maps - low[:, None, None]) / (high - low)[:, None, None]
    large = F.interpolate(scaled[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    targets = [lambda output: output.squeeze() for _ in range(5)]

    def model(pixels: Tensor) -> Tensor:
        return score(pixels, torch.arange(5))[:, None]

    given = (trial.pixels, large.numpy(), targets, model)
    near(measured("drop", trial), peers.DropInConfidence()(*given))
    near(measured("increase", trial), peers.IncreaseInConfidence()(*given))


# --- words ------------------------------------------------------------------------------------


def test_text_deletion_of_prompts_of_any_length_is_the_closed_form() -> None:
    """Break: the area over the longest prompt's words; padding deleted first."""
    trial = planted(4)
    words = torch.full((4, 7), torch.nan, dtype=torch.float64)
    lengths = (1, 3, 7, 5)
    generator = torch.Generator().manual_seed(6)
    for item, n in enumerate(lengths):
        words[item, :n] = torch.randperm(n, generator=generator) + 1.0
    read = replace(trial, words=words, word_score=Words(words))
    best = [(n + 1) * (2 * n + 1) / 12 for n in lengths]
    near(measured("text-deletion", read), best)
    longest = [(n + 1) * (4 * n - 1) / 12 for n in lengths]
    near(measured("text-deletion", replace(read, words=-words)), longest)
    curves = metrics.create("text-deletion").curves(read)  # type: ignore[attr-defined]
    near(curves[:, 0], [n * (n + 1) / 2 for n in lengths])
    near(curves[:, -1], 0.0)
    assert float(curves[0, 10]) == pytest.approx(0.5)
    assert float(curves[2, 15]) == pytest.approx(2.5)  # 5 1/4 of 7 words gone: between 3 and 1


def test_a_prompt_of_no_word_has_no_value_and_gaps_are_refused() -> None:
    """Break: the refusal left out; prompts of no word scored 0."""
    trial = planted()
    assert trial.words is not None
    words = trial.words.clone()
    words[2] = torch.nan
    found = measured("text-deletion", replace(trial, words=words))
    assert found.isnan().tolist() == [False, False, True, False, False]
    words[0, 0] = torch.nan
    with pytest.raises(InputError, match="a word's value behind a NaN"):
        measured("text-deletion", replace(trial, words=words))
