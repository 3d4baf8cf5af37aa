"""What a certificate says, and that it says nothing that was not established."""

import json
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
from heatproof.engine.following import common_share, says_nothing
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
    assert Certificate(checks=checks, native=(), substituted=()).holds is holds


def test_what_was_not_told_is_named() -> None:
    found = Certificate(
        checks=(PARITY, replace(NATIVE, verdict="not established")), native=(), substituted=()
    )
    assert found.sentence == "not established: native factors: attention weights"
    native = Certificate(checks=(NATIVE,), native=(), substituted=())
    assert native.sentence == "not established: parity: not checked"


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
        "not established: the map comes from your own code, whose forward pass is unknown; try "
        "heatproof audit"
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


# --- four lights -------------------------------------------------------------------------------


def states(certificate: Certificate) -> list[str]:
    assert [light.name for light in certificate.lights] == LIGHTS
    assert all(light.evidence for light in certificate.lights)
    return [light.state for light in certificate.lights]


LIGHTS = ["same model", "same derivatives", "follows the prompt", "input"]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("attention-x-gradient", "holds", ["yes", "yes", "yes"]),
        ("rollout", "holds with limits", ["yes", "yes", "no"]),
        ("raw-attention", "holds with limits", ["yes", "yes", "no"]),
        ("gae", "holds", ["yes", "yes", "yes"]),
        ("legrad", "fails", ["no", "no", "limited"]),
        ("attnlrp", "another backward rule", ["yes", "limited", "yes"]),
        ("libragrad", "another backward rule", ["yes", "limited", "yes"]),
        ("transformer-attribution", "another backward rule", ["yes", "limited", None]),
        ("grad-eclip", "fails", ["no", "no", None]),
        ("maskclip", "fails", ["no", "no", "yes"]),
        ("clip-surgery", "fails", ["limited", "no", None]),
        ("random", "fails", ["no", "no", "no"]),
        ("center", "fails", ["no", "no", "no"]),
    ],
)
def test_lights_say_what_was_proved(
    scenes: Model, name: str, kind: str, expected: list[str | None]
) -> None:
    images = [scene(seed) for seed in (7, 11, 13)]
    made = heatproof.explain(scenes, images, PROMPTS, method=name)
    rows = [made.certificate_of(image, prompt) for image in range(3) for prompt in PROMPTS]
    # Of nine maps, some may be much like those of null prompts.
    found = min(rows, key=lambda row: (row.kind != kind, row.lights[2].state != expected[2]))
    assert found.kind == kind
    seen = states(found)
    assert [want or has for want, has in zip(expected, seen, strict=False)] == seen[:3]


def test_another_backward_rule_is_told_from_another_forward_pass(scenes: Model) -> None:
    mild, red = (
        heatproof.explain(scenes, scene(), PROMPTS, method=name).certificate
        for name in ("attnlrp", "grad-eclip")
    )
    assert mild.holds is red.holds is False
    assert mild.sentence.startswith(
        "The forward pass is your model's own; the derivatives follow another rule: "
    )
    assert red.sentence.startswith("This map explains another model than yours: ")
    assert red.lights[0].evidence.startswith("another forward pass: scores differ (gap ")


def test_a_bad_factor_beside_a_mild_one_is_not_mild() -> None:
    rule = replace(NATIVE, verdict="violated")
    found = Certificate(
        checks=(PARITY, rule), native=(), substituted=("a rule",), replaced="backward rule"
    )
    assert found.kind == "another backward rule"
    worse = replace(found, checks=(PARITY, rule, Check("finite", "violated", "")))
    assert worse.kind == "fails"
    other = replace(found, checks=(replace(PARITY, verdict="violated"), rule))
    assert other.kind == "fails"


def test_weights_are_known_random_or_unknown(scenes: Model) -> None:
    module = scenes.module
    random = heatproof.load("open_clip:ViT-B-32-256", image_size=64)
    wrapped = heatproof.wrap(module, tokenizer=scenes_tokenizer())
    assert (scenes.weights, random.weights, wrapped.weights) == ("loaded", "random", "unknown")
    found = heatproof.explain(random, scene(), PROMPTS[:1])
    assert found.certificate.holds is True
    light = found.certificate.lights[0]
    assert light.state == "limited"
    assert light.evidence.endswith("; RANDOM weights: an untrained model")
    assert found.certificate.kind == "holds with limits"
    light = heatproof.explain(wrapped, scene(), PROMPTS).certificate.lights[0]
    assert (light.state, light.evidence.split("; ")[1]) == ("yes", "weights as handed in")


