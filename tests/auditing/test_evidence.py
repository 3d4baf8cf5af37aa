"""An audit says no more than it measured: user code honest and not, rounding, budgets, refusals."""

import copy
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import heatproof
import strangers
import tiny
from audits import on, on_task
from families import picture
from heatproof.auditing import run as auditing
from heatproof.auditing.base import AuditCheck
from heatproof.auditing.checks import parity
from heatproof.auditing.checks.forward_monitor import ForwardMonitorCheck
from heatproof.auditing.checks.graded_family import GradedFamilyCheck
from heatproof.auditing.checks.moved_model import possible_interventions
from heatproof.auditing.checks.parity import ParityCheck
from heatproof.auditing.checks.readout import ReadoutCheck
from heatproof.auditing.checks.reparametrisation import ReparametrisationCheck
from heatproof.auditing.comparison import unless_refused
from heatproof.auditing.cost import forward_passes
from heatproof.auditing.input_comparison import compare_input
from heatproof.auditing.result import Audit
from heatproof.auditing.run import MAPS, Auditor, run_checks
from heatproof.auditing.task import AuditTask
from heatproof.cli import main
from heatproof.cli.audit import _exit_code
from heatproof.cli.benchmark import _has_values
from heatproof.data.scenes.single_attribute import asked
from heatproof.errors import InputError, PromptError, ReadingError, UserCodeError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign
from heatproof.models import Model

Call = Callable[[Tensor, str], Tensor]


@pytest.fixture(scope="module")
def vit() -> Model:
    return tiny.open_clip_vit()


def texts(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, tiny.EMBED, generator=generator, dtype=torch.float64)


def smooth(model: Model) -> Tensor:
    """A picture whose neighbouring pixels are alike, as those of photographs are."""
    generator = torch.Generator().manual_seed(3)
    size = model.image.preprocess
    coarse = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64)
    made = F.interpolate(coarse, (size.height, size.width), mode="bicubic")
    return made.to(model.dtype)


def gradient(module: Any, text: Tensor, pixels: Tensor) -> Tensor:
    """Of the sum of the scores of all these pixels."""
    leaf = pixels.detach().clone().requires_grad_()
    unit = F.normalize(module.encode_image(leaf), dim=-1)
    (found,) = torch.autograd.grad((unit @ F.normalize(text, dim=-1)).sum(), [leaf])
    return found


def at(module: Any, *, change: Callable[[Tensor], Tensor]) -> Call:
    """A map of the model's gradient at changed inputs."""

    def explain_at(pixels: Tensor, prompt: str) -> Tensor:
        text = texts()[int(prompt[-1])].to(pixels)
        return gradient(module, text, change(pixels[None])).sum((0, 1))

    return explain_at


def with_noise(pixels: Tensor) -> Tensor:
    """As SmoothGrad does it, by 15 % of the range of values."""
    generator = torch.Generator().manual_seed(0)
    sigma = 0.15 * (pixels.max() - pixels.min())
    noise = torch.randn(8, *pixels.shape[1:], generator=generator, dtype=torch.float64)
    return pixels + sigma * noise.to(pixels)


def shifted(pixels: Tensor) -> Tensor:
    return torch.roll(pixels, (2, -3), (2, 3))


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "image": (lambda x: x, "holds", "the image (1 input)"),
    "noise": (with_noise, "holds", "the image with noise (8 inputs, "),
    "path": (
        lambda x: torch.cat([x * share for share in (0.25, 0.5, 0.75, 1.0)]),
        "holds",
        "the image at 25% of its contrast",
    ),
    "grey": (lambda x: x * 0.25, "cannot tell", "an input that is not the image"),
    "mirror": (lambda x: x.flip(-1), "cannot tell", "another input: the image mirrored left to r"),
    "mirror and noise": (
        lambda x: with_noise(x.flip(-1)),
        "cannot tell",
        "the image mirrored left to right (8 inputs, ",
    ),
    "shift": (shifted, "cannot tell", "the image shifted by 3 px to the left and 2 px down"),
    "another": (lambda x: x.roll(1, 1).square(), "cannot tell", "another input: another input"),
}


# --- inputs of user code ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANGES)
def test_the_readout_names_the_inputs_that_are_differentiated(vit: Model, name: str) -> None:
    """Before: one and the same "another input, or another quantity" of all but the first."""
    change, verdict, told = CHANGES[name]
    subject = Subject(Foreign(at(vit.module, change=change), takes="pixels"))
    found = ReadoutCheck().measure(subject, on(vit, smooth(vit), texts()))
    assert (found.verdict, told in found.evidence) == (verdict, True), found.evidence


