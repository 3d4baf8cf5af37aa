"""Insertion, deletion and text deletion against planted truths: models whose answer is a sum."""

import pytest
import torch
from PIL import Image

import heatproof
from heatproof.imputers.fills import enlarged
from heatproof.metrics.base import area
from heatproof.metrics.ranking import ranked
from heatproof.metrics.text_deletion import without
from heatproof.recipes.grad_eclip_paper.maps import encode_tokens, text_sites
from heatproof.recipes.grad_eclip_paper.protocols import (
    AUTHORS,
    CORRECTED,
    PatchedView,
    Photograph,
    Protocol,
    curves,
    pixel_order,
    shown,
    worked_on,
)
from heatproof.recipes.grad_eclip_paper.text_deletion import curve_area, hidden_tokens, shortened
from tiny import open_clip_vit

GRID, PATCH = (2, 3), 4
WEIGHTS = torch.tensor([5.0, -2.0, 3.0, 0.5, -1.0, 2.0])
SIXTHS = tuple(n / 6 for n in range(7))


def sum_of_patches(pixels: torch.Tensor) -> torch.Tensor:
    """The planted model: each patch's mean brightness times its weight, added up."""
    means = torch.nn.functional.avg_pool2d(pixels.mean(1), PATCH).flatten(1)
    return (means @ WEIGHTS).unsqueeze(1)


def on_black(cells: torch.Tensor) -> torch.Tensor:
    """White where the picture is shown, else black."""
    size = (GRID[0] * PATCH, GRID[1] * PATCH)
    return enlarged(cells, GRID, size).float().expand(-1, 3, -1, -1)


def measured(direction, orders):
    protocol = Protocol("planted", direction, SIXTHS, "black", "view")
    return curves(sum_of_patches, on_black, orders, protocol)[..., 0]


def test_deletion_and_insertion_of_the_perfect_map_are_partial_sums_of_the_truth():
    order = ranked(WEIGHTS.unsqueeze(0))
    gone = torch.cat([torch.zeros(1), WEIGHTS.sort(descending=True).values.cumsum(0)])
    assert torch.allclose(measured("insertion", order)[0], gone)
    assert torch.allclose(measured("deletion", order)[0], WEIGHTS.sum() - gone)


def test_perfect_map_is_best_reversed_is_worst_and_random_lies_between():
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(200, 6, generator=generator)
    orders = ranked(torch.cat([WEIGHTS[None], -WEIGHTS[None], random]))
    low = area(measured("deletion", orders), SIXTHS)
    high = area(measured("insertion", orders), SIXTHS)
    assert low[0] == low.min()
    assert low[1] == low.max()
    assert high[0] == high.max()
    assert high[1] == high.min()
    # Averaged over all orders, what is left is the share of the whole: half of the sum.
    assert float(low[2:].mean()) == pytest.approx(float(WEIGHTS.sum()) / 2, abs=0.25)
    # Deletion of an order is insertion of its reverse.
    assert torch.allclose(low[0], high[1])


def test_area_is_the_mean_height_and_does_not_depend_on_the_span():
    line = torch.tensor([1.0, 0.5, 0.0])
    assert float(area(line, (0.0, 0.5, 1.0))) == pytest.approx(0.5)
    assert float(area(line, (0.0, 0.25, 0.5))) == pytest.approx(0.5)
    assert float(area(torch.tensor([1.0, 0.0, 0.0]), (0.0, 0.5, 1.0))) == pytest.approx(0.25)


def test_equal_values_keep_their_order_and_half_of_the_cells_go_at_half():
    order = ranked(torch.tensor([[1.0, 2.0, 1.0, 2.0]]))
    assert order.tolist() == [[1, 3, 0, 2]]
    assert shown(order, 0.5, "deletion").tolist() == [[True, False, True, False]]
    assert shown(order, 0.5, "insertion").tolist() == [[False, True, False, True]]


def test_rankings_that_agree_share_their_passes():
    passed: list[int] = []

    def counting(pixels):
        passed.append(len(pixels))
        return sum_of_patches(pixels)

    orders = ranked(torch.stack([WEIGHTS, 3 * WEIGHTS, -WEIGHTS]))
    protocol = Protocol("planted", "deletion", SIXTHS, "black", "view")
    found = curves(counting, on_black, orders, protocol, batch_size=2)
    assert torch.equal(found[0], found[1])
    assert sum(passed) == 7 + 5  # the reverse adds its five inner points alone


def test_a_protocol_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="rise"):
        Protocol("wrong", "deletion", (0.5, 0.1), "black", "view")


# --- the authors' protocol --------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return heatproof.load("scenes")


@pytest.fixture(scope="module")
def wide():
    noise = torch.randint(0, 256, (64, 88, 3), generator=torch.Generator().manual_seed(3))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def test_authors_protocol_has_eleven_points_and_stops_at_half():
    deletion, insertion = AUTHORS["deletion"], AUTHORS["insertion"]
    assert deletion.fractions == pytest.approx([n * 0.05 for n in range(11)])
    assert insertion.fractions == pytest.approx([n * 0.05 for n in range(1, 11)])
    assert (deletion.fill, insertion.fill) == ("noise", "black")
    assert CORRECTED["deletion"].fractions[-1] == 1.0
    assert not CORRECTED["deletion"].flaws