def scenes_tokenizer():
    from heatproof.models.scenes import SceneTokenizer

    return SceneTokenizer()


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        ("holds", "yes"),
        ("violated", "no"),
        ("not established", "not established"),
        ("not applicable", "not applicable"),
    ],
)
def test_the_input_light_is_the_check_named_input(verdict, state) -> None:
    found = Certificate(
        checks=(PARITY, NATIVE, Check("input", verdict, "why")), native=(), substituted=()
    )
    assert (found.lights[3].state, found.lights[3].evidence) == (state, "why")
    assert found.holds is (verdict != "violated")


def test_preprocessed_tensors_have_no_input_to_check(scenes: Model) -> None:
    pixels = scenes.image.preprocess(scene())[None]
    for explain in (heatproof.explain, heatproof.explain_words):
        found = explain(scenes, pixels, PROMPTS)
        assert found.certificate.lights[3].state == "not applicable"
    assert heatproof.jacobian(scenes, pixels).certificate.lights[3].state == "not applicable"


# --- following the prompt ----------------------------------------------------------------------


@pytest.mark.parametrize("common", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("alike", [-0.6, 0.0, 0.6])
def test_the_planted_share_that_is_common_to_all_prompts_is_found(
    common: float, alike: float
) -> None:
    """A constant, and a part of the prompt's own that is more or less like the constant and like
    that of the references: the share is exact all the same."""
    axes = torch.linalg.qr(torch.randn(49, 49, generator=torch.Generator().manual_seed(0)))[0]
    constant = common**0.5 * axes[0]
    aside = (1 - alike**2) ** 0.5
    own = (1 - common) ** 0.5 * (alike * axes[0] + aside * axes[1])
    unrelated, drawn = 0.3 * (alike * axes[0] - axes[1]), 5 * axes[2]
    beside = constant + torch.stack([unrelated, -unrelated, drawn, -drawn])
    found = float(common_share((constant + own)[None, None], beside[None]))
    assert found == pytest.approx(common, abs=1e-6)


def test_shares_of_maps_that_ignore_or_turn_with_the_prompt() -> None:
    maps = torch.randn(2, 3, 49, generator=torch.Generator().manual_seed(0))
    same = maps[:, :1]
    ones = torch.ones(2, 1, dtype=torch.float64)
    torch.testing.assert_close(common_share(same, same.expand(2, 4, 49)), ones)
    turning = torch.cat([same, -same, 2 * same, -2 * same], dim=1)
    assert common_share(maps, turning).abs().max() == 0
    assert common_share(0 * maps, 0 * turning).abs().max() == 0


class Saturated(methods.AttentionXGradient):
    """Half of each map's norm is the image's saturation, whatever the prompt."""

    def total(self, read):
        del read

    def attribute(self, read):
        values = super().attribute(read)
        pixels = read.batch.pixels
        saturation = torch.nn.functional.adaptive_avg_pool2d(
            pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True), read.batch.grid
        ).flatten(1)
        saturation = (saturation / saturation.norm(dim=1, keepdim=True))[:, None]
        own = values[:, :, read.batch.content]
        values[:, :, read.batch.content] = own / own.norm(dim=2, keepdim=True) + saturation
        return values


def test_a_map_half_of_saturation_is_warned_of(scenes: Model) -> None:
    images = [scene(seed) for seed in range(7, 15)]
    made = heatproof.explain(scenes, images, PROMPTS)
    rows = (made.certificate_of(image, prompt) for image in range(8) for prompt in PROMPTS)
    honest = next(row for row in rows if row.lights[2].state == "yes")
    half = heatproof.explain(scenes, images, PROMPTS, method=Saturated()).certificate
    assert honest.common_share is not None
    assert half.common_share is not None
    assert honest.common_share < 1e-6
    assert half.common_share == pytest.approx(0.5, abs=1e-5)  # both parts are of norm 1
    assert (honest.lights[2].state, half.lights[2].state) == ("yes", "limited")
    share = f"{half.common_share:.0%}"
    assert f"{share} of it is the same for every prompt" in half.lights[2].evidence
    assert honest.warnings == ()
    (warning,) = half.warnings
    assert warning.startswith(f"{share} of this map is the same for every prompt (more than 33%)")
    assert f"{share} of it is the same for every prompt" in half.sentence


@pytest.mark.parametrize("score", ["margin", "contrast:a blue moon"])
def test_a_score_that_compares_prompts_is_not_blamed_for_it(scenes: Model, score: str) -> None:
    """The other prompt is in every map, null prompts' too, because it was asked for."""
    found = heatproof.explain(scenes, scene(), PROMPTS, score=score).certificate
    assert (found.common_share, found.warnings) == (None, ())
    assert found.lights[2].state == "yes"
    assert (
        heatproof.explain(scenes, scene(), PROMPTS, score=score, method="rollout")
        .certificate.lights[2]
        .state
        == "no"
    )


