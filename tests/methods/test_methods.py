"""Every method of the catalogue: against its by-hand twin, and what all of them must keep to."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import by_hand
import by_hand_backward  # noqa: F401  its twins register themselves
import by_hand_banzhaf  # noqa: F401  (its twin registers itself)
import by_hand_dense  # noqa: F401  (its twins register themselves)
import by_hand_perturb  # noqa: F401 (its twins)
import heatproof
import tiny
from families import (
    FAMILIES,
    ids,
    ids_for,
    model_of,
    picture,
    prompts_for,
    worded,
    worded_model_of,
)
from heatproof import methods
from heatproof.errors import HeatproofError, InputError, ReadingError, UnknownName
from heatproof.methods import Method, eclip, registry
from heatproof.models import Model
from heatproof.models import open_clip as adapter
from heatproof.reading import reading
from method_cases import NAMES, QUICK, REFUSES, close, sides, texts, token_values
from towers import replaced_weights

NATIVE_TORCH = F.scaled_dot_product_attention
# What the certificate must say of each method as its bare name runs.
HOLDS = {
    "attcat": True,
    "attention-eclip": False,
    "attention-grad-cam": True,
    "attention-x-gradient": True,
    "attnlrp": False,
    "banzhaf": True,
    "blurred-random": False,
    "center": False,
    "clearclip": False,
    "clip-surgery": False,
    "edges": False,
    "gae": True,
    "grad-cam": True,
    "grad-eclip": False,
    "input-x-gradient": True,
    "integrated-gradients": True,
    "kernel-shap": True,
    "legrad": False,
    "libragrad": False,
    "m2ib": False,
    "maskclip": False,
    "occlusion": True,
    "random": False,
    "raw-attention": True,
    "rise": True,
    "rollout": True,
    "sclip": False,
    "second-order": True,
    "smoothgrad": True,
    "token-decomposition": True,
    "transformer-attribution": False,
    "vit-cx": True,
}
# Methods that compare with the empty prompt, and so need a model that has one.
NEEDS_EMPTY = {"clip-surgery"}
# Settings that compare prompts with each other, and are tested apart with several.
OF_A_SET = {("contrast", "set"), ("features", "set")}
# What is tried of options that take any number; of others the default of `layers`, 1 and 2.
VALUES: dict[str, tuple[Any, ...]] = {
    "alpha": (5.0,),
    "batch": (2,),
    "beta": (0.1,),
    "cells": (3,),
    "distance": (0.1,),
    "layer": (None, 1),
    "masks": (7,),
    "most": (16,),
    "noise": (0.1,),
    "precision": (None,),
    "probability": (0.5,),
    "rate": (1.0,),
    "samples": (9,),
    "sigma": (0.25,),
    "steps": (3,),
    "stride": (1, 2),
    "window": (2,),
}
# Methods that read more than one layer unless told otherwise (of the tiny models: both).
DEEP = {
    "clip-surgery",
    "gae",
    "legrad",
    "rollout",
    "token-decomposition",
}


def settings_of(name: str) -> Iterator[dict[str, Any]]:
    """Every combination of a method's options; of numbers, the `VALUES`."""
    options = methods.catalogue()[name].options
    values = [option.allowed or VALUES.get(key) or (None, 1, 2) for key, option in options.items()]
    for combination in itertools.product(*values):
        settings = dict(zip(options, combination, strict=True))
        if not OF_A_SET & set(settings.items()):
            yield settings


CASES = [
    pytest.param(name, settings, id=f"{name}-{'-'.join(map(str, settings.values()))}")
    for name in NAMES
    for settings in settings_of(name)
]


def quick(name: str) -> Method:
    return methods.create(name, **QUICK.get(name, {}))


TEXT_CASES = [
    case
    for case in CASES
    if "text" in sides(case.values[0]) and case.values[1].get("of") != "grad-cam"
]


@pytest.fixture(scope="module")
def vit() -> Model:
    return worded(tiny.open_clip_vit())