def test_pixels_off_the_crop_cost_nothing_in_the_authors_protocol(scenes, wide):
    """The flaw that the protocol is kept with: 24 of 88 columns are never seen."""
    map_ = torch.zeros(1, 8, 11)
    map_[..., :1] = map_[..., -1:] = 1  # 8 of the 12 pixels at either side
    picture = Photograph(wide, scenes.image.preprocess, AUTHORS["deletion"], 0)
    order = pixel_order(map_, wide)
    cells = torch.cat([shown(order, 0.0, "deletion"), shown(order, 0.1, "deletion")])
    assert not torch.equal(cells[0], cells[1])
    original, removed = picture(cells)
    assert torch.equal(original, scenes.image.preprocess(wide))
    assert torch.equal(removed, original)


def test_removed_pixels_are_seeded_noise_and_inserted_ones_stand_on_black(scenes, wide):
    nothing = torch.zeros(1, 64 * 88, dtype=torch.bool)
    process = scenes.image.preprocess
    first, again, other = (
        Photograph(wide, process, AUTHORS["deletion"], seed)(nothing) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    black = Photograph(wide, process, AUTHORS["insertion"], 5)(nothing)[0]
    assert torch.equal(black, process(Image.new("RGB", (88, 64))))


def test_large_photographs_are_brought_down_to_640():
    assert worked_on(Image.new("RGB", (1500, 1000))).size == (960, 640)
    assert worked_on(Image.new("RGB", (500, 400))).size == (500, 400)


def test_a_map_is_stretched_over_the_photograph(wide):
    map_ = torch.zeros(1, 2, 2)
    map_[0, 0, 1] = 1.0
    hottest = int(pixel_order(map_, wide)[0, 0])
    assert hottest // 88 < 32
    assert hottest % 88 >= 44


# --- the corrected one ------------------------------------------------------------------------


def test_everything_removed_is_noise_between_the_preprocessed_black_and_white(scenes, wide):
    process = scenes.image.preprocess
    pixels = process(wide)
    picture = PatchedView(pixels, (8, 8), process, CORRECTED["deletion"], 7)
    whole = torch.ones(1, 64, dtype=torch.bool)
    assert torch.equal(picture(whole)[0], pixels)
    black, white = (process(Image.new("RGB", (64, 64), (v,) * 3)) for v in (0, 255))
    gone = picture(~whole)[0]
    assert (gone >= black - 1e-6).all()
    assert (gone <= white + 1e-6).all()
    assert float(gone.std()) > 0.5
    dark = PatchedView(pixels, (8, 8), process, CORRECTED["insertion"], 7)(~whole)[0]
    assert torch.allclose(dark, black)


def test_one_patch_of_the_view_is_removed_and_no_other_pixel(scenes, wide):
    pixels = scenes.image.preprocess(wide)
    picture = PatchedView(pixels, (8, 8), scenes.image.preprocess, CORRECTED["insertion"], 0)
    cells = torch.ones(1, 64, dtype=torch.bool)
    cells[0, 8 * 2 + 5] = False
    changed = (picture(cells)[0] != pixels).any(0)
    assert changed[16:24, 40:48].all()
    assert int(changed.sum()) == 64


# --- text -------------------------------------------------------------------------------------


def test_words_go_in_the_order_of_the_map():
    left = shortened(torch.tensor([0.1, 3.0, -1.0]))
    words = ("a", "red", "ring")
    assert [without(words, row) for row in left] == ["a red ring", "a ring", "ring", ""]
    reverse = shortened(torch.tensor([0.1, 3.0, -1.0]), reverse=True)
    assert [without(words, row) for row in reverse] == ["a red ring", "a red", "red", ""]


def test_text_deletion_of_a_sum_of_words_is_known_exactly():
    truth = torch.tensor([3.0, 0.0, 1.0])

    def area_of(values):
        return curve_area((shortened(values).float() @ truth).double())

    # 4, 1, 0, 0 and its reverse 4, 4, 3, 0, by the trapezoid rule over thirds
    assert area_of(truth) == pytest.approx((2 + 1 + 0 + 0) / 3)
    assert area_of(-truth) == pytest.approx((2 + 4 + 3 + 0) / 3)
    assert area_of(truth) < area_of(torch.tensor([0.0, 1.0, 2.0])) < area_of(-truth)


def test_a_masked_token_is_truly_gone():
    """What token stands at a masked position makes no difference to the embedding any more."""
    model = open_clip_vit()
    tokens = model.text.tokenize(["a red ring"])
    position = tokens.pieces[0][1].position
    others = tokens.ids.clone()
    others[0, position] = 7
    keep = [torch.tensor([True, False, True])]
    at = [[piece.position for piece in tokens.pieces[0]]]
    hidden = hidden_tokens(keep, at, tokens.ids.shape[1])
    changes = {site.path: hidden for site in text_sites(model, tokens)}
    swapped = model.text.from_ids(others)
    assert not torch.allclose(encode_tokens(model, tokens), encode_tokens(model, swapped))
    removed, still = (encode_tokens(model, t, changes) for t in (tokens, swapped))
    assert torch.allclose(removed, still, atol=1e-12)
    assert not torch.allclose(removed, encode_tokens(model, tokens))
