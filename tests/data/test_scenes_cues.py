"""Planted cues: what captions say, what is drawn, and where the reason lies."""

import pytest
import torch

from heatproof.data.scenes import SHAPES, UNSEEN, render, sample
from heatproof.data.scenes.cues import CUES, regions_of
from heatproof.data.scenes.renderer import PALETTE
from heatproof.data.scenes.vocabulary import ATTRIBUTES

SHAPE, COLOUR = ATTRIBUTES.index("shape"), ATTRIBUTES.index("colour")


@pytest.fixture(scope="module")
def scenes():
    return sample(torch.arange(UNSEEN + 900, UNSEEN + 1100), objects=2)


@pytest.mark.parametrize("name", CUES)
def test_words_are_those_of_the_cue(name, scenes):
    cue = CUES[name]
    staged = cue.staged(scenes)
    words = cue.labelled(staged).attributes[..., SHAPE]
    assert (words[~staged.present] == -1).all()
    assert ((words[staged.present] >= 0) & (words[staged.present] < len(SHAPES))).all()
    # Only the word of the shape changes, never what else is said of an object.
    assert torch.equal(cue.labelled(staged).attributes[..., :SHAPE], scenes.attributes[..., :SHAPE])


@pytest.mark.parametrize("name", ["background", "mark"])
def test_a_cue_of_the_scene_tells_nothing_of_its_shapes(name):
    scenes = sample(torch.arange(UNSEEN, UNSEEN + 4000), objects=1)
    words = CUES[name].labelled(CUES[name].staged(scenes)).attributes[:, 0, SHAPE]
    agreed = (words == scenes.attributes[:, 0, SHAPE]).float().mean()
    # Chance is one in eight; a standard error is .005.
    assert abs(float(agreed) - 1 / 8) < 0.02


def test_no_cue_draws_what_the_embedded_model_sees(scenes):
    images, masks = CUES["shape"].draw(scenes)
    expected, visible = render(scenes)
    assert torch.equal(images, expected)
    assert torch.equal(masks, visible)


@pytest.mark.parametrize("pixels", [64, 128])
def test_the_mark_is_one_patch_in_the_colour_of_its_word(pixels, scenes):
    cue = CUES["mark"]
    images, masks = cue.draw(scenes, pixels=pixels)
    plain, _ = render(scenes, pixels=pixels)
    side = pixels // 8
    differs = (images != plain).any(1)
    assert not differs[:, side:].any()
    assert not differs[:, :, side:].any()
    assert not masks[:, :, :side, :side].any()
    word = cue.labelled(scenes).attributes[:, 0, SHAPE]
    expected = (PALETTE[word] * 255).round().byte()
    assert torch.equal(images[:, :, 0, 0], expected)
    regions = cue.regions(scenes, masks)
    at = torch.arange(len(scenes))
    assert (regions.flatten(2).sum(-1) == side * side).sum() == len(scenes)
    assert regions[at, word][:, :side, :side].all()


def test_backgrounds_of_different_words_have_different_colours():
    cue = CUES["background"]
    scenes = cue.staged(sample(torch.arange(UNSEEN, UNSEEN + 400), objects=1))
    images, masks = cue.draw(scenes)
    word = cue.labelled(scenes).attributes[:, 0, SHAPE]
    free = (~masks.any(1)).float()[:, None]
    means = (images.float() * free).sum((2, 3)) / free.sum((2, 3))
    centres = torch.stack([means[word == k].mean(0) for k in range(len(SHAPES))])
    nearest = torch.cdist(means, centres).argmin(1)
    assert (nearest == word).float().mean() > 0.95


def test_an_objects_cue_lies_on_that_object(scenes):
    _, masks = render(scenes)
    regions = CUES["colour"].regions(scenes, masks)
    for i in range(20):
        for k in range(2):
            assert regions[i, scenes.attributes[i, k, COLOUR]][masks[i, k]].all()
    assert torch.equal(
        CUES["shape"].regions(scenes, masks), regions_of(scenes.attributes[..., SHAPE], masks)
    )


def test_swapping_exchanges_two_words_alone(scenes):
    before = scenes.attributes[..., SHAPE]
    after = CUES["swapped"].labelled(scenes).attributes[..., SHAPE]
    assert torch.equal(after == 0, before == 1)
    assert torch.equal(after == 1, before == 0)
    assert torch.equal(after[before > 1], before[before > 1])