def depth(name: str, settings: dict[str, Any], side: str) -> int:
    """How many of the two layers a method reads by default."""
    if name == "transformer-attribution":
        return settings.get("layers") or 1
    everything = name in DEEP or side == "text"
    return settings.get("layers") or (2 if everything else 1)


def twin(name: str, told: by_hand.Told, settings: dict[str, Any], layers: int) -> Tensor:
    filled = {**settings, "layers": layers} if "layers" in settings else settings
    return by_hand.TWINS[name](told, **filled).detach()


# --- by hand ----------------------------------------------------------------------------------


def test_every_method_has_a_by_hand_twin() -> None:
    assert set(by_hand.TWINS) == set(NAMES)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_image_values_equal_by_hand(vit: Model, name: str, settings: dict[str, Any]) -> None:
    pixels, prompts = picture(vit, 1), texts(1)
    found = token_values(vit, name, settings, "image", pixels, prompts)[0, 0]
    layers = depth(name, settings, "image")
    told = by_hand.see(
        vit.module, pixels[0], prompts[0], layers if settings.get("heads") == "one" else 0
    )
    close(found, twin(name, told, settings, layers))


CLASSIFIER = "timm vit"
CLASSIFIER_CASES = [
    case
    for case in CASES
    # The empty prompt is CLIP's alone.
    if case.values[0] != "clip-surgery" or case.values[1]["features"] == "none"
]


@pytest.mark.parametrize(("name", "settings"), CLASSIFIER_CASES)
def test_values_of_a_classifier_equal_by_hand(name: str, settings: dict[str, Any]) -> None:
    """Of a class whose logit is negative: relevance must not start at its sign."""
    model = model_of(CLASSIFIER)
    pixels = picture(model, 1)
    with torch.no_grad():
        (logits,) = model.image.encode(pixels)
    number = int(logits.argmin())
    assert logits[number] < 0
    row = torch.eye(len(logits), dtype=torch.float64)[number, None]
    found = token_values(model, name, settings, "image", pixels, row)[0, 0]
    layers = depth(name, settings, "image")
    told = by_hand.see(
        by_hand.as_clip(model.module),
        pixels[0],
        number,
        layers if settings.get("heads") == "one" else 0,
    )
    told.extra["black"] = torch.full((3,), -1.0)  # timm's ViT: (0 - 0.5) / 0.5
    if settings.get("heads") != "one":
        close(told.score.detach(), logits[number])
    expected = twin(name, told, settings, layers)
    assert expected.abs().max() > 0
    close(found, expected)


@pytest.mark.parametrize("family", ["hf vit", "hf deit", "timm vit", "timm eva", "torchvision vit"])
@pytest.mark.parametrize(
    "name", ["attcat", "attnlrp", "gae", "libragrad", "transformer-attribution"]
)
def test_a_class_whose_logit_is_negative_has_a_map(family: str, name: str) -> None:
    model = model_of(family)
    found = heatproof.explain(model, picture(model, 3), list(model.classes), method=name)
    assert (found.scores < 0).any()
    assert (found.maps.flatten(2).abs().amax(-1) > 0).all()


@pytest.mark.parametrize(("name", "settings"), TEXT_CASES)
def test_text_values_equal_by_hand(vit: Model, name: str, settings: dict[str, Any]) -> None:
    pixels, prompt = picture(vit, 1), ids(1)
    found = token_values(vit, name, settings, "text", prompt, pixels)[0, 0]
    layers = depth(name, settings, "text")
    with torch.no_grad():
        image = vit.image.encode(pixels)[0]
    told = by_hand.read(
        vit.module, prompt[0], image, layers if settings.get("heads") == "one" else 0
    )
    close(found, twin(name, told, settings, layers))


def test_by_hand_score_is_the_models(vit: Model) -> None:
    pixels, prompts = picture(vit, 1), texts(1)
    told = by_hand.see(vit.module, pixels[0], prompts[0])
    score = heatproof.explain(vit, pixels, prompts, certify=False).scores[0, 0]
    close(score, told.score.detach(), 1e-6)


