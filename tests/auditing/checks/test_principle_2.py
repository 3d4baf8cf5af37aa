"""Principle 2, planted truths: maps that follow hold, phantoms and controls never do."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import heatproof
import planted_maps as planted
from audits import on_task
from heatproof import statistics
from heatproof.auditing.ablation import fills, scores_without
from heatproof.auditing.base import AuditCheck, Finding
from heatproof.auditing.checks.attribution_error import AttributionErrorCheck
from heatproof.auditing.checks.graded_family import GradedFamilyCheck, ordered_family
from heatproof.auditing.checks.moved_model import MovedModelCheck, costly_interventions
from heatproof.auditing.checks.null_prompts import NullPromptsCheck
from heatproof.auditing.checks.right_and_wrong import RightAndWrongCheck, difference
from heatproof.auditing.checks.sign import SignCheck, most
from heatproof.auditing.run import run_checks
from heatproof.auditing.task import CONTROLS, AuditTask, OracleControl
from heatproof.data.scenes.single_attribute import asked
from heatproof.errors import UserCodeError
from heatproof.evaluation.subject import Subject
from heatproof.methods import ReadPass
from planted_maps import Planted

NATIVE = F.scaled_dot_product_attention
CHECKS: dict[str, AuditCheck] = {
    "graded": GradedFamilyCheck(),
    "moved": MovedModelCheck(),
    "right_wrong": RightAndWrongCheck(),
    "null_prompts": NullPromptsCheck(),
    "sign": SignCheck(images=30),
    "attribution_error": AttributionErrorCheck(),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[AuditTask]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AuditTask(heatproof.load("scenes"), asked(300))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def few(bench: AuditTask) -> AuditTask:
    """Enough pictures to run, too few to judge by."""
    return AuditTask(bench.model, bench.data.first(6))


def told(bench: AuditTask, how: planted.Told) -> Subject:
    return Subject(Planted(bench, how))


@pytest.mark.parametrize("check", ["graded", "moved", "null_prompts"])
def test_the_mask_if_and_only_if_the_model_is_right_holds(bench: AuditTask, check: str) -> None:
    found = CHECKS[check].measure(told(bench, planted.where_right), on_task(bench))
    assert found.verdict == "holds", found.evidence


@pytest.mark.parametrize("check", ["graded", "moved"])
def test_the_mask_whatever_the_model_does_is_a_phantom(bench: AuditTask, check: str) -> None:
    found = CHECKS[check].measure(told(bench, planted.always), on_task(bench))
    assert found.verdict == "violated", found.evidence


def test_right_and_wrong_tells_planted_masks_apart_or_that_it_cannot(bench: AuditTask) -> None:
    """A control may pass on this model: its raw attention lies on the named object where the model
    is right. Then no verdict is drawn, but the figures are those that were planted."""
    follows, phantom = (
        CHECKS["right_wrong"].measure(told(bench, how), on_task(bench))
        for how in (planted.where_right, planted.always)
    )
    assert follows.numbers["matched difference"]["statistic"]["low"] > 0.3
    assert phantom.numbers["matched difference"]["statistic"]["high"] < 0.1
    assert follows.verdict in ("holds", "cannot tell")
    assert phantom.verdict in ("violated", "cannot tell")
    for found in (follows, phantom):
        assert found.verdict != "cannot tell" or "control raw-attention passes" in found.evidence


def test_a_phantom_that_also_follows_is_a_phantom(bench: AuditTask) -> None:
    found = GradedFamilyCheck().measure(told(bench, planted.half), on_task(bench))
    assert found.verdict == "violated"
    assert found.numbers["phantom"]
    assert "Phantom" in found.evidence


def test_one_map_for_every_prompt_is_blind(bench: AuditTask) -> None:
    found = NullPromptsCheck().measure(told(bench, planted.one_map), on_task(bench))
    assert found.verdict == "violated"
    assert all(each["value"] < 1e-6 for each in found.numbers["change"].values())


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("check", CHECKS)
def test_controls_never_hold(bench: AuditTask, check: str, name: str) -> None:
    assert CHECKS[check].measure(Subject.of(name), on_task(bench)).verdict != "holds"


@pytest.mark.parametrize("check", CHECKS)
def test_findings_are_plain(few: AuditTask, check: str) -> None:
    import json

    found = CHECKS[check].measure(Subject.of("attention-x-gradient"), on_task(few))
    json.dumps(found.numbers, allow_nan=False)
    assert found.principle == 2
    assert found.question.endswith("?")
    assert found.evidence.endswith(".")
    assert "\n" not in found.evidence


def test_noise_that_depends_on_the_seed_alone_does_not_depend_on_the_prompt(
    bench: AuditTask,
) -> None:
    found = NullPromptsCheck().measure(Subject.of("random"), on_task(bench))
    assert found.verdict == "violated"
    assert found.numbers["noise floor"]["value"] == pytest.approx(1, abs=0.05)


def test_a_map_that_an_intervention_leaves_as_it_was_is_named(bench: AuditTask) -> None:
    found = MovedModelCheck().measure(told(bench, planted.always), on_task(bench))
    assert "the map did not" in found.evidence
    assert any(each["costs accuracy"] for each in found.numbers["interventions"])


# --- a check that its controls pass is broken, one that nothing passes is blunt -----------------


def test_a_control_that_follows_breaks_the_check(bench: AuditTask) -> None:
    broken = AuditTask(bench.model, bench.data)
    broken.controls = {**bench.controls, "center": told(bench, planted.where_right)}
    found = RightAndWrongCheck().measure(Subject.of("attention-x-gradient"), on_task(broken))
    assert found.verdict == "cannot tell"
    assert "broken here: the control center passes it" in found.evidence


def test_where_no_map_could_follow_the_check_cannot_tell(few: AuditTask) -> None:
    for check in (GradedFamilyCheck(), RightAndWrongCheck()):
        subject = told(few, planted.where_right)
        assert check.measure(subject, on_task(few)).verdict == "cannot tell"


def test_controls_are_measured_once(bench: AuditTask) -> None:
    fresh = AuditTask(bench.model, bench.data.first(6))
    counted = Planted(fresh, planted.one_map, "counted")
    fresh.controls = {"counted": Subject(counted)}
    counts: list[int] = []
    for name in ("attention-x-gradient", "raw-attention"):
        RightAndWrongCheck().measure(Subject.of(name), on_task(fresh))
        counts.append(counted.calls)
    assert counts[0] == counts[1] > 0


# --- right and wrong ----------------------------------------------------------------------------


def test_what_size_alone_explains_is_no_difference() -> None:
    """Large objects are easier for model and map alike: matched by size, nothing is left."""
    generator = torch.Generator().manual_seed(7)
    size = torch.rand(400, 2, generator=generator) > 0.5
    right = torch.rand(400, 2, generator=generator) < torch.where(size, 0.8, 0.2)
    gain = size.double() + 0.1 * torch.randn(400, 2, generator=generator).double()
    rows = torch.arange(400)[None]
    assert (
        float(difference(rows, gain, right, ~right, torch.zeros_like(size, dtype=torch.long))) > 0.5
    )
    assert abs(float(difference(rows, gain, right, ~right, size.long()))) < 0.03


def test_difference_is_its_slow_twin() -> None:
    generator = torch.Generator().manual_seed(3)
    gain = torch.randn(20, 2, generator=generator).double()
    gain[4, 1] = torch.nan
    side = torch.randint(3, (20, 2), generator=generator)
    right, wrong = side == 0, side == 1
    alike = torch.randint(3, (20, 2), generator=generator)
    rows = torch.randint(20, (3, 20), generator=generator)
    for draw, found in zip(rows, difference(rows, gain, right, wrong, alike), strict=True):
        total = weight = 0.0
        for stratum in range(3):
            sides: list[list[float]] = [[], []]
            for row in draw.tolist():
                for q in range(2):
                    fits = alike[row, q] == stratum and side[row, q] < 2
                    if fits and not gain[row, q].isnan():
                        sides[int(right[row, q])].append(float(gain[row, q]))
            if all(sides):
                means = [sum(side) / len(side) for side in sides]
                total += len(sides[0]) * (means[1] - means[0])
                weight += len(sides[0])
        assert float(found) == pytest.approx(total / weight)


# --- sign ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def removed(bench: AuditTask) -> tuple[AuditTask, Tensor]:
    """What each patch of 24 pictures does for each score, by removing it alone: the true signs."""
    small = AuditTask(bench.model, bench.data.first(24))
    rows, (height, width) = torch.arange(24), small.grid
    effect = torch.zeros(24, len(small.data.prompts), height, width)
    for row in range(height):
        for col in range(width):
            hidden = torch.zeros(24, height, width, dtype=torch.bool)
            hidden[:, row, col] = True
            after = scores_without(small, rows, hidden, only=("tokens",))["tokens"]
            effect[:, :, row, col] = (small.scores() - after).float()
    return small, effect


@pytest.mark.parametrize(("sense", "verdict"), [(1.0, "holds"), (-1.0, "violated")])
def test_true_signs_hold_and_false_ones_do_not(
    removed: tuple[AuditTask, Tensor], sense: float, verdict: str
) -> None:
    small, effect = removed
    subject = told(small, lambda _bench, rows, label, _right: sense * effect[rows, label])
    found = SignCheck().measure(subject, on_task(small))
    assert found.verdict == verdict, found.evidence


def test_the_most_are_as_many_as_asked_for() -> None:
    chosen = most(torch.tensor([[[1.0, 3.0], [3.0, 3.0]]]), 2)
    assert int(chosen.sum()) == 2
    assert not chosen[0, 0, 0]


def test_hidden_tokens_are_hidden_and_no_others(bench: AuditTask) -> None:
    """Pixels of a removed patch can be anything; those of its neighbour cannot."""
    rows, hidden = torch.arange(2), torch.zeros(2, *bench.grid, dtype=torch.bool)
    hidden[:, 2, 5] = True
    other = AuditTask(bench.model, bench.data.first(2))
    before = scores_without(bench, rows, hidden)["tokens"]
    other.pixels[:, :, 16:24, 40:48] = 3.0
    torch.testing.assert_close(scores_without(other, rows, hidden)["tokens"], before)
    other.pixels[:, :, 16:24, 48:56] = 3.0
    assert (scores_without(other, rows, hidden)["tokens"] - before).abs().max() > 1e-3


def test_fills_change_hidden_pixels_alone(bench: AuditTask) -> None:
    pixels = bench.pixels[:2]
    made = {name: fill(pixels) for name, fill in fills(bench).items()}
    assert set(made) == {"mean", "blur", "black"}
    assert all(each.shape == pixels.shape for each in made.values())
    flat = torch.full_like(pixels, 0.4)
    blurred = fills(bench)["blur"](flat)
    torch.testing.assert_close(blurred, flat, rtol=1e-5, atol=1e-5)


# --- attribution error --------------------------------------------------------------------------


class Promising(Planted):
    """Spreads the score's change from a mean-coloured picture evenly, in part."""

    def __init__(self, bench: AuditTask, part: float) -> None:
        super().__init__(bench, planted.always)
        self.part = part

    def attribute(self, read: ReadPass) -> Tensor:
        keys = read.last.key.shape[2]
        return (self.part * self.total(read) / keys).unsqueeze(-1).expand(-1, -1, keys)

    def total(self, read: ReadPass) -> Tensor:
        assert read.batch.pixels is not None
        flat = read.batch.pixels.mean((2, 3), keepdim=True).expand_as(read.batch.pixels)
        return (read.scores - read.rerun(flat)).detach()


