"""Does a map show the shortcut? On planted maps, and on the siblings themselves."""

import pytest
import torch

import heatproof
from heatproof.data.scenes.captions import singles
from heatproof.errors import InputError
from heatproof.evaluation.shortcuts import (
    SHORTCUTS,
    auc,
    contrasts,
    reason_images,
    shortcut_contrasts,
    shows_shortcut,
    sibling_of,
)
from heatproof.evaluation.subject import Subject


@pytest.mark.parametrize("cue", SHORTCUTS)
def test_the_two_reasons_lie_apart(cue):
    images = reason_images(cue, 20)
    assert len(images) == 20
    assert images.cue.flatten(1).any(1).all()
    assert images.shape.flatten(1).any(1).all()
    assert not (images.cue & images.shape).any()


def test_planted_maps_get_one_and_zero_and_one_half():
    images = reason_images("mark", 30)
    on_cue, on_shape = (
        torch.nn.functional.avg_pool2d(m.float()[:, None], 8)[:, 0]
        for m in (images.cue, images.shape)
    )
    noise = torch.randn(on_cue.shape, generator=torch.Generator().manual_seed(0)) * 0.01
    by_cue, by_shape = (contrasts(m + noise, images) for m in (on_cue, on_shape))
    assert float(auc(by_cue, by_shape)) == 1
    assert float(auc(by_shape, by_cue)) == 0
    assert float(auc(by_cue, by_cue)) == 0.5
    # A constant map says nothing, whatever its rounding.
    assert (contrasts(torch.full_like(on_cue, 0.3) + noise * 1e-9, images) == 0).all()
    # A map in other units is the same map.
    assert torch.allclose(contrasts(on_cue * 7 + noise * 7, images), by_cue, atol=1e-4)


def test_auc_by_hand_counts_ties_half():
    got = auc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0]))
    # 1 > 0, 2 > 1, 2 > 0 and one tie, of six pairs.
    assert float(got) == pytest.approx((3 + 0.5) / 6)


@pytest.mark.parametrize("cue", SHORTCUTS)
def test_siblings_go_by_their_cue_and_the_embedded_model_by_the_shape(cue):
    # Of the eight words, the sibling prefers that of the cue; the shape's own word is the same
    # here, so the words of the other objects' shapes are what it could be misled to.
    images = reason_images(cue, 40)
    texts = [caption.text for caption in singles("shape")]
    sibling = heatproof.load(sibling_of(cue))
    scores = heatproof.explain(sibling, images.photos, texts, method="random").scores
    if cue in ("background", "mark"):  # other objects have words of their own
        assert (scores.argmax(1) == images.words).float().mean() > 0.95
    named = scores.gather(1, images.words[:, None])[:, 0]
    assert (named > scores.median(1).values).float().mean() > 0.85


def test_a_faithful_map_shows_the_shortcut_and_noise_does_not():
    images = reason_images("colour", 24)
    models = [heatproof.load("scenes:shortcut-colour"), heatproof.load("scenes")]
    shown = shows_shortcut(shortcut_contrasts(Subject.of("libragrad"), models, images))
    assert shown.low > 0.9
    blind = shows_shortcut(shortcut_contrasts(Subject.of("random"), models, images))
    assert blind.value == 0.5


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match="got shortcut 'shape', expected colour"):
        reason_images("shape", 3)
    with pytest.raises(InputError, match="got 0 images"):
        reason_images("mark", 0)
