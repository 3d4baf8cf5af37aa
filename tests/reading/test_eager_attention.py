"""Attention written out as softmax and product is read as the fused one; nothing else is."""

import copy
import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

from attention_by_hand import attended, attention_weights
from heatproof.errors import ReadingError
from heatproof.reading import interventions, reading
from towers import HEADS, TOKENS, SelfAttention, Tower, attn, tokens, tower

MASK = torch.tensor([[True, True, False, True, True]] * TOKENS).tril()
MASK[:, 0] = True
BIAS = torch.linspace(-1, 1, TOKENS * TOKENS, dtype=torch.float64).reshape(TOKENS, TOKENS)
ADDED = BIAS.masked_fill(~MASK, -torch.inf)


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores /= math.sqrt(q.shape[-1])
    scores += ADDED
    return torch.matmul(F.softmax(scores, dim=-1), v)


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    scores = scores + ADDED
    weights = F.softmax(scores, dim=-1, dtype=torch.float64).to(q.dtype)
    return torch.matmul(F.dropout(weights, p=0.3, training=False), v)


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return (scores.masked_fill(~MASK, -torch.inf) + BIAS).softmax(dim=3) @ v


def filled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2)).div(math.sqrt(q.shape[-1]))
    scores.add_(BIAS).masked_fill_(~MASK, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1).matmul(v)


def learned_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = nn.Parameter(torch.tensor([q.shape[-1] ** -0.5], dtype=q.dtype))
    return ((q @ k.mT) * scale + ADDED).softmax(-1) @ v


def added_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.div(q @ k.mT, math.sqrt(q.shape[-1]))
    scores = torch.add(BIAS, scores) + torch.zeros(TOKENS, TOKENS).double().masked_fill(
        ~MASK, -torch.inf
    )
    return F.softmax(scores, -1) @ v


FORMS = [in_place, eager, scaled_before, filled, learned_scale, added_twice]


def with_form(form: Callable[..., Tensor], depth: int = 3) -> Tower:
    class Form(SelfAttention):
        def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return form(query, key, value)

    return tower(Form, depth)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, ADDED)


@pytest.mark.parametrize("form", FORMS)
def test_every_way_of_writing_it_is_read_as_the_fused_call(form: Callable[..., Tensor]) -> None:
    model, twin, x = with_form(form), with_form(fused), tokens()
    outside = model(x)
    paths = [attn(layer) for layer in range(3)]
    results = []
    for each in (model, twin):
        with reading(each, weights=True, start=attn(0)) as trace:
            inside = each(x)
            score = inside.square().sum()
        gradients = torch.autograd.grad(score, [trace[path].weights for path in paths])
        torch.testing.assert_close(inside, outside, rtol=0, atol=1e-13)
        assert list(trace) == paths
        results.append((trace, gradients))
    (trace, gradients), (expected, expected_gradients) = results
    for path, gradient, other in zip(paths, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)
        layer = trace[path]
        torch.testing.assert_close(layer.weights, expected[path].weights, rtol=0, atol=1e-13)
        torch.testing.assert_close(layer.output, attended(layer.weights, layer.value))


CHANGES = {
    "one head": interventions.one_head(),
    "values": interventions.self_attention("value"),
    "identity": interventions.identity(),
    "knock out": interventions.knock_out([1]),
    "masked": interventions.masked_keys(torch.tensor([[True, False, True, True, True]])),
    "by hand": lambda call: call.change(query=2 * call.query),
    "rescaled": lambda call: call.change(scale=3 * call.scale),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("weights", [True, False])
def test_interventions_do_there_what_they_do_on_the_fused_call(form, change, weights) -> None:
    model, twin, x = with_form(form, 2), with_form(fused, 2), tokens()
    results = []
    for each in (model, twin):
        with reading(each, weights=weights, interventions={attn(0): change, attn(1): change}):
            results.append(each(x))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    assert (results[0] - model(x)).abs().max() > 1e-4


@pytest.mark.parametrize("shared", [(slice(None), slice(1)), (slice(1),)], ids=["heads", "inputs"])
@pytest.mark.parametrize("which", ["key", "value", "both"])
def test_shared_keys_and_values_are_read_with_one_for_every_head(shared, which: str) -> None:
    def form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key = k if which == "value" else k[shared]
        value = v if which == "key" else v[shared]
        return (q @ key.mT).softmax(-1) @ value

    def spread(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key = k if which == "value" else k[shared].expand_as(k)
        value = v if which == "key" else v[shared].expand_as(v)
        return F.scaled_dot_product_attention(q, key, value, scale=1.0)

    model, twin, x = with_form(form, 1), with_form(spread, 1), tokens()
    for change in ({}, {attn(0): interventions.one_head()}):
        traces = []
        for each in (model, twin):
            with reading(each, weights=True, interventions=change) as trace:
                inside = each(x)
            traces.append((trace[attn(0)], inside))
        (layer, inside), (expected, outside) = traces
        torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)
        for name in ("query", "key", "value", "weights", "output"):
            torch.testing.assert_close(
                getattr(layer, name), getattr(expected, name), rtol=0, atol=1e-12
            )


# --- what looks like attention and is not ---------------------------------------------------


def other_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-2) @ v


def transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1).mT @ v


def gated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    return (weights * weights.sigmoid()) @ v


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).sigmoid() @ v


def gate(q: Tensor, _: Tensor, v: Tensor) -> Tensor:
    return q.softmax(-1) @ (v.mT @ v)


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT) / 5).tanh().softmax(-1) @ v


def written_over(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    scores.tanh_()
    return scores.softmax(-1) @ v


def written_over_in_part(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    scores[..., 0] = 0
    return scores.softmax(-1) @ v


def written_through_a_view(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    scores.flatten(1)[:, ::2].zero_()
    return scores.softmax(-1) @ v


def weights_written_over(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    weights *= 0.5
    return weights @ v


def weighed_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    return torch.add(scores, BIAS, alpha=0.3).softmax(-1) @ v


def filled_with_something(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(~MASK, 0.7).softmax(-1) @ v


def shared_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q[:1] @ k.mT).softmax(-1) @ v


LOOKALIKES = [other_axis, transposed, gated, sigmoid, gate, capped, written_over,
              written_over_in_part, written_through_a_view, weights_written_over, weighed_sum,
              filled_with_something, shared_query]  # fmt: skip


@pytest.mark.parametrize("form", LOOKALIKES)
@pytest.mark.parametrize("inference", [True, False])
def test_what_is_not_attention_is_left_alone(form: Callable[..., Tensor], inference: bool) -> None:
    model, x = with_form(form), tokens()
    with torch.inference_mode(inference):
        outside = model(x)
        with reading(model, weights=True) as trace:
            inside = model(x)
    assert len(trace) == 0
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-13)


def test_dropout_that_is_on_is_refused() -> None:
    def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout((q @ k.mT).softmax(-1), 0.1, True) @ v

    model = with_form(dropped)
    with pytest.raises(ReadingError, match="attention dropout is on"), reading(model):
        model(tokens())


def test_the_models_own_weights_are_used_as_they_are() -> None:
    """Half-precision weights that the model rounded are the model's; none are formed anew."""
    own: list[Tensor] = []

    def rounded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.mT).softmax(-1)
        own.append(weights)
        return weights @ v

    model = with_form(rounded, 1).bfloat16()
    with reading(model, weights=True) as trace:
        model(tokens().bfloat16())
    assert trace[attn(0)].weights.equal(own[0].float())


def test_many_products_that_lead_nowhere_are_not_taken_for_each_other() -> None:
    """Scores that were freed must not lend their place in memory to other tensors."""

    def busy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for _ in range(50):
            (q @ k.mT).softmax(-1)
        shape = (3, HEADS, TOKENS, TOKENS)
        others = [torch.rand(shape, generator=generator, dtype=v.dtype) for _ in range(50)]
        return sum(other @ v for other in others)

    model, x = with_form(busy, 1), tokens()
    generator = torch.Generator().manual_seed(0)
    outside = model(x)
    generator.manual_seed(0)
    with reading(model) as trace:
        assert model(x).equal(outside)
    assert len(trace) == 0


# --- the libraries' own models --------------------------------------------------------------

VISION = {"hidden_size": 22, "intermediate_size": 13, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 21, "patch_size": 7}  # fmt: skip
TEXT = {"hidden_size": 26, "intermediate_size": 17, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 41, "max_position_embeddings": 11,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2}  # fmt: skip
EAGER = 1e-6  # Hugging Face's eager softmax is float32, in a float64 model too
IDS = torch.tensor([[1, 5, 7, 9, 3, 11, 2], [1, 8, 6, 2, 0, 0, 0], [1, 4, 2, 0, 0, 0, 0]])
SEEN = (IDS != 0).long()
PIXELS = torch.rand(3, 3, 21, 21, generator=torch.Generator().manual_seed(0)).double()


def shaken(model: nn.Module) -> nn.Module:
    """So that attention is not flat, as it is at initialisation."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.3 * noise
    return model.eval().double()


def hugging_face(family: str, attention: str = "eager") -> nn.Module:
    torch.manual_seed(0)
    build, config = {"clip": (CLIPModel, CLIPConfig), "siglip": (SiglipModel, SiglipConfig)}[family]
    made = config(text_config=TEXT, vision_config=VISION, projection_dim=19)
    made._attn_implementation = attention
    return shaken(build(made))


def blip() -> nn.Module:
    torch.manual_seed(0)
    text = {**TEXT, "encoder_hidden_size": 22, "hidden_dropout_prob": 0.0}
    config = BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=19)
    return shaken(BlipForImageTextRetrieval(config))


def sides(model: nn.Module) -> dict[str, tuple[nn.Module, Callable[[], Tensor], Tensor | None]]:
    """Each tower, how to run it, and what its keys may be (batch, query, key)."""
    text = getattr(model, "text_model", None) or model.text_encoder
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    allowed = (SEEN[:, None, :] == 1).expand(3, 7, 7)
    return {
        "image": (
            model.vision_model,
            lambda: model.vision_model(pixel_values=PIXELS).pooler_output,
            None,
        ),
        "text": (
            text,
            lambda: text(input_ids=IDS, attention_mask=SEEN).last_hidden_state,
            allowed & causal if isinstance(model, CLIPModel) else allowed,
        ),
    }


def check_side(model: nn.Module, side: str) -> None:
    part, run, allowed = sides(model)[side]
    with torch.no_grad():
        outside = run()
    with reading(part, weights=True) as trace:
        inside = run()
    torch.testing.assert_close(inside.detach(), outside, rtol=0, atol=1e-12)
    own = [path for path in trace if "head" not in path]
    assert len(own) == 2
    for path in own:
        layer = trace[path]
        scale = (layer.query.shape[-1]) ** -0.5
        mask = None if allowed is None else allowed[:, None]
        expected = attention_weights(layer.query, layer.key, mask, scale=scale)
        torch.testing.assert_close(layer.weights, expected, rtol=0, atol=EAGER)
        assert layer.weights.shape[1] == 2
    start = own[-1]
    with reading(part, [start], weights=True, start=start) as last:
        (gradient,) = torch.autograd.grad(run().square().sum(), last[start].weights)
    with reading(part, [start], weights=True) as whole:
        (expected,) = torch.autograd.grad(run().square().sum(), whole[start].weights)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)
    with torch.no_grad(), reading(part, interventions={start: interventions.knock_out([0])}):
        knocked = run()
    with torch.no_grad(), reading(part, interventions={start: interventions.knock_out([])}):
        torch.testing.assert_close(run(), outside, rtol=0, atol=1e-12)
    assert (knocked - outside).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_eager_hugging_face_models_are_read_as_the_fused_ones(family: str, side: str) -> None:
    eager_model, fused_model = hugging_face(family), hugging_face(family, "sdpa")
    check_side(eager_model, side)
    check_side(fused_model, side)
    traces = []
    for model in (eager_model, fused_model):
        part, run, _ = sides(model)[side]
        with torch.no_grad(), reading(part, weights=True) as trace:
            run()
        traces.append(trace)
    assert list(traces[0]) == list(traces[1])
    for left, right in zip(traces[0].layers, traces[1].layers, strict=True):
        torch.testing.assert_close(left.weights, right.weights, rtol=0, atol=EAGER)
        torch.testing.assert_close(left.output, right.output, rtol=0, atol=10 * EAGER)


@pytest.mark.parametrize("side", ["image", "text"])
def test_blip_is_read_on_both_sides(side: str) -> None:
    check_side(blip(), side)


def test_blip_cross_attention_is_read() -> None:
    model = blip()

    def run() -> Tensor:
        return model(IDS, PIXELS, use_itm_head=True, attention_mask=SEEN).itm_score

    with torch.no_grad():
        outside = run()
    with torch.no_grad(), reading(model, weights=True) as trace:
        inside = run()
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)
    crossed = [layer for path, layer in trace.items() if "crossattention" in path]
    assert [tuple(layer.weights.shape) for layer in crossed] == [(3, 2, 7, 10)] * 2


def test_unfused_timm_attention_is_read_as_the_fused() -> None:
    torch.manual_seed(0)
    settings = {"embed_dim": 22, "depth": 2, "num_heads": 2, "img_size": 21, "patch_size": 7}
    model = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=5, **settings))
    unfused = copy.deepcopy(model)
    for block in unfused.blocks:
        block.attn.fused_attn = False
    traces = []
    for each in (model, unfused):
        with torch.no_grad(), reading(each, weights=True) as trace:
            inside = each(PIXELS)
        torch.testing.assert_close(inside, model(PIXELS).detach(), rtol=0, atol=1e-12)
        traces.append(trace)
    assert list(traces[0]) == list(traces[1]) == [attn(0), attn(1)]
    for left, right in zip(traces[0].layers, traces[1].layers, strict=True):
        torch.testing.assert_close(left.weights, right.weights, rtol=0, atol=1e-12)
