"""Insertion, deletion and their kin, where the areas are known in closed form; imputers by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from heatproof import metrics
from heatproof.errors import InputError
from heatproof.imputers.fills import noise
from heatproof.imputers.inpainting import inpainted
from heatproof.metrics import Trial
from heatproof.metrics.masked_scores import ROAD_NOISE, masked_scores
from planted_trials import (
    BLACK,
    CELLS,
    COLS,
    LEVELS,
    PATCH,
    ROWS,
    SIZE,
    WHITE,
    SumOfPatches,
    planted,
)

# Patch i adds i + 1 to the score of a white picture: what is left after any removal is a sum of
# the first numbers, and the trapezoid rule over all of its steps is a polynomial in their count.
TOTAL = CELLS * (CELLS + 1) / 2
MOST_FIRST = (CELLS + 1) * (2 * CELLS + 1) / 12
LEAST_FIRST = (CELLS + 1) * (4 * CELLS - 1) / 12


def ramp(**changed: Any) -> Trial:
    """Three white pictures whose patches add 1, 2, ..., CELLS, in an order of their own."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.stack([torch.randperm(CELLS, generator=generator) + 1.0 for _ in range(3)])
    pixels = torch.ones(3, 3, *SIZE, dtype=torch.float64)
    model = SumOfPatches(weights, pixels)
    maps = weights.double().unflatten(1, (ROWS, COLS))
    trial = Trial(maps=maps, pixels=pixels, score=model.score, tokens=model.tokens, levels=LEVELS)
    return replace(trial, **changed)


def value(name: str, trial: Trial, **settings: Any) -> list[float]:
    return metrics.create(name, **settings).measure(trial).tolist()


@pytest.mark.parametrize("imputer", ["zero", "tokens"])
@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("mif", MOST_FIRST),
        ("lif", LEAST_FIRST),
        ("srg", (CELLS**2 - 1) / 6),
        ("deletion", MOST_FIRST),
        ("insertion", TOTAL - MOST_FIRST),
    ],
)
def test_the_perfect_maps_area_is_the_closed_form(name: str, area: float, imputer: str) -> None:
    """Break: the mean of the points for the trapezoid rule; no point at share 0."""
    found = value(name, ramp(), imputer=imputer, steps=CELLS)
    assert found == pytest.approx([area] * 3)


@pytest.mark.parametrize(
    ("name", "area"), [("mif", LEAST_FIRST), ("lif", MOST_FIRST), ("srg", -(CELLS**2 - 1) / 6)]
)
def test_the_reversed_maps_area_is_the_other_one(name: str, area: float) -> None:
    """Break: `LIF.first` = "most"."""
    trial = ramp()
    found = value(name, replace(trial, maps=-trial.maps), imputer="zero", steps=CELLS)
    assert found == pytest.approx([area] * 3)


def test_what_the_fill_adds_is_added() -> None:
    """Break: black taken for zero."""
    found = value("mif", ramp(), imputer="black", steps=CELLS)
    assert found == pytest.approx([(1 - BLACK) * MOST_FIRST + BLACK * TOTAL] * 3)
    assert value("mif", ramp(), imputer="mean", steps=CELLS) == pytest.approx([TOTAL] * 3)
    # The imputer cancels out of the gap, but for how much it takes away.
    found = value("srg", ramp(), imputer="black", steps=CELLS)
    assert found == pytest.approx([(1 - BLACK) * (CELLS**2 - 1) / 6] * 3)


def test_steps_of_several_patches_are_the_trapezoid_of_their_sums() -> None:
    """Break: nine tenths of the cells dealt with."""
    left = [sum(range(1, CELLS - gone + 1)) for gone in (0, 5, 10, 15, 20)]
    area = sum((a + b) / 2 for a, b in zip(left[1:], left[:-1], strict=True)) / 4
    assert value("deletion", ramp(), steps=4) == pytest.approx([area] * 3)
    metric = metrics.create("deletion", steps=4)
    assert metric.curves(ramp())[1].tolist() == pytest.approx(left)  # type: ignore[attr-defined]


def test_a_random_map_gets_half_on_average() -> None:
    trial = ramp()
    drawn = []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(3, ROWS, COLS, generator=generator, dtype=torch.float64)
        drawn += value("deletion", replace(trial, maps=maps))
    assert np.mean(drawn) == pytest.approx(TOTAL / 2, rel=0.02)


ITEMS = 240