@pytest.mark.parametrize(
    ("part", "verdict"), [(1.0, "holds"), (0.0, "violated"), (-1.0, "violated")]
)
def test_sums_are_held_to_the_change_they_promise(
    bench: AuditTask, part: float, verdict: str
) -> None:
    found = AttributionErrorCheck(images=24).measure(
        Subject(Promising(bench, part)), on_task(bench)
    )
    assert found.verdict == verdict
    assert found.numbers["baseline"] == "mean picture"
    assert found.numbers["error"]["value"] == pytest.approx(1 - part, abs=1e-4)


def test_one_sum_for_every_picture_tells_no_change(bench: AuditTask) -> None:
    """The mean change comes nearer to each change than zero does, but so does anybody's sum."""
    told = (
        AttributionErrorCheck(images=24)
        .measure(Subject(Promising(bench, 1.0)), on_task(bench))
        .numbers
    )
    mean = told["mean score change by baseline"]["mean picture"]
    alike = Promising(bench, 1.0)
    alike.attribute = lambda read: torch.full(
        (len(read.scores), 1, read.last.key.shape[2]), mean / read.last.key.shape[2]
    )
    found = AttributionErrorCheck(images=24).measure(Subject(alike), on_task(bench))
    assert found.numbers["closer"]["than another picture's"]["value"] == pytest.approx(0, abs=1e-6)
    assert found.numbers["closer"]["than a map of zeros"]["value"] > 0
    assert found.verdict != "holds"


