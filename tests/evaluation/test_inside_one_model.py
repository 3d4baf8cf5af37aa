"""Within one model: pairs of colour and shape, and prompts graded by likeness."""

import pytest
import torch

import heatproof
from heatproof.data.scenes.captions import combinations
from heatproof.data.scenes.pairs import PAIRS, labels_of, pair_images, pair_scenes
from heatproof.data.scenes.single_attribute import asked
from heatproof.data.scenes.vocabulary import COLOURS, SHAPES
from heatproof.errors import InputError
from heatproof.evaluation.inside_one_model import (
    LIKENESS,
    PairFigures,
    likeness_figures,
    named_task,
    pair_figures,
    right_is_first,
    wrong_prompts,
)
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.task import EvaluationTask


@pytest.fixture(scope="module")
def task():
    return EvaluationTask(heatproof.load("scenes"), pair_images(1))


def test_each_scene_holds_its_pair_and_two_that_share_one_word():
    labels = labels_of(pair_scenes(3))
    pair = torch.arange(3 * PAIRS) % PAIRS
    assert ((labels == pair[:, None]).sum(1) == 1).all()
    assert (labels[:, 3] == -1).all()
    shape, colour = labels[:, :3] % len(SHAPES), labels[:, :3] // len(SHAPES)
    assert ((shape == (pair % len(SHAPES))[:, None]).sum(1) == 2).all()
    assert ((colour == (pair // len(SHAPES))[:, None]).sum(1) == 2).all()
    # The named one is as often behind the others as in front of them.
    slots = (labels == pair[:, None]).float().argmax(1).bincount(minlength=3)
    assert slots.min() > PAIRS * 3 / 3 * 0.7


def test_prompts_are_numbered_as_pairs_are():
    texts = [caption.text for caption in combinations()]
    for pair in (0, 9, 63):
        colour, shape = divmod(pair, len(SHAPES))
        assert COLOURS[colour] in texts[pair]
        assert SHAPES[shape] in texts[pair]


def test_wrong_prompts_are_false_and_alike_as_they_say(task):
    batch = named_task(task)
    for texts, named, labels in zip(
        wrong_prompts(batch), batch.named.tolist(), batch.labels.tolist(), strict=True
    ):
        assert len(set(texts)) == len(LIKENESS)
        numbers = [task.data.prompts.index(text) for text in texts[:4]]
        assert numbers[0] == named
        assert not set(numbers[1:]) & set(labels)
        assert numbers[1] // len(SHAPES) == named // len(SHAPES)
        assert numbers[2] % len(SHAPES) == named % len(SHAPES)
        assert numbers[3] // len(SHAPES) != named // len(SHAPES)
        assert numbers[3] % len(SHAPES) != named % len(SHAPES)


def test_correlations_of_planted_figures():
    images = 20 * PAIRS
    generator = torch.Generator().manual_seed(0)
    pair = torch.arange(images) % PAIRS
    used = torch.rand(PAIRS, generator=generator)
    cause = (torch.rand(images, generator=generator) < used[pair]).double()
    follows = (torch.rand(images, generator=generator) < used[pair]).double()
    constant = (torch.rand(images, generator=generator) < 0.5).double()
    figures = PairFigures(pair=pair, accuracy=1 - cause, cause=cause, choice=follows)
    assert figures.correlation("cause").low > 0.7
    assert figures.correlation("accuracy").high < -0.7
    assert figures.reliability.low > 0.6
    blind = PairFigures(pair=pair, accuracy=cause, cause=cause, choice=constant)
    found = blind.correlation("cause")
    assert found.low < 0 < found.high


def test_by_pair_leaves_out_what_is_unknown():
    pair = torch.tensor([0, 0, 1, 1])
    values = torch.tensor([1.0, torch.nan, 0.25, 0.75])
    figures = PairFigures(pair=pair, accuracy=values, cause=values, choice=values)
    means = figures.by_pair(values)
    assert means[:2].tolist() == [1.0, 0.5]
    assert means[2:].isnan().all()


def test_the_model_uses_what_it_names_and_noise_finds_nothing(task):
    figures = pair_figures(task, Subject.of("random"))
    assert figures.accuracy.mean() > 0.95
    # Of three objects, the named one's removal costs most far more often than by chance.
    assert figures.cause.nanmean() > 0.3
    assert abs(figures.choice.mean()) < 0.2


def test_scores_fall_with_likeness_and_a_fixed_map_does_not():
    few = EvaluationTask(heatproof.load("scenes"), pair_images(1).first(12))
    figures = likeness_figures(few, Subject.of("center"))
    assert right_is_first(figures["score"]).value > 0.8
    assert figures["score"][:, 0].mean() > figures["score"][:, 3].mean()
    # The same map for every prompt: all of them are first alike.
    assert right_is_first(figures["contrast"]).value == pytest.approx(1 / len(LIKENESS))


def test_other_data_are_refused_in_one_line():
    task = EvaluationTask(heatproof.load("scenes"), asked(4))
    with pytest.raises(InputError, match="do not hold their own pair; try pair_images"):
        named_task(task)
    with pytest.raises(InputError, match="got 0 scenes per pair"):
        pair_scenes(0)