def test_the_distance_is_stated_against_that_of_noise(vit: Model) -> None:
    subject = Subject(Foreign(at(vit.module, change=lambda x: x.flip(-1)), takes="pixels"))
    pixels = smooth(vit)
    numbers = ReadoutCheck().measure(subject, on(vit, pixels, texts())).numbers
    (place, *_) = numbers["inputs differentiated at"]
    unit = (pixels - pixels.mean((2, 3), keepdim=True)).norm()
    expected = float((pixels.flip(-1) - pixels).norm() / unit)
    assert place["inputs"][0]["distance"] == pytest.approx(expected, rel=1e-6)
    assert place["inputs"][0]["noise"] < expected / 2


def test_a_noised_copy_of_the_model_is_not_established(vit: Model) -> None:
    """Before: exit code 0 with three "cannot tell"."""
    twin: Any = copy.deepcopy(vit.module)
    with torch.no_grad():
        for number, weight in enumerate(twin.parameters()):
            chance = torch.Generator().manual_seed(number)
            noise = torch.randn(weight.shape, generator=chance, dtype=weight.dtype)
            weight.add_(0.1 * noise * weight.abs().mean())
    call = Foreign(at(twin, change=lambda x: x), takes="pixels", name="a copy")
    subject = Subject(call)
    found = [
        check.measure(subject, on(vit, smooth(vit), texts()))
        for check in (ForwardMonitorCheck(), ReparametrisationCheck(), ReadoutCheck())
    ]
    assert [each.verdict for each in found] == ["cannot tell"] * 3
    assert "another quantity, or a model of its own" in found[-1].evidence


def test_noise_is_told_from_what_has_its_grain() -> None:
    generator = torch.Generator().manual_seed(0)
    image, other = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    assert compare_input(image + other, image).kind == "noise"
    assert compare_input(image + other, image).distance == pytest.approx(1, abs=0.1)
    assert compare_input(other, image).kind == "other"  # white, and the image is not in it
    assert compare_input(image + 40 * other, image).kind == "other"  # too strong to tell
    assert compare_input(image.flip(2), image).name == "the image mirrored left to right"
    assert compare_input(-image, image).name == "the image with its colours inverted"
    assert compare_input(image[:, :16], image).name == "an input of another size (32 x 16)"
    assert compare_input(1.02 * image, image).kind == "image"


# --- number formats -----------------------------------------------------------------------------


def test_ambient_autocast_does_not_reach_checks_in_float64(vit: Model) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = ReparametrisationCheck().measure(Subject.of("gae"), on(vit, picture(vit), texts()))
        gaps = ParityCheck().measure(Subject.of("gae"), on(vit, picture(vit), texts()))
    assert (found.verdict, found.numbers["dtype"]) == ("holds", "float64")
    assert gaps.verdict == "holds", gaps.evidence


@pytest.mark.parametrize("inner", [True, False])
def test_rounding_that_hides_a_change_is_named(inner: bool) -> None:
    """Before: "it depends on nothing that the changes touch", or a false "violated"."""
    model = tiny.open_clip_vit(torch.float32)
    own = at(model.module, change=lambda x: x.float())

    def under_autocast(pixels: Tensor, prompt: str) -> Tensor:
        if pixels.dtype == torch.float64 and not inner:
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        with torch.autocast("cpu", torch.bfloat16):
            return own(pixels, prompt)

    subject = Subject(Foreign(under_autocast, takes="pixels"))
    found = ReparametrisationCheck().measure(subject, on(model, smooth(model), texts().float()))
    assert found.verdict == "cannot tell"
    assert "Rounding hides the changes: in bfloat16 rounding alone moves" in found.evidence
    assert ("must have the same dtype" in found.evidence) is not inner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_monitor_does_not_hold_where_rounding_hides_one_head(dtype: torch.dtype) -> None:
    """Before: holds, with a limit of 20 %."""
    model = tiny.open_clip_vit(dtype)
    subject = Subject(Foreign(at(model.module, change=lambda x: x), takes="pixels"))
    found = ForwardMonitorCheck().measure(subject, on(model, smooth(model), texts().to(dtype)))
    coarse = dtype == torch.bfloat16
    assert found.verdict == ("cannot tell" if coarse else "holds")
    assert ("Rounding hides the changes" in found.evidence) is coarse


def test_a_score_in_bfloat16_is_known_as_the_models_own() -> None:
    model = tiny.open_clip_vit(torch.bfloat16)
    for change, verdict in ((lambda x: x, "holds"), (lambda x: x.flip(-1), "cannot tell")):
        subject = Subject(Foreign(at(model.module, change=change), takes="pixels"))
        found = ReadoutCheck().measure(
            subject, on(model, smooth(model), texts().to(torch.bfloat16))
        )
        assert found.verdict == verdict, found.evidence
        assert "are the model's own score of" in found.evidence