def test_without_a_promise_there_is_no_error(bench: AuditTask) -> None:
    assert (
        AttributionErrorCheck().measure(Subject.of("gae"), on_task(bench)).verdict
        == "not applicable"
    )


# --- strangers, and the model afterwards ----------------------------------------------------------


def test_a_strangers_code_sees_every_changed_model(bench: AuditTask) -> None:
    small = AuditTask(bench.model, bench.data.first(12))
    rows = {photo.tobytes(): row for row, photo in enumerate(small.data.photos)}
    seen: set[float] = set()

    def stranger(photo, prompt):
        row = rows[photo.tobytes()]
        with torch.no_grad():
            embedding = bench.model.image.encode(small.pixels[row : row + 1])
        seen.add(round(float(embedding[0, 0]), 5))
        return planted.mask_of(small, torch.tensor([row]), small.data.prompts.index(prompt))[0]

    GradedFamilyCheck().measure(Subject.of(stranger), on_task(small))
    assert len(seen) > 12 * (len(ordered_family(small)) - 1)


def test_the_model_is_put_back_to_the_bit_even_after_an_error(bench: AuditTask) -> None:
    before = {k: v.clone() for k, v in bench.model.module.state_dict().items()}
    small = AuditTask(bench.model, bench.data.first(30))
    ordered_family(small)
    costly_interventions(small)

    def fails(photo, prompt):  # noqa: ARG001
        raise RuntimeError("planted")

    for check in (GradedFamilyCheck(), MovedModelCheck()):
        with pytest.raises(UserCodeError, match="planted"):
            check.measure(Subject.of(fails), on_task(small))
    after = bench.model.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert NATIVE is F.scaled_dot_product_attention


def test_all_checks_run_in_their_order(few: AuditTask) -> None:
    found: list[Finding] = run_checks(Subject.of("raw-attention"), on_task(few), 2)
    assert [each.check for each in found] == [
        "graded family",
        "moved model, unmoved map",
        "right and wrong",
        "null prompts",
        "sign",
        "attribution error",
        "blind model",
        "following the cause",
    ]


def test_the_map_that_follows_does_so(bench: AuditTask) -> None:
    quality = [
        float(bench.quality(OracleControl(), each).nanmean()) for each in ordered_family(bench)
    ]
    accuracy = [float(bench.outscored(each).mean()) for each in ordered_family(bench)]
    assert float(statistics.spearman(torch.tensor(quality), torch.tensor(accuracy))) > 0.8


def test_of_equal_patches_none_is_favoured() -> None:
    """Break: the first ones where they tie: a constant map hides the upper left corner."""
    chosen = most(torch.zeros(200, 4, 5), 4)
    assert chosen.sum((1, 2)).tolist() == [4] * 200
    share = chosen.double().mean(0)
    assert float(share.min()) > 0.1
    assert float(share.max()) < 0.3
