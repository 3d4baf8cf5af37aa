"""Maps for later prompts are those of `explain`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import heatproof
from families import FAMILIES, model_of, picture, prompts_for, worded_model_of
from heatproof.errors import InputError, PromptError
from heatproof.methods import GAE, AttentionECLIP, AttentionXGradient
from heatproof.specimens.open_clip import open_clip_vit

VIT = "open_clip vit"
METHODS = ["attention-x-gradient", "grad-eclip", "attention-eclip", "attention-grad-cam"]


def close(one: Tensor, other: Tensor, limit: float = 1e-5) -> None:
    assert float((one - other).abs().max() / other.abs().max()) <= limit


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_later_prompts_are_those_of_explain(family: str) -> None:
    model = model_of(family)
    pixels, prompts = picture(model), prompts_for(family)
    for method in METHODS:
        later = heatproof.jacobian(model, pixels, method=method)
        now = heatproof.explain(model, pixels, prompts, method=method)
        close(later.maps(prompts), now.maps)
        close(later.scores(prompts), now.scores)
        assert later.certificate.holds == now.certificate.holds


@pytest.mark.parametrize("score", ["logit", "margin", "contrast:xyz"])
def test_every_score_can_be_asked_later(score: str) -> None:
    model = worded_model_of(VIT)
    later = heatproof.jacobian(model, picture(model), certify=False)
    now = heatproof.explain(model, picture(model), ["abc", "hello"], score=score, certify=False)
    close(later.maps(["abc", "hello"], score=score), now.maps)
    close(later.scores(["abc", "hello"], score=score), now.scores)


def test_a_saved_jacobian_needs_no_model(tmp_path: Path) -> None:
    model = worded_model_of(VIT)
    made = heatproof.jacobian(model, picture(model))
    path = made.save(tmp_path / "dogs.safetensors")
    prompts = prompts_for(VIT)
    assert isinstance(prompts, Tensor)
    alone = heatproof.load_jacobian(path)
    assert torch.equal(alone.maps(prompts), made.maps(prompts))
    assert (alone.record, alone.certificate) == (made.record, made.certificate)
    with pytest.raises(PromptError, match="without its model reads no texts"):
        alone.maps(["a dog"])

    def never(pixels: Tensor) -> Tensor:
        raise AssertionError(pixels)

    blind = replace(model, image=replace(model.image, encode=never))
    assert torch.equal(heatproof.load_jacobian(path, blind).maps(["abc"]), made.maps(["abc"]))


def test_files_and_prompts_that_do_not_fit(tmp_path: Path) -> None:
    model = model_of(VIT)
    made = heatproof.jacobian(model, picture(model))
    with pytest.raises(PromptError, match="got embeddings of width 5, tiny vit has 17"):
        made.maps(torch.randn(2, 5))
    with pytest.raises(InputError, match="got 1, expected at least 2"):
        made.maps(torch.randn(1, 17), score="margin")
    path = made.save(tmp_path / "a")
    with pytest.raises(InputError, match="is of other weights than tiny vit"):
        heatproof.load_jacobian(path, open_clip_vit(width=44))
    with pytest.raises(InputError, match="cannot read"):
        heatproof.load_jacobian(tmp_path / "none")
    save_file({"x": torch.zeros(1)}, tmp_path / "b")
    with pytest.raises(InputError, match="holds no jacobian"):
        heatproof.load_jacobian(tmp_path / "b")
    with pytest.raises(InputError, match="cannot write"):
        made.save(tmp_path / "no" / "folder")


@pytest.mark.parametrize("method", [GAE(), AttentionECLIP(rectify="head")])
def test_methods_that_are_not_linear_are_refused(method: heatproof.methods.Method) -> None:
    model = model_of(VIT)
    with pytest.raises(InputError, match="is not linear in the score's gradient"):
        heatproof.jacobian(model, picture(model), method=method)


def test_linear_methods_are_marked() -> None:
    assert AttentionXGradient().is_linear()
    assert AttentionECLIP().is_linear()
    assert not AttentionECLIP(rectify="layer").is_linear()