def test_a_map_of_nothing_is_not_called_rounding(vit: Model) -> None:
    found = ReparametrisationCheck().measure(Subject.of("center"), on(vit, picture(vit), texts()))
    assert "It depends on nothing that the changes touch" in found.evidence


def test_another_failure_in_float64_is_no_reason_for_another_dtype(vit: Model) -> None:
    """Before: any exception made the check run again in the model's own dtype."""
    calls: list[torch.dtype] = []

    def failing(pixels: Tensor, prompt: str) -> Tensor:
        calls.append(pixels.dtype)
        raise ValueError(f"no layer for {prompt}")

    subject = Subject(Foreign(failing, takes="pixels"))
    with pytest.raises(UserCodeError, match="ValueError: no layer for embedding 0"):
        ReparametrisationCheck().measure(subject, on(vit, picture(vit), texts()))
    assert calls == [torch.float64]


# --- what is caught -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 GB")],
)
def test_out_of_memory_is_no_refusal(error: RuntimeError, monkeypatch: Any) -> None:
    def fails(*_: Any) -> Any:
        raise error

    with pytest.raises(RuntimeError, match="memory"):
        unless_refused(fails)
    assert unless_refused(lambda: 3) == 3
    assert unless_refused(lambda: torch.zeros(2) @ torch.zeros(3)) is None
    monkeypatch.setattr(auditing, "embedded", fails)
    with pytest.raises(RuntimeError, match="memory"):
        auditing._prompts(heatproof.load("scenes"), 0)


def test_random_embeddings_in_place_of_prompts_are_told() -> None:
    """Before: swapped in without a word, for any RuntimeError."""
    whole = tiny.open_clip_vit(torch.float32)
    assert whole.text is not None

    def refused(_: Any) -> Any:
        raise PromptError("its tokenizer is not at hand")

    model = replace(whole, text=replace(whole.text, tokenize=refused))
    prompts, notice = auditing._prompts(model, 0)
    assert isinstance(prompts, Tensor)
    assert notice.endswith("random embeddings in place of prompts: its tokenizer is not at hand")
    given, none = auditing._prompts(heatproof.load("scenes"), 0)
    assert (list(given), none) == (list(auditing.PROMPTS), "")


def test_parity_of_nothing_cannot_be_told(vit: Model, monkeypatch: Any) -> None:
    """Before: holds, with "largest gaps" of nothing."""
    subject = Subject.of("gae")
    monkeypatch.setattr(parity, "DTYPES", ())
    found = ParityCheck().measure(subject, on(vit, picture(vit), texts()))
    assert found.verdict == "cannot tell"
    assert "Nothing was compared: text side: no words" in found.evidence


# --- the budget ---------------------------------------------------------------------------------


@contextmanager
def counted(model: Model) -> Generator[list[int]]:
    """Images through the patch embedding."""
    batches: list[int] = []
    hook = model.module.visual.conv1.register_forward_hook(
        lambda _module, given, _output: batches.append(len(given[0]))
    )
    try:
        yield batches
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def scenes() -> Iterator[Model]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield heatproof.load("scenes")
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "options"),
    [("gae", {}), ("smoothgrad", {"samples": 7}), ("rise", {"masks": 33}), ("occlusion", {})],
)
def test_forward_passes_are_images_through_the_tower(
    scenes: Model, name: str, options: dict[str, int]
) -> None:
    data, subject = asked(1, seed=0), Subject.of(name, **options)
    run = lambda: subject.maps(scenes, data.photos, ["a circle"])  # noqa: E731
    run()
    with counted(scenes) as batches:
        run()
    assert forward_passes(scenes, run) == sum(batches)
    assert not any(m._forward_pre_hooks for m in scenes.module.modules())


def test_layers_called_one_by_one_are_counted(vit: Model) -> None:
    known = {"embedding 0": texts()[0]}
    call = strangers.by_its_own_layers(vit.module, known, one_head=True)
    assert forward_passes(vit, lambda: call(picture(vit)[0], "embedding 0")) == 1


@pytest.mark.parametrize("busy", [False, True])
def test_what_is_skipped_does_not_depend_on_the_clock(
    scenes: Model, busy: bool, monkeypatch: Any
) -> None:
    """Before: a busy machine was asked about fewer images, or about none."""
    if busy:
        clock = iter(range(10_000_000))
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0 * next(clock))
        monkeypatch.setattr(time, "perf_counter", lambda: 1000.0 * next(clock))
    sizes: dict[int, tuple[int, int]] = {}
    data = asked(160, seed=0)
    for budget in (1, 2 * 40 * MAPS * 9, 2 * 80 * MAPS * 9, 2 * 160 * MAPS * 9):
        subject = Subject.of("smoothgrad", samples=8)
        sizes[budget] = Auditor(scenes, data, scenes=160, budget=budget).affordable(subject)
    assert list(sizes.values()) == [(0, 9), (80, 9), (160, 9), (160, 9)]


