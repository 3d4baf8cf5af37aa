"""Half precision and autocast: read in float32, returned as outside."""

import pytest
import torch
from torch import nn

from attention_by_hand import attention_weights
from heatproof.reading import reading
from reading_cases import (
    KEYS,
    KINDS,
    QUERIES,
    inner,
    keep,
    multi_head,
    operands,
)
from towers import (
    Call,
    MultiHead,
    tokens,
    tower,
)

HALVES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}


def attribution_in_float32(trace, path: str) -> None:
    layer = trace[path]
    for tensor in (layer.query, layer.key, layer.value, layer.output):
        assert tensor.dtype == torch.float32
    if layer.weights is not None:
        assert layer.weights.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("weights", [True, False])
def test_half_precision_models_are_read_in_float32(kind, dtype: torch.dtype, weights: bool) -> None:
    model, x, path = tower(kind).to(dtype), tokens().to(dtype), inner(kind, 1)
    outside = model(x)
    with reading(model, weights=weights, start=path) as trace:
        inside = model(x)
        leaf = trace[path].weights if weights else trace[path].output
        (gradient,) = torch.autograd.grad(inside.float().square().sum(), leaf)
    assert inside.dtype == outside.dtype == dtype
    torch.testing.assert_close(inside, outside, rtol=0, atol=TOLERANCE[dtype])
    assert gradient.dtype == torch.float32
    assert gradient.count_nonzero() > 0
    for each in trace:
        attribution_in_float32(trace, each)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [True, False])
def test_autocast_is_read_in_float32(kind: type[nn.Module], weights: bool) -> None:
    model, x, path = tower(kind).float(), tokens().float(), inner(kind, 1)
    seen: list[torch.dtype] = []
    call = model.blocks[1].attn
    project = call.attend.out_proj if kind is MultiHead else call.proj
    if kind is not MultiHead:
        project.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        outside = model(x)
        with reading(model, weights=weights, start=path) as trace:
            inside = model(x)
            leaf = trace[path].weights if weights else trace[path].output
            (gradient,) = torch.autograd.grad(inside.float().square().sum(), leaf)
    assert inside.dtype == outside.dtype
    assert len(set(seen)) <= 1
    torch.testing.assert_close(inside, outside, rtol=0, atol=TOLERANCE[torch.bfloat16])
    assert gradient.dtype == torch.float32
    attribution_in_float32(trace, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", [True, False])
def test_a_bare_call_under_autocast_returns_the_dtype_of_outside(
    dtype: torch.dtype, weights: bool
) -> None:
    call, arguments = Call().eval(), [each.to(dtype) for each in operands()]
    with torch.autocast("cpu", torch.bfloat16):
        outside = call(*arguments)
        with reading(call, weights=weights):
            inside = call(*arguments)
    torch.testing.assert_close(inside, outside, rtol=0, atol=TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("average", [True, False])
def test_returned_weights_have_the_dtype_of_the_model(dtype: torch.dtype, average: bool) -> None:
    attention, x = multi_head().to(dtype), tokens().to(dtype)
    outside = attention(x, x, x, average_attn_weights=average)[1]
    with reading(attention):
        inside = attention(x, x, x, average_attn_weights=average)[1]
    torch.testing.assert_close(inside, outside, rtol=0, atol=TOLERANCE.get(dtype, 1e-12))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("fill", ["lowest", "infinity"])
def test_masks_of_half_precision_are_followed(dtype: torch.dtype, weights: bool, fill: str) -> None:
    value = torch.finfo(dtype).min if fill == "lowest" else -torch.inf
    mask = torch.zeros(QUERIES, KEYS, dtype=dtype).masked_fill(~keep(QUERIES, KEYS), value)
    call, (query, key, values) = Call().eval(), (each.to(dtype) for each in operands())
    outside = call(query, key, values, attn_mask=mask)
    with reading(call, weights=weights) as trace:
        inside = call(query, key, values, attn_mask=mask)
    assert inside.dtype == dtype
    torch.testing.assert_close(inside, outside, rtol=0, atol=TOLERANCE[dtype])
    if weights:
        assert trace[""].weights[..., ~keep(QUERIES, KEYS)].count_nonzero() == 0
        expected = attention_weights(query.double(), key.double(), mask.double())
        torch.testing.assert_close(trace[""].weights.double(), expected, rtol=0, atol=1e-5)
