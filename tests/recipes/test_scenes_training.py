"""The recipe: the loss falls, a killed run goes on to the same weights, nothing leaks."""

import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from heatproof.data.scenes import HELD_OUT, Caption, Phrase, sample, singles, truths
from heatproof.data.scenes.dataset import UNSEEN
from heatproof.data.scenes.vocabulary import COLOURS, SHAPES
from heatproof.models.scenes import SceneTokenizer
from heatproof.recipes.scenes.bank import bank, nonsense, withheld
from heatproof.recipes.scenes.commands import app
from heatproof.recipes.scenes.loss import against_false
from heatproof.recipes.scenes.recipe import Run, Settings, rate_at, scene_seeds, train
from heatproof.recipes.scenes.scoring import drawn, share

TINY = Settings(
    steps=4, decay=2, warmup=2, batch=8, workers=1, save=2, snapshots=2, pace=0.3, recognised=0.0
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_loss_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.5, 9.0], [0.0, 1.0, 3.0, 0.0]])
    true = torch.tensor([[True, True, False, False], [False, False, False, False]])
    false = torch.tensor([[False, False, True, False], [True, True, True, True]])
    # True ones do not compete with each other, what is neither (9.0) with none of them.
    first = math.log(1 + math.exp(0.5 - 1.0))
    second = math.log(1 + math.exp(0.5 - 2.0))
    got = against_false(logits, true, false)
    assert got.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_with_one_true_caption_it_is_clips_loss():
    logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    true = torch.eye(7, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(7))
    assert torch.allclose(against_false(logits, true, ~true), expected)


def test_the_bank_never_speaks_of_held_out_combinations():
    import random

    for step in range(20):
        scenes = sample(scene_seeds(step, 0, TINY))
        entries = bank(scenes.described(), random.Random(step))
        assert not any(e.caption.held_out for e in entries)
        words = [set(e.text.split()) for e in entries if e.caption.second is None]
        for shape, colour in HELD_OUT:
            assert not any({COLOURS[colour], SHAPES[shape]} <= found for found in words)


def test_nonsense_has_an_unknown_noun_and_no_known_shape():
    import random

    tokens = SceneTokenizer()
    texts = nonsense(random.Random(0), 200)
    assert len(texts) == 200
    for text in texts:
        assert tokens.encode(text)[-1] == tokens.unknown_token_id
        assert not set(text.split()) & set(SHAPES)
    # Half of them say something true of some scenes before the noun: the noun alone decides.
    assert sum(bool(set(text.split()) & set(COLOURS)) for text in texts) > 20


def test_nonsense_is_pushed_below_every_caption(tmp_path):
    # The loss sees nonsense as false in every family, so its gradient lowers those logits.
    run = Run(tmp_path, TINY)
    _, _, entries, texts = run.batch(0)
    assert len(texts) == TINY.nonsense
    logits = torch.zeros(3, len(entries) + len(texts), requires_grad=True)
    true = torch.zeros(logits.shape, dtype=torch.bool)
    true[:, 0] = True
    against_false(logits, true, ~true).backward()
    assert (logits.grad[:, len(entries) :] > 0).all()


def test_a_run_from_released_weights_starts_there_with_a_new_warm_up(tmp_path):
    first = Run(tmp_path / "first", TINY)
    first.folder.mkdir()
    first.go()
    facts = [{"until": 4, "batch": 8, "workers": 1}]
    more = Run(tmp_path / "second", replace(TINY, steps=8))
    more.begin_from_weights(tmp_path / "first" / "snapshots" / "step-000004.safetensors", facts)
    assert more.progress.step == 4
    assert more.progress.stages == facts
    for name, value in more.model.state_dict().items():
        assert torch.allclose(value, first.average[name], atol=1e-3)
    assert rate_at(4, more.settings, more.first) == pytest.approx(TINY.rate / 2)


def test_what_is_held_out_teaches_no_exclusion():
    shape, colour = HELD_OUT[0]
    scenes = sample(torch.arange(200), objects=1)
    of_colour = scenes.attributes[:, 0, 2] == colour
    captions = singles("shape")
    kept_out = withheld(captions, scenes)
    assert of_colour.any()
    assert kept_out[of_colour, shape].all()
    assert not kept_out[~of_colour, shape].any()
    assert not kept_out[of_colour].all(1).any()
    assert not (kept_out & truths(captions, scenes)).any()
    both = [Caption(Phrase(colour=COLOURS[colour], shape=SHAPES[(shape + 1) % 8]))]
    assert not withheld(both, scenes).any()


def test_training_and_scoring_share_no_seed():
    last = scene_seeds(10**6, 1, Settings(seed=1000, workers=2))
    assert int(last.max()) < UNSEEN
    assert int(drawn(4, 0, objects=1).seeds.min()) >= UNSEEN
    seen = [scene_seeds(s, w, Settings()) for s in range(3) for w in range(2)]
    assert len(torch.cat(seen).unique()) == sum(map(len, seen))


def test_rate_rises_holds_and_falls():
    settings = Settings(steps=100, decay=50, warmup=10, rate=1.0)
    assert rate_at(0, settings) == pytest.approx(0.1)
    assert rate_at(30, settings) == 1.0
    assert rate_at(75, settings) == pytest.approx(0.5)
    assert rate_at(99, settings) == pytest.approx(0.02)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train(tmp_path / "whole", TINY, report=None)
    steps = Run.step

    def killed(self: Run) -> None:
        if self.progress.step == 3:
            raise KeyboardInterrupt
        steps(self)

    monkeypatch.setattr(Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", TINY, report=None)
    monkeypatch.undo()
    train(tmp_path / "parts", TINY, report=None)
    one, other = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")
    )
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)
    for a, b in zip(
        one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True
    ):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    told = ("step", "difficulty", "shape", "loss")
    assert all(one["progress"][k] == other["progress"][k] for k in told)
    assert one["progress"]["difficulty"] > 0


def test_another_recipe_is_refused_in_the_same_folder(tmp_path):
    train(tmp_path, Settings(steps=1, decay=0, batch=8, workers=1), report=None)
    arguments = ["train", str(tmp_path), "--steps", "2", "--batch", "16", "--workers", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "batch 8 became 16" in result.stderr


def test_wilson_by_hand():
    figure = share(90, 100, 0.5)
    # Newcombe's formula of 1998 (his method 4), z = 1.96
    assert (figure.low, figure.high) == pytest.approx((0.8196, 0.9484), abs=2e-4)
    assert share(0, 50, 0.5).low == 0.0
    assert share(50, 50, 0.5).high == pytest.approx(1.0)


def test_render_command_writes_files(tmp_path):
    arguments = ["render", str(tmp_path / "out"), "--count", "3", "--objects", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 3


@pytest.mark.slow
def test_a_hundred_steps_lower_the_loss_and_find_shapes(tmp_path):
    losses: list[float] = []
    settings = Settings(steps=100, decay=20, warmup=20, batch=8, both=12, mixed=2, workers=1)
    run = Run(tmp_path, settings)
    while run.progress.step < settings.steps:
        before = run.progress.loss
        run.step()
        # The running loss keeps 98 %: undo it to see each step's own.
        now = run.progress.loss
        losses.append(now if len(losses) == 0 else (now - 0.98 * before) / 0.02)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert all(map(math.isfinite, losses))
