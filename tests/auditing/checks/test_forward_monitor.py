"""The forward monitor: strangers that change the model are caught, honest ones are not accused."""

from typing import Any

import pytest
import torch
from torch import Tensor

import strangers
import tiny
from audits import on
from families import picture
from heatproof import methods
from heatproof.auditing.base import Finding
from heatproof.auditing.checks.forward_monitor import ForwardMonitorCheck
from heatproof.errors import UserCodeError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign
from heatproof.models import Model

LABEL = "embedding 0"


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def vit(request: Any) -> Model:
    return tiny.open_clip_vit(request.param)


def text(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(1, tiny.EMBED, generator=generator, dtype=torch.float64)
    return drawn.to(model.dtype)


def watched(model: Model, make: Any, *args: Any, **settings: Any) -> Finding:
    stranger = make(model.module, {LABEL: text(model)[0]}, *args, **settings)
    subject = Subject(Foreign(stranger, takes="pixels"))
    found = ForwardMonitorCheck().measure(subject, on(model, picture(model), text(model)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    return found


LAST = "visual.transformer.resblocks.1"


def test_one_head_by_hand_is_caught_at_its_place(vit: Model) -> None:
    found = watched(vit, strangers.by_its_own_layers, one_head=True)
    assert found.verdict == "violated"
    assert found.numbers["passes"] == 0  # it never calls the model
    assert found.numbers["skipped"] == [f"{LAST}.attn"]
    assert found.numbers["first place"] == f"{LAST}.ln_2"
    size = found.numbers["own calls that differ"][0]["size"]
    assert size == pytest.approx(_by_hand_gap(vit), rel=1e-4)
    assert found.code.startswith("strangers:")
    assert "explain_by_hand" in found.code


def _by_hand_gap(model: Model) -> float:
    """Relative difference of the last block's second norm, one head against three."""
    visual: Any = model.module.visual
    with torch.no_grad():
        x = strangers._tokens(visual, picture(model)[:1])
        x, block = visual.transformer.resblocks[0](x), visual.transformer.resblocks[1]
        packed = torch.nn.functional.linear(
            block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias
        )
        made: list[Tensor] = []
        for heads in (1, 3):
            q, k, v = (each.unflatten(-1, (heads, -1)) for each in packed.chunk(3, -1))
            logits = torch.einsum("bqhc,bkhc->bhqk", q, k) / (33 / heads) ** 0.5
            out = torch.einsum("bhqk,bkhc->bqhc", logits.softmax(-1), v).flatten(2)
            made.append(block.ln_2(x + block.attn.out_proj(out)))
    return float((made[0] - made[1]).norm() / made[1].norm())


@pytest.mark.parametrize("make", [strangers.by_a_patch, strangers.by_a_hook])
def test_a_pass_changed_from_outside_is_caught(vit: Model, make: Any) -> None:
    found = watched(vit, make)
    assert found.verdict == "violated"
    assert str(found.numbers["first place"]).startswith(LAST)


def test_a_model_left_changed_is_caught_and_put_back(vit: Model) -> None:
    before = {name: each.clone() for name, each in vit.module.state_dict().items()}
    found = watched(vit, strangers.that_leaves_a_patch)
    assert found.verdict == "violated"
    assert "changed weights" in found.numbers["left behind"]
    assert all(torch.equal(before[name], each) for name, each in vit.module.state_dict().items())


@pytest.mark.parametrize("make", [strangers.with_its_own_copy, strangers.with_weights_alone])
def test_what_is_not_seen_is_not_judged(vit: Model, make: Any) -> None:
    found = watched(vit, make)
    assert found.verdict == "cannot tell"
    used = bool(found.numbers["weights used directly"])
    assert used is (make is strangers.with_weights_alone)


CAPTUM = ("IntegratedGradients", "InputXGradient", "Saliency", "LayerGradCam", "FeatureAblation")


@pytest.mark.parametrize("name", CAPTUM)
def test_captum_on_the_untouched_model_is_not_accused(vit: Model, name: str) -> None:
    assert watched(vit, strangers.captum_method, name).verdict == "holds"


def test_grad_cam_on_the_untouched_model_is_not_accused(vit: Model) -> None:
    assert watched(vit, strangers.grad_cam).verdict == "holds"


def test_the_same_layers_with_the_models_own_heads_are_not_accused(vit: Model) -> None:
    found = watched(vit, strangers.by_its_own_layers, one_head=False)
    assert found.verdict == "holds"
    assert found.numbers["own calls"] == 8


@pytest.mark.parametrize("name", methods.catalogue())
def test_methods_of_the_catalogue_differ_where_they_intervene(vit: Model, name: str) -> None:
    changes = methods.create(name).plan(_sites(vit), "image").interventions
    quick = {"rise": {"masks": 24}}.get(name, {})
    found = ForwardMonitorCheck().measure(
        Subject.of(name, **quick), on(vit, picture(vit), text(vit))
    )
    # Their interventions detach, and leave values as they are; banzhaf starts from libragrad's map.
    if name in ("attnlrp", "banzhaf", "libragrad"):
        assert found.verdict == "holds"
    elif name == "token-decomposition":  # it multiplies by output projections and runs no layer
        assert found.verdict == "cannot tell"
    elif changes:
        assert found.verdict == "violated"
        assert found.numbers["first place"] == next(iter(changes))
    elif not methods.create(name).factors("image").substituted:
        assert found.verdict == "holds"


def _sites(model: Model) -> Any:
    return model.attention_layers("image")


def test_an_error_leaves_no_hook(vit: Model) -> None:
    def failing(pixels: Tensor, prompt: str) -> Tensor:
        vit.image.encode(pixels[None])
        raise KeyError(prompt)

    with pytest.raises(UserCodeError, match="failing failed with KeyError: "):
        ForwardMonitorCheck().measure(
            Subject(Foreign(failing, takes="pixels")), on(vit, picture(vit), text(vit))
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.module.modules())
    assert torch.is_grad_enabled()