def test_by_hand_gradient_is_a_finite_difference(vit: Model) -> None:
    """dS/dA by nudging one weight of the last layer in an intervention."""
    pixels, prompts = picture(vit, 1), texts(1)
    told = by_hand.see(vit.module, pixels[0], prompts[0])
    expected = float(by_hand.gradient(told, told.layers[-1].weights)[1][0, 4])
    path = "visual.transformer.resblocks.1.attn"
    base = torch.stack([w.detach() for w in told.layers[-1].weights])[None]
    found: list[float] = []
    for step in (1e-5, -1e-5):
        moved = base.clone()
        moved[0, 1, 0, 4] += step
        with (
            torch.no_grad(),
            reading(vit.module, [path], interventions={path: replaced_weights(moved)}),
        ):
            found.append(float(by_hand.cosine(vit.image.encode(pixels)[0], prompts[0])))
    assert (found[0] - found[1]) / 2e-5 == pytest.approx(expected, rel=1e-6)


# --- the paper's identity, on every family ----------------------------------------------------

# All settings are compared by hand above; here those that meet a family's own shapes.
ECLIP = [
    {"heads": heads, "spatial": spatial, "projection": projection, "rectify": "head"}
    for heads in ("one", "model")
    for spatial in ("loosened", "attention", "none")
    for projection in ("output", "none")
]


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_eclip_equals_attention_eclip_for_every_setting(family: str) -> None:
    model = model_of(family)
    passes: list[tuple[str, Any, Any]] = [("image", picture(model), prompts_for(family))]
    if model.text is not None:
        passes.append(("text", ids_for(family), picture(model)))
    for settings in ECLIP:
        for side, items, targets in passes:
            one, other = (
                token_values(model, name, settings, side, items, targets)
                for name in ("grad-eclip", "attention-eclip")
            )
            close(one, other)


# --- what every method keeps to ---------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("random", "blurred-random")])
def test_batch_equals_single(vit: Model, name: str) -> None:
    pixels, prompts = picture(vit), texts()
    together = token_values(vit, name, {}, "image", pixels, prompts)
    for image in range(2):
        for prompt in range(3):
            alone = token_values(vit, name, {}, "image", pixels[image, None], prompts[prompt, None])
            close(together[image, prompt], alone[0, 0])


@pytest.mark.parametrize("name", [n for n in NAMES if "text" in sides(n) and n != "random"])
def test_text_batch_equals_single(vit: Model, name: str) -> None:
    pixels, prompts = picture(vit), ids()
    together = token_values(vit, name, {}, "text", prompts, pixels)
    for prompt in range(3):
        alone = token_values(vit, name, {}, "text", prompts[prompt, None], pixels[1, None])
        close(together[prompt, 1], alone[0, 0])


@pytest.mark.parametrize(("name", "side"), [(n, side) for n in NAMES for side in sides(n)])
def test_the_batch_size_changes_no_map(vit: Model, name: str, side: str) -> None:
    items, targets = (picture(vit, 3), texts()) if side == "image" else (ids(), picture(vit))
    together, split = (
        token_values(vit, name, {}, side, items, targets, batch_size=size) for size in (3, 2)
    )
    assert torch.equal(together[0], together[2]) == (name == "center")
    close(split, together)