def test_no_more_maps_are_asked_for_than_the_budget_counts(scenes: Model) -> None:
    maps: list[int] = []

    def call(_: Any, prompt: str) -> Tensor:
        maps.append(1)
        return torch.rand(8, 8, generator=torch.Generator().manual_seed(len(prompt)))

    bench = AuditTask(scenes, asked(4, seed=0))
    run_checks(Subject(Foreign(call)), on_task(bench), 2)
    assert len(maps) <= MAPS * len(bench)
    maps.clear()
    other = tiny.open_clip_vit(torch.float32)
    run_checks(Subject(Foreign(call)), on_task(AuditTask(other, asked(4, seed=0, pixels=64))), 2)
    assert 0 < len(maps) <= MAPS * 4


def test_too_small_a_budget_is_told_with_one_that_suffices(scenes: Model) -> None:
    data = asked(20, seed=0)
    found = heatproof.audit("gae", scenes, data, principles=[2], budget=5)
    assert (found.holds, found.verdict(2)) == (None, "not measured")
    assert found.reason(2).endswith(f"the budget is 5; allow at least --budget {MAPS * 20}")
    with pytest.raises(InputError, match="got budget=0, expected at least 1"):
        Auditor(scenes, data, budget=0)


def test_variants_that_a_model_does_not_allow_are_named(monkeypatch: Any) -> None:
    """Before: left out without a word."""
    model, whole = tiny.open_clip_vit(torch.float32), AuditTask.scores
    name = "one head in the last 1 layer(s)"

    def scores(self: AuditTask, *variant: Any) -> Tensor:
        if variant and variant[0].name == name:
            raise ReadingError("a mask for each head")
        return whole(self, *variant)

    monkeypatch.setattr(AuditTask, "scores", scores)
    bench = AuditTask(model, asked(4, seed=0, pixels=64))
    numbers = GradedFamilyCheck().measure(Subject.of("center"), on_task(bench)).numbers
    assert numbers["left out"] == {name: "a mask for each head"}
    assert name not in [each["model"] for each in numbers["models"]]
    assert name not in [each.name for each in possible_interventions(bench)]


# --- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "allow", "code"),
    [
        ([True], False, 0),
        ([None], False, 3),
        ([False], False, 1),
        ([False], True, 0),
        ([None], True, 3),
        ([True, None], False, 3),
        ([True, None, False], False, 1),
        ([True, None, False], True, 3),
    ],
)
def test_the_worst_method_decides_the_exit_code(
    states: list[bool | None], allow: bool, code: int
) -> None:
    assert _exit_code(states, allow) == code


def test_a_method_that_is_left_out_is_not_established(
    tmp_path: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before: exit code 0 with a notice."""

    def audited(_: Any, method: Any, **__: Any) -> Audit:
        if method.card.name == "rollout":
            raise ReadingError("no rollout here")
        checks: tuple[AuditCheck, ...] = (ParityCheck(), ReparametrisationCheck(), ReadoutCheck())
        found = tuple(check.finding("holds", "it is so") for check in checks)
        return Audit(method=method.card.name, settings={}, model="scenes", findings=found)

    monkeypatch.setattr(Auditor, "audit", audited)
    command = ["audit", "gae,rollout", "--principle", "1", "-o", str(tmp_path)]
    assert main.run(command) == 3
    assert capsys.readouterr().out.splitlines()[-1] == (
        "2 methods: 1 established, 0 violated, 1 not established (1 of them left out)"
    )


@pytest.mark.parametrize(
    ("verdict", "code", "last"),
    [("not measured", 3, "1 claims: 1 not measured"), ("contradicted", 0, "1 claims: 1 contr")],
)
def test_a_reproduction_that_measured_nothing_says_so(
    verdict: str,
    code: int,
    last: str,
    tmp_path: Any,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"conclusions": [{"verdict": verdict, "section": "a", "claim": "It is so."}]}
    monkeypatch.setattr(
        "heatproof.recipes.grad_eclip_paper.reproducing.run", lambda *_, **__: result
    )
    assert main.run(["reproduce", "-o", str(tmp_path)]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


def test_a_benchmark_that_measured_nothing_says_so() -> None:
    def summary(value: float | None, method: str = "mine") -> dict[str, Any]:
        rows = [{"method": method, "mean": {"value": value}}]
        methods = [{"label": "mine", "control": False}, {"label": "random", "control": True}]
        return {"methods": methods, "metrics": [{"tables": {"right": rows}}]}

    assert _has_values(summary(0.5))
    assert not _has_values(summary(None))
    assert not _has_values(summary(0.5, "random"))
    assert not _has_values({"methods": [], "metrics": []})