def alike(maps: Tensor, **changed: Any) -> Trial:
    """Many white pictures of one ramp and one map: what differs between them is chance alone."""
    weights = torch.arange(1.0, CELLS + 1).expand(ITEMS, -1)
    pixels = torch.ones(ITEMS, 3, *SIZE, dtype=torch.float64)
    model = SumOfPatches(weights, pixels)
    whole = maps.double().expand(ITEMS, ROWS, COLS)
    return replace(
        Trial(maps=whole, pixels=pixels, score=model.score, tokens=model.tokens), **changed
    )


TIED = {
    "constant": torch.zeros(ROWS, COLS),
    "mostly zero": torch.cat([torch.arange(CELLS - 6) * 0, torch.arange(6)]).view(ROWS, COLS),
    "two levels": (torch.arange(CELLS) % 3 == 0).view(ROWS, COLS),
}


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("imputer", ["zero", "tokens"])
def test_ties_are_worth_their_expected_value(kind: str, imputer: str) -> None:
    """Planted: the score is a sum, so over all orders of equal cells each of them is worth their
    mean. Break: one order for all items, or ties by place."""
    flat = TIED[kind].flatten().double()
    weights = torch.arange(1.0, CELLS + 1).double()
    for level in flat.unique():
        weights[flat == level] = weights[flat == level].mean()
    gone = weights[flat.argsort(descending=True)].cumsum(0)
    left = weights.sum() - torch.cat([torch.zeros(1).double(), gone])
    expected = float(torch.trapezoid(left, torch.linspace(0, 1, CELLS + 1).double()))
    for seed in (0, 1, 2):
        trial = alike(TIED[kind], seed=seed)
        found = value("deletion", trial, steps=CELLS, imputer=imputer)
        error = float(np.std(found)) / ITEMS**0.5
        assert abs(np.mean(found) - expected) < 3.5 * error
        assert error < 0.02 * expected
        assert np.mean(value("srg", trial, steps=4)) == pytest.approx(
            np.mean(value("lif", trial, steps=4)) - np.mean(value("mif", trial, steps=4))
        )


def test_the_order_of_ties_is_the_items_own_whatever_goes_with_it() -> None:
    """Break: `shuffled` by the place in the trial: the second part gets the first part's orders."""
    trial = alike(TIED["constant"])
    for unit in ("patches", "pixels"):
        few = trial.take(torch.arange(6))
        whole = value("deletion", few, steps=4, unit=unit)
        assert len(set(whole)) == 6
        parts = [few.take(torch.tensor(rows)) for rows in ([0, 1], [2, 3, 4, 5])]
        assert [n for part in parts for n in value("deletion", part, steps=4, unit=unit)] == whole
        turned = few.take(torch.tensor([5, 0])).take(torch.tensor([1, 0]))
        assert value("deletion", turned, steps=4, unit=unit) == [whole[0], whole[5]]


def test_equal_words_go_in_any_order() -> None:
    """A constant map over three words that count 4, 2 and 0: half of 6 on average, where the
    earlier word first gives 2. Break: `ranked` without ties."""
    worth = torch.tensor([4.0, 2.0, 0.0, 9.0], dtype=torch.float64)
    words = torch.zeros(ITEMS, 4).double()
    words[:, 3] = torch.nan

    def score(keep: Tensor, item: Tensor) -> Tensor:
        del item
        return (keep.double() * worth[: keep.shape[1]]).sum(1)

    trial = alike(TIED["constant"], words=words, word_score=score)
    found = value("text-deletion", trial)
    assert np.mean(found) == pytest.approx(3, abs=0.2)
    narrow = replace(trial, words=words[:, :3])
    assert value("text-deletion", narrow) == found


def test_every_variant_is_scored_once_and_never_more_than_a_batch_is_made() -> None:
    """Break: `scored` in one batch."""
    seen: list[int] = []
    for steps in (4, 20, 60):
        trial = ramp(batch_size=7)
        score = trial.score
        assert score is not None
        seen.clear()

        def counted(pixels: Tensor, item: Tensor, score: Any = score) -> Tensor:
            seen.append(len(pixels))
            return score(pixels, item)

        value("deletion", replace(trial, score=counted), steps=steps)
        assert sum(seen) == 3 * (steps + 1)
        assert max(seen) == 7


def test_pixels_are_ranked_by_the_enlarged_map_as_rise_does_it() -> None:
    """Break: the map enlarged by nearest neighbours."""
    trial, steps = planted(2), 40
    total = SIZE[0] * SIZE[1]
    large = torch.nn.functional.interpolate(
        trial.maps[:, None], SIZE, mode="bilinear", align_corners=False
    )
    expected: list[float] = []
    for item in range(2):
        order = np.argsort(-large[item, 0].flatten().numpy(), kind="stable")
        picture = trial.pixels[item].flatten(1).clone()
        heights: list[float] = []
        for step in range(steps + 1):
            picture[:, order[: round(step / steps * total)]] = 0
            assert trial.score is not None
            shown = picture.unflatten(1, SIZE)[None]
            heights.append(float(trial.score(shown, torch.tensor([item]))))
        expected.append((sum(heights) - heights[0] / 2 - heights[-1] / 2) / steps)
    found = value("deletion", trial, unit="pixels", steps=steps)
    # Bilinear maps are flat beyond the outer patches' middles: only those ties may differ.
    assert found == pytest.approx(expected, rel=5e-5)


