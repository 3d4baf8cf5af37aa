"""Backward rules: results stay, gradients are those of a homogeneous function."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SwiGLU
from torch import Tensor, nn

import heatproof
import tiny
from families import FAMILIES, ids_for, model_of, picture, prompts_for
from heatproof import methods
from heatproof.errors import InputError, ReadingError
from heatproof.methods.full_gradient import FullGradient
from heatproof.methods.ruled import ruled_plan
from heatproof.reading.backward_rules import BackwardRules, frozen_rules
from method_cases import REFUSES, Spy, close, texts, token_values

WIDTH = 11


def layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, WIDTH, bias=False).double()


def swiglu() -> nn.Module:
    torch.manual_seed(1)
    return SwiGLU(WIDTH, 13, bias=False).double()


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "silu, in place": lambda x: nn.SiLU(inplace=True)(x * 1),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu, written out": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "relu": F.relu,
    "layer norm": lambda x: F.layer_norm(x, (WIDTH,), torch.arange(1.0, 12.0).double()),
    "rms norm": lambda x: F.rms_norm(x, (WIDTH,), torch.arange(1.0, 12.0).double()),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "swiglu": swiglu(),
    "product": lambda x: layer(2)(x) * layer(3)(x),
    "all of them": lambda x: F.normalize(swiglu()(F.layer_norm(F.gelu(layer()(x)), (WIDTH,)))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_ruled_function_keeps_its_bits_and_its_input_times_gradient_is_its_result(
    name: str,
) -> None:
    function = FUNCTIONS[name]
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(4)).double()
    x[0, 0] = 0.0
    leaf = x.clone().requires_grad_()
    with BackwardRules(frozen_rules(), {}):
        found = function(leaf)
    assert torch.equal(found.detach(), function(x).detach())
    weight = torch.arange(1.0, 5 * WIDTH + 1).double().view(5, WIDTH)
    (grad,) = torch.autograd.grad((found * weight).sum(), [leaf])
    close((leaf * grad).sum().detach(), (found * weight).sum().detach(), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_under_rules_keeps_its_bits(family: str, dtype: torch.dtype) -> None:
    model = FAMILIES[family](dtype)
    pixels = picture(model)
    with torch.enable_grad(), BackwardRules(frozen_rules(), {}):
        found = model.image.encode(pixels.clone().requires_grad_())
    # Rules switch off multi-head attention's fast path: so must the other side.
    with torch.enable_grad():
        expected = model.image.encode(pixels.clone().requires_grad_())
    assert torch.equal(found, expected)


def test_a_norm_without_a_rule_is_refused() -> None:
    with (
        pytest.raises(ReadingError, match="no backward rule is known for group_norm"),
        BackwardRules(frozen_rules(), {}),
    ):
        nn.GroupNorm(1, 4)(torch.randn(2, 4))


# --- what maps promise --------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["fullgrad", "fullgrad-plus", "attention-x-gradient"])
@pytest.mark.parametrize("family", FAMILIES)
def test_libragrad_adds_up(family: str, of: str) -> None:
    if family in REFUSES["libragrad"]:
        pytest.skip("no residual blocks")
    model, method = model_of(family), methods.LibraGrad(of=of)
    found = [heatproof.explain(model, picture(model), prompts_for(family), method=method)]
    if model.text is not None:
        found.append(heatproof.explain_words(model, picture(model), ids_for(family), method=method))
    for each in found:
        checks = {check.name: check for check in each.certificate.checks}
        assert checks["parity"].verdict == "holds"
        assert checks["completeness"].verdict == "holds", checks["completeness"]
        assert checks["completeness"].value is not None
        assert checks["completeness"].value < 1e-10
        assert checks["native factors"].verdict == "violated"


@pytest.mark.parametrize("score", ["cosine", "logit", "margin"])
@pytest.mark.parametrize("family", ["open_clip vit", "open_clip siglip"])
def test_fullgrad_adds_up_to_the_score_itself(family: str, score: str) -> None:
    """Less the bias of a sigmoid's logit, which is no share of the picture."""
    model = model_of(family)
    settings = {"score": score, "certify": False}
    method = Spy(methods.LibraGrad(of="fullgrad"))
    found = heatproof.explain(model, picture(model), prompts_for(family), method=method, **settings)
    bias = model.logit_bias if score == "logit" else 0.0
    close(method.values.sum(-1), found.scores - bias, 1e-5)


def test_full_gradient_under_the_model_s_own_gradients_does_not_add_up() -> None:
    class Unruled(FullGradient):
        def plan(self, sites, side):
            plan = ruled_plan(super().plan(sites, side), {}, keep_biases=True)
            return dataclasses.replace(plan, rules=lambda: BackwardRules({}, {}, keep_biases=True))

    model = tiny.open_clip_vit()
    found = heatproof.explain(model, picture(model), texts(), method=Unruled(plus=False))
    check = {check.name: check for check in found.certificate.checks}["completeness"]
    assert check.verdict == "violated"
    assert check.value is not None
    assert check.value > 1e-3


def test_cp_lrp_is_libragrad_s_input_x_gradient() -> None:
    model = tiny.open_clip_vit()
    pixels, prompts = picture(model), texts()
    one = token_values(model, "attnlrp", {"attention": "cp"}, "image", pixels, prompts)
    other = token_values(model, "libragrad", {"of": "input-x-gradient"}, "image", pixels, prompts)
    assert torch.equal(one, other)


def test_gradients_under_rules_are_not_the_model_s_own() -> None:
    model = tiny.open_clip_vit()
    pixels, prompts = picture(model), texts()
    settings = [
        ("input-x-gradient", {}),
        ("attnlrp", {}),
        ("attnlrp", {"attention": "cp"}),
    ]
    maps = [token_values(model, *each, "image", pixels, prompts) for each in settings]
    for one, other in itertools.combinations(maps, 2):
        assert (one - other).norm() > 0.1 * one.norm()


def test_libragrad_of_a_method_of_pictures_refuses_words() -> None:
    model = tiny.open_clip_vit()
    with pytest.raises(InputError, match="libragrad of=grad-cam explains the image side alone"):
        heatproof.explain_words(
            model, picture(model), ids_for("open_clip"), method=methods.LibraGrad(of="grad-cam")
        )
