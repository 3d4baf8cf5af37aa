"""A certificate of its own for each image and prompt: a fault in one shows there, and there alone.

Seen to fail: with `PromptTracking.select` and `Evidence.select` returning everything, with `any`
in place of `all` in the checks, and with the first row in place of the worst.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from PIL import Image
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.certificate import Certificate, ParitySample
from heatproof.data.scenes import render, sample
from heatproof.explanation import Explanation
from heatproof.models.model import Model

PROMPTS = ["a red circle", "a blue moon", "a green star"]
ORDER = ("no", "not established", "limited", "yes")
VERDICTS = ("violated", "not established", "holds")


@pytest.fixture(scope="module")
def scenes() -> Model:
    return heatproof.load("scenes")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    pixels, _ = render(sample(torch.tensor([7, 11, 13])), pixels=64)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]


def rows_of(made: Explanation) -> dict[tuple[int, int], Certificate]:
    pairs = torch.cartesian_prod(*map(torch.arange, made.scores.shape)).tolist()
    return {(image, prompt): made.certificate_of(image, prompt) for image, prompt in pairs}


@dataclass(frozen=True)
class Faulty(methods.AttentionXGradient):
    """The default method, with a fault in one map, or in all of one image's."""

    fault: Callable[[Tensor], None] = torch.detach_

    def attribute(self, read):
        values = super().attribute(read)
        self.fault(values)
        return values


def nan(values: Tensor) -> None:
    values[1, 2] = float("nan")


def promise(values: Tensor) -> None:
    values[1, 2] += 1


def ignorant(values: Tensor) -> None:
    values[1] = values[1, :1]


@pytest.mark.parametrize(("fault", "check"), [(nan, "finite"), (promise, "completeness")])
def test_a_fault_in_one_map_is_in_its_certificate_alone(scenes, images, fault, check) -> None:
    made = heatproof.explain(scenes, images, PROMPTS, method=Faulty(fault=fault))
    assert made.certificate.holds is False
    verdicts = {row: found.check(check).verdict for row, found in rows_of(made).items()}
    assert [row for row, verdict in verdicts.items() if verdict != "holds"] == [(1, 2)]
    assert [made.for_image(n).certificate.holds for n in range(3)] == [True, False, True]


def test_an_image_whose_maps_ignore_the_prompt_is_red_alone(scenes, images) -> None:
    made = heatproof.explain(scenes, images, PROMPTS, method=Faulty(fault=ignorant))
    states = {row: found.lights[2].state for row, found in rows_of(made).items()}
    assert {row for row, state in states.items() if state == "no"} == {(1, 0), (1, 1), (1, 2)}
    assert made.certificate.lights[2].state == "no"
    assert made.certificate.lights[2].evidence.startswith("3 of 9 maps: the map is the same")
    (warning,) = made.certificate.warnings
    assert warning.startswith("3 of 9 maps: This map is almost the same for any prompt")


def test_a_gradient_that_misses_one_map_is_in_its_certificate_alone(scenes, images) -> None:
    def flat(_: heatproof.scores.Score, pairs: heatproof.scores.Pairs) -> Tensor:
        scores = pairs.cosine.clone()
        scores[1, 2] = 0.3
        return scores

    score = type("Flat", (heatproof.scores.Cosine,), {"__call__": flat})()
    made = heatproof.explain(scenes, images, PROMPTS, method="gae", score=score)
    reach = {row: found.check("gradient reach") for row, found in rows_of(made).items()}
    assert [row for row, found in reach.items() if found.verdict == "violated"] == [(1, 2)]
    evidence = made.certificate.check("gradient reach").evidence
    assert " in 1 of 9 maps: " in evidence


