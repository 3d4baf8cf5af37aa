"""The blind model on every family: the model's own attention is constant, a potential is not."""

from typing import Any

import pytest
import torch

import strangers
import tiny
from audits import on
from families import FAMILIES, model_of, picture, prompts_for
from heatproof import methods
from heatproof.auditing.blind_reader import blind_words
from heatproof.auditing.checks.blind_model import BlindModelCheck
from heatproof.auditing.drawing import draw
from heatproof.evaluation.blindness import blind, partly_blind
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign
from heatproof.models import Model
from heatproof.reading import reading
from heatproof.reading.interventions import hidden_keys, identity, self_attention
from heatproof.specimens import ids_for

MEAN = [name for name in FAMILIES if model_of(name).image.readout.name == "mean of tokens"]


def finding(model: Model, method: Any, family: str = "") -> Any:
    texts = prompts_for(family) if family else torch.eye(tiny.EMBED)[:2].double()
    return BlindModelCheck().measure(Subject.of(method), on(model, picture(model), texts))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_made_blind_or_named(family: str) -> None:
    """Break: mask the readout's own key too, or leave the pool's keys as they are."""
    model = model_of(family)
    own = finding(model, "attention-x-gradient", family)
    published = finding(model, "grad-eclip", family)
    if family in MEAN:
        assert own.verdict == published.verdict == "cannot tell"
        assert "mean over patches" in own.evidence
        return
    assert own.numbers["blind in"]["every layer"]["embeddings differ by"] == 0
    assert (own.verdict, published.verdict) == ("holds", "violated")


def test_no_change_of_a_method_undoes_it() -> None:
    """Weights that a method sets are taken away, too (break: intervene in the usual order)."""
    model = tiny.open_clip_vit()
    layers = model.attention_layers("image")
    pixels = picture(model)
    for change in (identity(), self_attention("query", "key")):
        # Values of another token in the row would let the image in again.
        with (
            blind(model, layers).enter(),
            torch.no_grad(),
            reading(model.module, [layers[-1].path], weights=True, interventions={
                layer.path: change for layer in layers
            }) as trace,
        ):  # fmt: skip
            embedding = model.image.encode(pixels)
        assert not trace.layers[-1].weights[:, :, 0, 1:].any()
        assert torch.allclose(embedding[0], embedding[1], rtol=0, atol=1e-12)


def test_hidden_keys_keep_the_rows_that_are_not_named() -> None:
    model = tiny.open_clip_vit()
    layer = model.attention_layers("image")[0]
    hidden = torch.zeros(layer.keys, dtype=torch.bool)
    hidden[2] = True
    change = {layer.path: hidden_keys(hidden, torch.tensor([0]))}
    with torch.no_grad(), reading(model.module, [layer.path], weights=True) as plain:
        model.image.encode(picture(model))
    with (
        torch.no_grad(),
        reading(model.module, [layer.path], weights=True, interventions=change) as masked,
    ):
        model.image.encode(picture(model))
    before, after = plain.layers[0].weights, masked.layers[0].weights
    assert torch.equal(before[:, :, 1:], after[:, :, 1:])
    assert not after[:, :, 0, 2].any()
    expected = before[:, :, 0] / (1 - before[:, :, 0, 2:3])
    assert torch.allclose(after[:, :, 0, 3:], expected[:, :, 3:])


def test_a_share_of_the_patches_is_hidden_in_every_layer() -> None:
    model = tiny.open_clip_vit()
    layers = model.attention_layers("image")
    seen: list[set[int]] = []
    for share in (0.25, 0.5):
        with (
            partly_blind(model, layers, share, seed=3).enter(),
            torch.no_grad(),
            reading(model.module, weights=True) as trace,
        ):
            model.image.encode(picture(model))
        rows = [
            set((layer.weights[0, 0, 0] == 0).nonzero()[:, 0].tolist()) for layer in trace.layers
        ]
        assert rows[0] == rows[-1]
        seen.append(rows[0])
    patches = layers[0].keys - 1
    assert [len(one) for one in seen] == [round(0.25 * patches), round(0.5 * patches)]
    assert seen[0] < seen[1]


@pytest.mark.parametrize("maker", [strangers.by_a_hook, strangers.by_a_patch])
def test_code_that_runs_the_model_is_asked(maker: Any) -> None:
    """Input times gradient, whatever else it does: nothing comes back from a blind model."""
    model = tiny.open_clip_vit()
    texts = {"0": torch.eye(tiny.EMBED)[0].double()}
    method = Foreign(maker(model.module, texts), takes="pixels", name="stranger")
    context = on(model, picture(model), ["0"])
    assert BlindModelCheck().measure(Subject(method), context).verdict != "violated"


@pytest.mark.parametrize(
    "maker",
    [strangers.with_its_own_copy, lambda m, t: strangers.by_its_own_layers(m, t, one_head=False)],
)
def test_code_that_passes_by_the_model_cannot_be_told(maker: Any) -> None:
    """Silence is no pass, and a call that was never made blind is no violation."""
    model = tiny.open_clip_vit()
    texts = {"0": torch.eye(tiny.EMBED)[0].double()}
    method = Foreign(maker(model.module, texts), takes="pixels", name="stranger")
    found = BlindModelCheck().measure(Subject(method), on(model, picture(model), ["0"]))
    assert found.verdict == "cannot tell"
    assert "does not pass" in found.evidence


def test_maps_without_the_model_never_hold_and_the_figure_is_drawn() -> None:
    model = tiny.open_clip_vit()
    assert finding(model, "center").verdict == "violated"
    noise = finding(model, "random")
    assert noise.verdict == "cannot tell"
    assert "sampling" in noise.evidence
    assert "<svg" in draw(finding(model, "grad-eclip"))


@pytest.mark.parametrize("family", ["open_clip vit", "open_clip coca", "hf siglip", "hf blip"])
def test_words_are_equal_where_the_reader_is_blind(family: str) -> None:
    model, ids = model_of(family), ids_for(family)[1:]
    own = blind_words(methods.create("attention-x-gradient"), model, picture(model), ids)
    published = blind_words(methods.create("grad-eclip"), model, picture(model), ids)
    assert own.differ_by == 0
    assert (own.verdict, published.verdict) == ("holds", "violated")
    assert own.intact > 0 == own.spread
