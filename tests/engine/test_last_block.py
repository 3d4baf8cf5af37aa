"""The readout's row alone: its maps are those of the whole pass, or it yields to that."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import heatproof
from families import FAMILIES, POOLED, ROTARY, model_of, picture, prompts_for
from heatproof import scores
from heatproof.engine import forward as passes
from heatproof.engine import last_block
from heatproof.engine.batches import ImageBatches
from heatproof.engine.forward import Attribution
from heatproof.engine.inputs import images, prompts
from heatproof.errors import InputError
from heatproof.methods import (
    AttentionXGradient,
    GradECLIP,
    Method,
    RawAttention,
    ReadPass,
    pass_context,
)
from heatproof.methods.pass_context import gradients_at_once
from heatproof.methods.readout import as_readout_method
from heatproof.models import Model
from heatproof.models import model as model_module
from heatproof.models.towers import Readout
from heatproof.specimens.open_clip import open_clip_vit
from heatproof.tolerances import TOLERANCE

VIT = "open_clip vit"
YIELDERS = [family for family in FAMILIES if family in POOLED | ROTARY]
TAKERS = [family for family in FAMILIES if family not in YIELDERS]
METHODS = ["attention-x-gradient", "grad-eclip", "attention-eclip", "attention-grad-cam",
           "raw-attention"]  # fmt: skip
SETTINGS: list[Method] = [
    *(heatproof.methods.create(name) for name in METHODS),
    GradECLIP(heads="model", spatial="attention"),
    GradECLIP(spatial="none", projection="none"),
    GradECLIP(rectify="head", heads="model"),
]
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2}


def embeddings(width: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def outcome(
    model: Model,
    method: Method,
    score: str | None = None,
    evidence: str = "full",
    count: int | None = None,
    items: int = 2,
    width: int = 17,
) -> Attribution:
    """One batch of pictures against the family's prompts, or against `count` random ones."""
    asked: Any = list(model.classes[:3])
    if count is not None:
        asked = embeddings(width, count)
    elif not asked:
        asked = embeddings(model.image.encode(picture(model, 1)).shape[1], 3)
    shown = images(model, picture(model, items), None)
    chosen = scores.create(score or scores.default(model))
    batches = ImageBatches(shown, prompts(model, asked), chosen, None)
    sites = model.attention_layers("image", shown.pixels.shape[-2:])
    (batch,) = batches.split(8)
    reader = passes.Reader(model=model, method=method, layers=sites, seed=0, evidence=evidence)
    return reader.attribute(batch)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs `outcome` by the whole pass."""

    def run(*args: Any, **kwargs: Any) -> Attribution:
        with monkeypatch.context() as patch:
            patch.setattr(last_block, "fits", lambda *_: False)
            return outcome(*args, **kwargs)

    return run


def close(one: Tensor, other: Tensor, limit: float) -> None:
    gap = (one - other).abs().max() / other.abs().max()
    assert gap <= limit, gap


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TAKERS)
@pytest.mark.parametrize("dtype", CLOSE)
def test_the_row_alone_gives_the_whole_passs_maps(
    family: str, dtype: torch.dtype, whole: Any
) -> None:
    model = FAMILIES[family](dtype)
    for method in SETTINGS:
        fast, slow = outcome(model, method), whole(model, method)
        assert fast.row_alone, method
        assert not slow.row_alone
        close(fast.values, slow.values, CLOSE[dtype])
        close(fast.scores, slow.scores, CLOSE[dtype])
        assert slow.live_rows is not None
        assert fast.live_rows is not None
        assert torch.equal(fast.live_rows, slow.live_rows)
        assert list(fast.has_gradient) == list(slow.has_gradient)
        for path, arrived in fast.has_gradient.items():
            assert torch.equal(arrived, slow.has_gradient[path])
        assert (fast.total is None) == (slow.total is None)
        if fast.total is not None and slow.total is not None:
            close(fast.total, slow.total, CLOSE[dtype])


@pytest.mark.parametrize("family", YIELDERS)
def test_other_readouts_get_the_whole_pass(family: str) -> None:
    found = outcome(model_of(family), AttentionXGradient())
    assert not found.row_alone


@pytest.mark.parametrize("score", ["cosine", "logit", "margin"])
@pytest.mark.parametrize("count", [3, 16, 17, 18, 61])
def test_more_prompts_than_coordinates(score: str, count: int, whole: Any) -> None:
    """The embedding has 17 coordinates: beyond them its Jacobian is taken."""
    model = model_of(VIT)
    for method in (AttentionXGradient(), heatproof.methods.AttentionECLIP()):
        fast = outcome(model, method, score, count=count)
        by_target = replace_linear(method)
        slow = whole(model, by_target, score, count=count)
        assert fast.row_alone
        close(fast.values, slow.values, 1e-10)
        close(fast.scores, slow.scores, 1e-10)


def replace_linear(method: Method) -> Method:
    """The same method, target by target: a subclass's `attribute` is its own."""

    class Own(type(method)):  # type: ignore[misc]
        def attribute(self, read: ReadPass) -> Tensor:
            return super().attribute(read)

    return Own()