@pytest.mark.parametrize("name", ["attention-x-gradient", "gae", "grad-eclip", "rollout", "random"])
def test_the_whole_certificate_is_the_worst_of_its_rows(scenes, images, name) -> None:
    prompts = [*PROMPTS, "a spaceship"]
    made = heatproof.explain(scenes, images, prompts, method=name)
    rows = list(rows_of(made).values())
    for number, light in enumerate(made.certificate.lights):
        states = [row.lights[number].state for row in rows]
        assert light.state == min(states, key=ORDER.index)
    for check in made.certificate.checks:
        found = [row.check(check.name) for row in rows]
        verdicts = [one.verdict for one in found if one.verdict != "not applicable"]
        worst = min(verdicts, key=VERDICTS.index, default="not applicable")
        assert check.verdict == worst
        if check.value is not None:
            assert check.value == max(one.value for one in found)
    assert made.certificate.holds is heatproof.certificate.worst([row.holds for row in rows])


@pytest.mark.parametrize("name", ["attention-x-gradient", "gae"])
def test_a_row_is_what_its_image_and_prompt_have_alone(scenes, images, name) -> None:
    made = heatproof.explain(scenes, images, PROMPTS, method=name)
    for image, prompt in ((0, 0), (2, 1)):
        alone = heatproof.explain(scenes, images[image], [PROMPTS[prompt]], method=name).certificate
        row = made.certificate_of(image, prompt)
        assert [light.state for light in row.lights] == [light.state for light in alone.lights]
        assert row.null_prompts == pytest.approx(alone.null_prompts, abs=1e-4)
        assert row.common_share == pytest.approx(alone.common_share, abs=1e-6)
        assert [check.verdict for check in row.checks] == [check.verdict for check in alone.checks]


def test_words_have_a_certificate_for_each_image_and_prompt(scenes, images) -> None:
    made = heatproof.explain_words(scenes, images, [*PROMPTS, "a dog"])
    states = [made.certificates[image, 3].lights[2].state for image in range(3)]
    assert states == ["no"] * 3
    assert made.certificates[2, 0].lights[2].state == "not applicable"


def test_figures_are_plain_and_flat_and_files_hold_every_prompts(scenes, images, tmp_path) -> None:
    made = heatproof.explain(scenes, images, PROMPTS)
    row = made.certificate_of(1, "a blue moon")
    figures = json.loads(json.dumps(row.figures))
    assert figures["holds"] is True
    assert figures["parity gap"] <= figures["parity limit"]
    assert figures["follows the prompt"] == row.lights[2].state
    assert figures["change under empty"] == row.null_prompts["empty"]
    made.save(tmp_path)
    folder = sorted(path for path in tmp_path.iterdir() if path.is_dir())[1]
    stored = json.loads((folder / "explanation.json").read_text())
    assert [one["prompt"] for one in stored["certificates"]] == PROMPTS
    assert stored["certificates"][1]["null_prompts"] == row.null_prompts
    again: Explanation = pickle.loads(pickle.dumps(made))  # noqa: S301
    assert again.certificate_of(1, "a blue moon") == row


def test_without_checks_no_row_is_established(scenes, images) -> None:
    made = heatproof.explain(scenes, images, PROMPTS, certify=False)
    assert {row.holds for row in rows_of(made).values()} == {None}


# --- what a sample may miss ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compared", "total", "faulty"), [(1, 8, 4), (2, 8, 1), (3, 3, 1), (4, 32, 3)]
)
def test_the_risk_of_a_sample_is_that_of_drawing_without_replacement(
    compared, total, faulty
) -> None:
    """Counted over all draws."""
    draws = torch.combinations(torch.arange(total), compared)
    missed = float((draws >= faulty).all(1).double().mean())
    assert ParitySample(compared, total).miss(faulty / total) == pytest.approx(missed, abs=1e-12)


def test_a_certificate_comes_back_from_json_with_its_sample(scenes, images) -> None:
    found = heatproof.explain(scenes, images, PROMPTS).certificate
    checks = (replace(found.checks[0], sample=ParitySample(1, 3)), *found.checks[1:])
    found = replace(found, checks=checks)
    plain = json.loads(json.dumps(asdict(found)))
    assert heatproof.certificate.certificate_from(plain) == found