@pytest.mark.parametrize("name", NAMES)
def test_same_input_same_bits(vit: Model, name: str) -> None:
    maps = [
        heatproof.explain(vit, picture(vit), texts(), method=quick(name)).maps for _ in range(2)
    ]
    assert torch.equal(maps[0], maps[1])
    assert maps[0].dtype == torch.float32
    assert maps[0].shape == (2, 3, 3, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_near(name: str, dtype: torch.dtype) -> None:
    exact = tiny.open_clip_vit()
    exact, rough = (
        worded(each)
        for each in (exact, adapter.wrap(copy.deepcopy(exact.module).to(dtype), spec="rough"))
    )
    method = quick(name)
    expected = heatproof.explain(exact, picture(exact), texts(), method=method, certify=False).maps
    found = heatproof.explain(
        rough, picture(exact).to(dtype), texts().to(dtype), method=method, certify=False
    ).maps
    assert found.dtype == torch.float32
    near = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.02}[dtype]
    if name == "transformer-attribution" and dtype != torch.float32:
        near = 0.3  # as its card says: quotients a / (a + b) magnify the rounding of sums
    assert (found - expected).norm() <= near * expected.norm()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind(vit: Model, name: str) -> None:
    for prompts in (texts(), texts()[:, :-1]):  # the second one has the wrong width and fails
        try:
            heatproof.explain(vit, picture(vit), prompts, method=quick(name))
        except (HeatproofError, RuntimeError):
            assert prompts.shape[1] != tiny.EMBED
        assert F.scaled_dot_product_attention is NATIVE_TORCH
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.module.modules())
        assert torch.is_grad_enabled()
        assert all(p.grad is None for p in vit.module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_and_certifies_as_expected(family: str, name: str) -> None:
    model = worded_model_of(family) if name in NEEDS_EMPTY else model_of(family)
    method = quick(name)
    runs: dict[str, Callable[[], Any]] = {
        family: lambda: heatproof.explain(model, picture(model), prompts_for(family), method=method)
    }
    if "text" in sides(name) and model.text is not None:
        runs[f"{family} words"] = lambda: heatproof.explain_words(
            model, picture(model), ids_for(family), method=method
        )
    for label, run in runs.items():
        if label in REFUSES.get(name, set()):
            with pytest.raises((ReadingError, InputError)):
                run()
            continue
        certificate = run().certificate
        wrong = [check for check in certificate.checks if check.verdict == "violated"]
        assert certificate.holds is HOLDS[name], wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_x_gradient_adds_up(family: str) -> None:
    model = model_of(family)
    explanation = heatproof.explain(model, picture(model), prompts_for(family))
    check = {c.name: c for c in explanation.certificate.checks}["completeness"]
    assert check.verdict == "holds"
    assert check.value is not None
    assert check.value < 1e-12


@pytest.mark.parametrize("name", ["raw-attention", "rollout"])
def test_weights_of_the_readout_add_up_to_one(vit: Model, name: str) -> None:
    values = token_values(vit, name, {}, "image", picture(vit), texts())
    close(values.sum(-1), torch.ones(2, 3))


def test_constant_cosines_weigh_one() -> None:
    """Where the authors' min-max divides by zero, every key counts the same."""
    weight = eclip.min_max(torch.full((1, 1, 7), 0.25), slice(1, 7))
    close(weight, torch.ones(1, 1, 7))


def test_registry_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'grad-clip'; did you mean .*grad-eclip"):
        methods.create("grad-clip")
    with pytest.raises(
        UnknownName, match=r"unknown option of grad-eclip 'head'; did you mean heads"
    ):
        methods.create("grad-eclip", head="one")
    with pytest.raises(
        UnknownName, match=r"unknown value of grad-eclip's heads 'two'; known: model, one"
    ):
        methods.create("grad-eclip", heads="two")
    with pytest.raises(InputError, match=r"got layers='many' for gae, expected a whole number"):
        methods.create("gae", layers="many")
    with pytest.raises(InputError, match=r"got sigma='wide' for smoothgrad, expected a number"):
        methods.create("smoothgrad", sigma="wide")
    with pytest.raises(InputError, match=r"got sigma=nan for smoothgrad, expected a number"):
        methods.create("smoothgrad", sigma="nan")
    with pytest.raises(InputError, match=r"got samples=None for smoothgrad, expected a whole"):
        methods.create("smoothgrad", samples=None)
    with pytest.raises(InputError, match=r"method random has no options, got 'heads'"):
        methods.create("random", heads="one")
    with pytest.raises(ValueError, match="two methods are called 'gae'"):
        methods.register(methods.GAE)


def test_options_are_read_by_the_type_of_their_field() -> None:
    class Typed(methods.GAE):
        card = dataclasses.replace(methods.GAE.card, name="typed")

    made = dataclasses.make_dataclass(
        "Made",
        [("rate", float, 0.5), ("share", float | None, None), ("fine", bool, False)],
        bases=(Typed,),
        frozen=True,
    )
    methods.register(made)
    try:
        options = methods.catalogue()["typed"].options
        assert {key: (each.kind, each.optional) for key, each in options.items()} == {
            "layers": ("a whole number", True),
            "rate": ("a number", False),
            "share": ("a number", True),
            "fine": ("true or false", False),
        }
        found = methods.create("typed", rate="1e-3", share="None", fine="true", layers="2")
        assert found.settings() == {"layers": 2, "rate": 1e-3, "share": None, "fine": True}
        for wrong in ({"fine": "yes"}, {"rate": None}, {"rate": "inf"}, {"layers": 1.5}):
            with pytest.raises(InputError, match=r"got .* for typed, expected"):
                methods.create("typed", **wrong)
    finally:
        del registry._METHODS.classes["typed"]


@pytest.mark.parametrize("name", ["gae", "transformer-attribution"])
def test_over_several_layers_relevance_depends_on_the_unit_of_the_score(name: str) -> None:
    """As the cards say: 1 + c x is no multiple of 1 + x; over one layer the patches' part is."""
    model = tiny.open_clip_vit(layers=3)
    pixels, prompts = picture(model, 1), texts(1)

    def patches(layers: int, score: str) -> Tensor:
        settings = {"layers": layers}
        return token_values(model, name, settings, "image", pixels, prompts, score=score)[0, 0, 1:]

    one, several = ([patches(layers, score) for score in ("cosine", "logit")] for layers in (1, 3))
    close(one[1], one[0] * model.logit_scale, 1e-9)
    scaled = several[0] * model.logit_scale
    assert (several[1] - scaled).norm() > 1e-6 * scaled.norm()


def test_the_last_block_adds_nothing_to_attcat_s_patches() -> None:
    """z dS/dz = 0 where only a norm reads z: the score does not change with z's length. So two
    blocks' outputs give none of the patches a value, and their inputs the first block's alone."""
    model = tiny.open_clip_vit()
    pixels, prompts = picture(model, 1), texts(1)
    found = {
        state: token_values(model, "attcat", {"state": state}, "image", pixels, prompts)[0, 0, 1:]
        for state in ("inputs", "outputs")
    }
    assert found["outputs"].abs().max() < 1e-7
    told = by_hand.see(model.module, pixels[0], prompts[0])
    told.layers = told.layers[:1]
    expected = by_hand.TWINS["attcat"](told, state="inputs")[1:].detach()
    assert expected.abs().max() > 1e-5
    close(found["inputs"], expected, 1e-7)


@pytest.mark.parametrize("layers", [0, 3])
def test_more_layers_than_there_are_is_an_input_error(vit: Model, layers: int) -> None:
    with pytest.raises(InputError, match=rf"got layers={layers}, expected 1 to 2"):
        heatproof.explain(vit, picture(vit), texts(), method=methods.GAE(layers=layers))


def test_controls_of_pictures_refuse_words(vit: Model) -> None:
    with pytest.raises(InputError, match="method center explains the image side alone"):
        heatproof.explain_words(vit, picture(vit), ids(), method="center")


def test_a_pool_has_no_row_in_lower_layers() -> None:
    model = model_of("open_clip siglip")
    with pytest.raises(ReadingError, match="has no such row; try layers=1"):
        heatproof.explain(
            model,
            picture(model),
            prompts_for("open_clip siglip"),
            method=methods.GradECLIP(heads="model", layers=2),
        )