@pytest.mark.parametrize(
    ("name", "last"),
    [("grad-eclip-deletion", 0.5), ("positive-perturbation", 0.1), ("negative-perturbation", 0.1)],
)
def test_the_authors_curves_stop_where_theirs_do(name: str, last: float) -> None:
    """Break: `HALF` or the tenths carried on to 1."""
    trial = ramp(score=None, hit=None)
    even = SumOfPatches(torch.ones(3, CELLS), trial.pixels)
    trial = replace(trial, score=even.score, maps=torch.rand(3, ROWS, COLS, dtype=torch.float64))
    metric = metrics.create(name, of="score", imputer="black")
    found = metric.curves(trial)  # type: ignore[attr-defined]
    assert found[:, 0].tolist() == pytest.approx([CELLS] * 3)
    assert found[:, -1].tolist() == pytest.approx([CELLS * (last + (1 - last) * BLACK)] * 3)


def test_the_authors_insertion_begins_with_a_twentieth_and_ends_with_half() -> None:
    """Break: a point at nothing inserted, which the authors' integral does not have."""
    even = SumOfPatches(torch.ones(3, CELLS), ramp().pixels)
    metric = metrics.create("grad-eclip-insertion", of="score")
    found = metric.curves(ramp(score=even.score))  # type: ignore[attr-defined]
    assert found.shape == (3, 10)
    assert found[0, 0] == pytest.approx(CELLS * (0.05 + 0.95 * BLACK))
    assert found[0, -1] == pytest.approx(CELLS * (0.5 + 0.5 * BLACK))


def test_accuracy_is_one_until_another_prompt_wins() -> None:
    """Break: `of` ignored, the score in place of the hit."""
    found = metrics.create("mif", of="accuracy", imputer="zero", steps=CELLS)
    heights = found.curves(planted())  # type: ignore[attr-defined]
    assert set(heights.unique().tolist()) == {0.0, 1.0}
    # The object is four patches; with all of them gone the model has nothing to go by.
    assert bool((heights[:, 0] == 1).all() and (heights[:, 4] == 0).all())


def test_what_cannot_be_done_is_said() -> None:
    """Break: each of these errors left out."""
    trial = ramp()
    with pytest.raises(InputError, match="got steps=0, expected 1 or more"):
        value("deletion", trial, steps=0)
    with pytest.raises(InputError, match=r"with imputer=tokens try unit=patches"):
        value("deletion", trial, imputer="tokens", unit="pixels")
    with pytest.raises(InputError, match=r"with imputer=tokens only the score is known"):
        value("deletion", trial, imputer="tokens", of="accuracy")
    with pytest.raises(InputError, match="needs two different images"):
        value("deletion", trial, imputer="other")


# --- imputers ---------------------------------------------------------------------------------


def shown_by(imputer: str, trial: Trial, keep: Tensor) -> Tensor:
    """The pictures that the model is shown."""
    seen: list[Tensor] = []

    def spy(pixels: Tensor, item: Tensor) -> Tensor:
        seen.append(pixels.clone())
        return torch.zeros(len(item))

    def masks(rows: slice, within: Tensor, point: Tensor) -> Tensor:
        del point
        return keep[rows][within]

    masked_scores(replace(trial, score=spy), imputer, 1, masks)  # type: ignore[arg-type]
    return torch.cat(seen)


def hidden_patches(items: int) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(items, CELLS, generator=generator) < 0.6


def gaussian(picture: np.ndarray) -> np.ndarray:
    """Along rows, then columns, with a mirror at the border."""
    at = np.arange(-3 * PATCH, 3 * PATCH + 1)
    for axis in (1, 2):
        reach = min(3 * PATCH, picture.shape[axis] - 1)
        kernel = np.exp(-(at[abs(at) <= reach] ** 2) / (2 * PATCH**2))
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        wide = np.pad(picture, pad, mode="reflect")
        picture = np.apply_along_axis(np.convolve, axis, wide, kernel / kernel.sum(), "valid")
    return picture