def test_prompts_of_unknown_words_alone_do_not_count_as_followed(scenes: Model) -> None:
    prompts = ["a dog", "a photo of a cat", "a spaceship", "a red circle"]
    found = heatproof.explain(scenes, scene(), prompts)
    assert torch.equal(found.maps[0, 0], found.maps[0, 2])
    light = found.certificate.lights[2]
    assert light.state == "no"  # that of the worst
    assert "; other prompts: " in light.evidence
    for word, prompt in zip(("dog", "cat", "spaceship"), prompts, strict=False):
        own = found.certificate_of(0, prompt).lights[2]
        assert own.state == "no"
        for evidence in (light.evidence, own.evidence):
            assert f"it does not know '{word}'" in evidence
    assert heatproof.explain(scenes, scene(), prompts[:3]).certificate.lights[2].state == "no"
    assert found.certificate.kind == "holds with limits"
    # The prompt that says something is measured by itself.
    alone = heatproof.explain(scenes, scene(), prompts[3:]).certificate
    kept = found.certificate_of(0, "a red circle")
    assert kept.lights[2].state == alone.lights[2].state == "yes"
    assert kept.null_prompts == pytest.approx(alone.null_prompts, abs=1e-4)
    words = heatproof.explain_words(scenes, scene(), ["a dog"]).certificate
    assert words.lights[2].state == "no"


def test_a_prompt_with_an_unknown_word_is_limited_by_it(scenes: Model) -> None:
    found = heatproof.explain(scenes, scene(), ["a red circle", "a red dog"]).certificate
    assert found.lights[2].state == "limited"
    assert found.lights[2].evidence.startswith("unknown words in 'a red dog': 'dog'; ")
    assert "changes by " in found.lights[2].evidence
    assert found.says_nothing == {}


@pytest.mark.parametrize(
    ("text", "unknown", "expected"),
    [
        ("a dog", ("dog",), True),
        ("A Dog!", ("Dog",), True),
        ("a photo of the dog's", ("dog's",), True),
        ("a red dog", ("dog",), False),
        ("a red circle", (), False),
        ("a thing", (), False),
    ],
)
def test_what_says_nothing(text: str, unknown: tuple[str, ...], expected: bool) -> None:
    assert says_nothing(text, unknown) is expected


def test_a_classifiers_maps_are_held_against_each_other() -> None:
    model = heatproof.load("timm:test_vit")
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    for name, state in (("rollout", "no"), ("attention-x-gradient", "not established")):
        found = heatproof.explain(model, images, model.classes[:2], method=name).certificate
        assert found.lights[2].state == state
    assert found.lights[2].evidence.startswith("a classifier has no null prompts")


# --- legends -----------------------------------------------------------------------------------


def test_no_card_promises_a_sign_that_its_maps_do_not_keep() -> None:
    for name, entry in methods.catalogue().items():
        control = "control" in entry.source
        assert (entry.signs is None) is control, name
        positive = entry.values.startswith("not negative")
        assert control or (entry.signs[0] == "does not occur") is positive, name


@pytest.mark.parametrize(
    "name",
    [n for n, e in methods.catalogue().items() if e.signs and e.signs[0] == "does not occur"],
)
def test_what_does_not_occur_does_not_occur(scenes: Model, name: str) -> None:
    method = methods.create(name, **({"steps": 2} if name == "m2ib" else {}))
    found = heatproof.explain(scenes, scene(), PROMPTS, method=method, certify=False)
    assert float(found.maps.min()) >= 0
    assert found.record.signs == method.card.signs


@pytest.mark.parametrize(
    ("name", "legend"),
    [
        ("random", ("low", "high")),
        ("rollout", ("does not occur", "attention")),
        ("maskclip", ("unlike the prompt", "like the prompt")),
        ("attention-x-gradient", ("lowers the score", "raises the score")),
    ],
)
def test_the_legend_is_the_cards_on_page_and_in_json(
    scenes: Model, name: str, legend: tuple[str, str], tmp_path
) -> None:
    found = heatproof.explain(scenes, scene(), PROMPTS, method=name)
    report = found.save(tmp_path).read_text()
    assert f" {legend[0]}</span>" in report
    assert f">{legend[1]} +" in report
    assert ("raises the score" in report) is (name == "attention-x-gradient")
    stored = json.loads((tmp_path / "explanation.json").read_text())
    assert stored["display"]["legend"] == dict(zip(("negative", "positive"), legend, strict=True))
    assert [light["state"] for light in stored["certificate"]["lights"]] == states(
        found.certificate
    )
    for light in found.certificate.lights:
        assert f"{light.name}: {light.state}</b>" in report