@pytest.mark.parametrize("family", ["open_clip mean pool", "open_clip siglip", "open_clip eva"])
def test_the_jacobian_serves_the_whole_pass_too(family: str) -> None:
    model = model_of(family)
    width = 33 if family == "open_clip siglip" else 17
    fast = outcome(model, AttentionXGradient(), count=61, width=width)
    slow = outcome(model, replace_linear(AttentionXGradient()), count=61, width=width)
    assert not fast.row_alone
    close(fast.values, slow.values, 1e-10)
    assert fast.total is not None
    assert slow.total is not None
    close(fast.total, slow.total, 1e-9)


@pytest.mark.parametrize("score", ["cosine", "logit", "contrast:a cat"])
def test_slopes_are_the_scores_derivative(score: str) -> None:
    model = model_of(VIT)
    generator = torch.Generator().manual_seed(1)
    image, text, other = (
        torch.randn(n, 17, generator=generator, dtype=torch.float64) for n in (2, 5, 1)
    )
    chosen = scores.create(score)
    found = scores.score_gradient(model, chosen, image, text, against=other)
    assert found is not None
    expected = pass_context.score_gradient(
        lambda e: chosen(scores.pairs(model, e, text, against=other)), image
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# --- when it must not be taken -----------------------------------------------------------------


def test_a_subclass_with_its_own_map_is_not_bypassed() -> None:
    class Twice(AttentionXGradient):
        def attribute(self, read: ReadPass) -> Tensor:
            return 2 * super().attribute(read)

    model = model_of(VIT)
    plain, twice = outcome(model, AttentionXGradient()), outcome(model, Twice())
    assert as_readout_method(Twice()) is None
    assert not twice.row_alone
    close(twice.values, 2 * plain.values, 1e-10)


def test_a_wrong_description_falls_back_and_fails_its_certificate() -> None:
    """A mean-pooled tower said to read its class token through a norm and a projection."""
    model = model_of("open_clip mean pool")
    visual: Any = model.module.visual
    vit = model_of(VIT).image.project
    assert vit is not None
    project = replace(vit, norm=visual.ln_post, linear=visual.proj)
    wrong = replace(
        model, image=replace(model.image, readout=Readout("class token", 0), project=project)
    )
    assert not outcome(wrong, AttentionXGradient()).row_alone
    found = heatproof.explain(wrong, picture(wrong), prompts_for("open_clip mean pool"))
    violated = [c.name for c in found.certificate.checks if c.verdict == "violated"]
    # The row that it is said to read has no part in the score, so that no gradient reaches it.
    assert violated == ["readout", "gradient reach"]


def test_a_row_that_differs_for_one_input_sends_the_batch_the_whole_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(VIT)
    good = outcome(model, AttentionXGradient())
    alone = last_block._run_row  # pyright: ignore[reportPrivateUsage]

    def off(*args: Any) -> Any:
        embedding, trace = alone(*args)
        bent = embedding.clone()
        bent[1] = bent[1] * (1 + 1e-6)
        return bent, trace

    monkeypatch.setattr(last_block, "_run_row", off)
    found = outcome(model, AttentionXGradient())
    assert not found.row_alone
    close(found.values, good.values, 1e-10)


def test_a_block_that_takes_no_single_row_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["open_clip eva"]()
    tries: list[int] = []
    real = last_block.read_row
    monkeypatch.setattr(last_block, "read_row", lambda *a, **k: (tries.append(1), real(*a, **k))[1])
    first = outcome(model, AttentionXGradient())
    again = outcome(model, AttentionXGradient())
    assert len(tries) == 1
    assert torch.equal(first.values, again.values)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_a_full_memory_is_let_through_and_nothing_is_remembered(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said nothing about the block, and the short way stayed off for good."""
    model = model_of(VIT)

    def full(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(last_block, "_run_row", full)
        with pytest.raises(type(error), match="memory"):
            outcome(model, AttentionXGradient())
    assert outcome(model, AttentionXGradient()).row_alone


def test_a_fault_of_another_kind_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(VIT)

    def refused(*_: Any) -> Any:
        raise InputError("the input is at fault")

    with monkeypatch.context() as patch:
        patch.setattr(last_block, "_run_row", refused)
        with pytest.raises(InputError):
            outcome(model, AttentionXGradient())
    assert outcome(model, AttentionXGradient()).row_alone


def test_why_a_block_is_unfit_is_logged_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "heatproof")
    assert not outcome(FAMILIES["open_clip eva"](), AttentionXGradient()).row_alone
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the last block (visual.trunk.blocks.1) on one row cannot be run the cheaper" in said
    assert "RuntimeError: The size of tensor a" in said


def test_an_outer_reading_gets_the_whole_pass() -> None:
    model = model_of(VIT)
    with heatproof.reading.reading(model.module, []):
        assert not outcome(model, AttentionXGradient()).row_alone
    assert outcome(model, AttentionXGradient()).row_alone


# --- nothing is left behind --------------------------------------------------------------------


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_errors_leave_no_hook_and_no_grad_mode() -> None:
    model = model_of(VIT)

    def broken(pixels: Tensor) -> Tensor:
        model.image.encode(pixels)
        raise KeyboardInterrupt

    stopped = replace(model, image=replace(model.image, encode=broken))
    outcome(model, AttentionXGradient())  # finds the sites
    model_module._layers[stopped] = model_module._layers[model]  # pyright: ignore[reportPrivateUsage]
    before = hooks(model.module)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(KeyboardInterrupt):
            outcome(stopped, AttentionXGradient(), count=3)
        assert torch.is_grad_enabled()
    assert hooks(model.module) == before
    assert not last_block.readings_open()


def test_raw_attention_builds_no_graph() -> None:
    assert not outcome(model_of(VIT), RawAttention(), evidence="none").scores.requires_grad


def test_the_fast_path_of_other_layers_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the layer that is read leaves `nn.MultiheadAttention`'s fast path."""
    model = open_clip_vit(width=44)  # an even number of heads, as that path needs
    fast: list[int] = []
    native = torch._native_multi_head_attention
    monkeypatch.setattr(
        torch, "_native_multi_head_attention", lambda *a, **k: (fast.append(1), native(*a, **k))[1]
    )
    assert outcome(model, AttentionXGradient(), evidence="none").row_alone
    assert len(fast) == 1  # of two layers


# --- gradients at once -------------------------------------------------------------------------


class Unbatchable(torch.autograd.Function):
    """A function whose backward looks at a value, which no batch of gradients allows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x * 3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        return grads[0] * 3 if grads[0].sum().item() > -1e9 else grads[0]


@pytest.mark.parametrize("batchable", [True, False])
def test_gradients_at_once_are_those_one_by_one(batchable: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    y = (x * 3 if batchable else Unbatchable.apply(x)) ** 2
    assert isinstance(y, Tensor)
    got, none = gradients_at_once(y, [x, unused], torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(got, torch.diag(18 * x.detach()))
    assert none.shape == (5, 2)
    assert not none.any()


def test_tolerances_are_the_certificates() -> None:
    assert TOLERANCE[torch.float64] == 1e-10
    assert TOLERANCE[torch.float32] == 1e-5
