"""What a certificate says, and that it says nothing that was not established."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.certificate import Certificate, Check, worst
from heatproof.data.scenes import render, sample
from heatproof.models.model import Model

PROMPTS = ["a red circle", "a blue moon", "a green star"]


@pytest.fixture(scope="module")
def scenes() -> Model:
    return heatproof.load("scenes")


def scene(seed: int = 7) -> Image.Image:
    pixels, _ = render(sample(torch.tensor([seed])), pixels=64)
    return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())


def own_scores(model: Model, image: Image.Image, prompts: Sequence[str]) -> Tensor:
    """The cosines, by the model's own two calls alone."""
    assert model.text is not None
    with torch.no_grad():
        seen = model.image.encode(model.image.preprocess(image)[None])
        read = model.text.encode(model.text.tokenize(prompts))
    return torch.nn.functional.cosine_similarity(seen[:, None], read[None], dim=-1)


PARITY = Check("parity", "holds", "the same", 1e-8, 1e-5)
NATIVE = Check("native factors", "holds", "attention weights")


# --- three states ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "holds"),
    [
        ((), None),
        ((PARITY,), None),
        ((NATIVE, Check("finite", "holds", "")), None),
        ((replace(PARITY, verdict="not established"), NATIVE), None),
        ((PARITY, replace(NATIVE, verdict="not applicable")), None),
        ((PARITY, NATIVE), True),
        ((PARITY, NATIVE, Check("input", "not established", "")), True),
        ((PARITY, NATIVE, Check("input", "violated", "")), False),
        ((Check("finite", "violated", ""),), False),
    ],
)
def test_a_certificate_holds_only_where_parity_and_native_factors_do(
    checks: tuple[Check, ...], holds: bool | None
) -> None:
    assert Certificate(checks, (), ()).holds is holds


def test_what_was_not_told_is_named() -> None:
    found = Certificate((PARITY, replace(NATIVE, verdict="not established")), (), ())
    assert found.sentence == "not established: native factors: attention weights"
    assert Certificate((NATIVE,), (), ()).sentence == "not established: parity: not checked"


def test_of_several_the_worst_counts_and_none_of_none() -> None:
    assert worst([True, True]) is True
    assert worst([True, None]) is None
    assert worst([None, False, True]) is False
    assert worst([]) is None


@pytest.mark.parametrize("name", ["attention-x-gradient", "grad-eclip", "random"])
def test_without_checks_nothing_is_established(scenes: Model, name: str) -> None:
    sides = methods.catalogue()[name].sides
    for side in sides:
        explain = heatproof.explain if side == "image" else heatproof.explain_words
        found = explain(scenes, scene(), PROMPTS, method=name, certify=False).certificate
        assert found.holds is None
        assert found.sentence == "not established: no check was made (certify=False)"
        assert "yes" not in [light.state for light in found.lights]


@pytest.mark.parametrize("certify", [True, False])
def test_code_that_was_handed_in_is_never_certified(scenes: Model, certify: bool) -> None:
    def grey(picture: Image.Image, prompt: str) -> np.ndarray:
        del prompt
        return np.asarray(picture.convert("L"))

    found = heatproof.explain(scenes, scene(), PROMPTS, method=grey, certify=certify)
    assert found.certificate.holds is None
    assert found.certificate.sentence == (
        "not established: the map comes from code that was handed in: nothing is known of its "
        "pass; try heatproof audit"
    )
    assert "yes" not in [light.state for light in found.certificate.lights]


def test_a_jacobian_without_checks_is_not_established_after_a_file_either(
    scenes: Model, tmp_path
) -> None:
    for certify, holds in ((False, None), (True, True)):
        made = heatproof.jacobian(scenes, scene(), certify=certify)
        path = made.save(tmp_path / f"{certify}.safetensors")
        for found in (made, heatproof.load_jacobian(path)):
            assert found.certificate.holds is holds
            assert found.certificate.lights == made.certificate.lights


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(methods.catalogue()))
@pytest.mark.parametrize("certify", [True, False])
def test_scores_are_the_untouched_models(scenes: Model, name: str, certify: bool) -> None:
    settings = {"m2ib": {"steps": 1}, "rise": {"masks": 8}, "kernel-shap": {"samples": 60}}
    method = methods.create(name, **settings.get(name, {}))
    own = own_scores(scenes, scene(), PROMPTS)
    for side in method.card.sides:
        explain = heatproof.explain if side == "image" else heatproof.explain_words
        found = explain(scenes, scene(), PROMPTS, method=method, certify=certify)
        torch.testing.assert_close(found.scores, own, rtol=0, atol=2e-6)
        parity = found.certificate.check("parity")
        if parity is not None:
            gap = float((found.explained_scores - found.scores).abs().max())
            assert gap == pytest.approx(parity.value, abs=1e-6)


def test_grad_eclips_own_scores_have_a_name_of_their_own(scenes: Model) -> None:
    found = heatproof.explain(scenes, scene(), PROMPTS, method="grad-eclip", certify=False)
    assert float((found.explained_scores - found.scores).abs().max()) > 0.005
    later = heatproof.jacobian(scenes, scene(), method="grad-eclip", certify=False)
    torch.testing.assert_close(later.scores(PROMPTS), found.scores, rtol=0, atol=2e-6)
    explained = later.explained_scores(PROMPTS)
    torch.testing.assert_close(explained, found.explained_scores, rtol=0, atol=2e-6)
    torch.testing.assert_close(later.maps(PROMPTS), found.maps, rtol=1e-4, atol=1e-6)