def by_road(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """ROAD's equations, one row a hidden pixel, by a sparse direct solver."""
    height, width = known.shape
    number = -np.ones(known.shape, dtype=int)
    number[~known] = np.arange((~known).sum())
    rows, cols, values = [], [], []
    right = np.zeros(((~known).sum(), len(picture)))
    for y, x in np.argwhere(~known):
        total = 0.0
        for dy, dx in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]:
            if not (0 <= y + dy < height and 0 <= x + dx < width):
                continue
            weight = 1 / 12 if dy and dx else 1 / 6
            total += weight
            if known[y + dy, x + dx]:
                right[number[y, x]] += weight * picture[:, y + dy, x + dx]
            else:
                rows.append(number[y, x])
                cols.append(number[y + dy, x + dx])
                values.append(-weight)
        rows.append(number[y, x])
        cols.append(number[y, x])
        values.append(total)
    system = sparse.csc_matrix((values, (rows, cols)))
    made = picture.copy()
    made[:, ~known] = np.asarray(spsolve(system, right)).reshape(right.shape).T
    return made


@pytest.mark.parametrize(
    "imputer", ["zero", "mean", "black", "blur", "noise", "inpainting", "other"]
)
def test_hidden_patches_show_the_imputer_and_all_else_the_picture(imputer: str) -> None:
    """Break: the mask turned round; the mean colour for the blur."""
    trial = planted(3, batch_size=2)
    keep = hidden_patches(3)
    found = shown_by(imputer, trial, keep).numpy()
    drawn = noise((3, *SIZE), 0).double()
    order = trial.pixels.mean((1, 2, 3)).argsort().tolist()
    for item in range(3):
        known = np.kron(keep[item].view(ROWS, COLS).numpy(), np.ones((PATCH, PATCH))) > 0
        picture = trial.pixels[item].numpy()
        rough = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0)).numpy()
        fill: Any = {
            "zero": 0.0 * picture,
            "mean": picture.mean((1, 2), keepdims=True) + 0 * picture,
            "black": BLACK + 0 * picture,
            "blur": gaussian(picture),
            "noise": BLACK + (WHITE - BLACK) * drawn.numpy(),
            "inpainting": by_road(picture, known) + ROAD_NOISE * rough,
            "other": trial.pixels[order[(order.index(item) + 1) % 3]].numpy(),
        }[imputer]
        expected = np.where(known, picture, fill)
        assert np.abs(found[item] - expected).max() < (2e-4 if imputer == "inpainting" else 1e-6)


def test_another_picture_is_never_the_same_one() -> None:
    """Break: the neighbour in the trial's order taken, whatever it shows."""
    trial = planted(2)
    twice = trial.take(torch.tensor([0, 0, 1]))
    found = shown_by("other", twice, torch.zeros(3, CELLS, dtype=torch.bool))
    assert torch.equal(found, trial.pixels[[1, 1, 0]])


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_inpainting_is_the_direct_solution(share: float) -> None:
    """Break: 1/12 for direct neighbours; the border's missing neighbours counted; three
    iterations; converged pictures go on with their batch."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 37, 50, generator=generator, dtype=torch.float64)
    known = torch.rand(2, 1, 37, 50, generator=generator) > share
    found = inpainted(pixels, known, 1e-9)
    for item in range(2):
        expected = by_road(pixels[item].numpy(), known[item, 0].numpy())
        assert np.abs(found[item].numpy() - expected).max() < 1e-6
    # What a picture becomes does not depend on what is solved beside it.
    assert torch.equal(inpainted(pixels[:1], known[:1]), inpainted(pixels, known)[:1])


def test_a_slope_is_restored_exactly_and_an_unknown_picture_is_its_mean() -> None:
    """Break: uneven weights left and right; zeros where nothing is known."""
    slope = torch.arange(30.0, dtype=torch.float64).expand(1, 3, 24, 30) * 0.1
    known = torch.ones(1, 1, 24, 30, dtype=torch.bool)
    known[:, :, 6:18, 8:20] = False
    assert torch.allclose(inpainted(slope, known, 1e-10), slope, atol=1e-7)
    nothing = torch.zeros_like(known)
    assert torch.allclose(inpainted(slope, nothing), slope.mean())


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_inpainting_is_pytorch_grad_cams() -> None:
    """Parity with `NoisyLinearImputer(noise=0)`. Break: 1/12 for direct neighbours."""
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(3, 20, 28, generator=generator)
    known = torch.rand(20, 28, generator=generator) > 0.5
    expected = road.NoisyLinearImputer(noise=0.0)(pixels, known.float())
    found = inpainted(pixels[None], known[None, None])[0]
    assert torch.allclose(found, expected, atol=1e-4)
