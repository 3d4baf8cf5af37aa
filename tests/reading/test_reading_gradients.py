"""Where gradients start, and that they are the derivatives of the pass."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from heatproof.reading import reading
from reading_cases import (
    KINDS,
    inner,
)
from towers import (
    HEADS,
    TOKENS,
    attn,
    replaced_weights,
    tokens,
    tower,
)


def graph_size(tensor: Tensor) -> int:
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_before_the_start_is_in_the_graph(kind: type[nn.Module]) -> None:
    model, start, x = tower(kind), inner(kind, 2), tokens().requires_grad_()
    with reading(model, weights=True, start=start) as trace:
        assert not torch.is_grad_enabled()
        score = model(x).sum()
        assert torch.is_grad_enabled()
        size = graph_size(score)
        score.backward()
    assert x.grad is None
    used = {name for name, each in model.named_parameters() if each.grad is not None}
    assert {name.split(".")[1] for name in used} == {"2"}
    assert not any("qkv" in name or "in_proj" in name or "norm" in name for name in used)
    assert size < graph_size(model(x).sum()) / 2
    first, second, last = trace.layers
    assert not first.weights.requires_grad
    assert not second.output.requires_grad
    assert last.weights.is_leaf
    assert last.weights.requires_grad
    assert last.output.grad_fn is not None
    assert not last.query.requires_grad
    assert not last.value.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_without_weights_the_output_of_the_start_is_the_leaf(kind: type[nn.Module]) -> None:
    model, start = tower(kind), inner(kind, 1)
    with reading(model, [start], start=start) as trace:
        score = model(tokens()).square().sum()
        (gradient,) = torch.autograd.grad(score, trace[start].output)
    assert trace[start].output.is_leaf
    assert trace[start].weights is None
    with reading(model, [start]) as whole:
        score = model(tokens()).square().sum()
    (expected,) = torch.autograd.grad(score, whole[start].output)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_weights_equal_finite_differences(kind: type[nn.Module]) -> None:
    model, start = tower(kind), inner(kind, 1)

    def score(embedding: Tensor) -> Tensor:
        return embedding.square().sum() + embedding.sin().sum()

    with reading(model, [start], weights=True, start=start) as trace:
        embedding = model(tokens())
        (gradient,) = torch.autograd.grad(score(embedding), trace[start].weights)
    weights, step = trace[start].weights.detach(), 1e-5
    for entry in [(0, 0, 0, 0), (1, 1, 2, 4), (2, 0, 4, 1), (2, 1, 3, 3)]:
        scores = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[entry] += sign * step
            change = {start: replaced_weights(moved)}
            with torch.no_grad(), reading(model, interventions=change):
                scores.append(score(model(tokens())))
        slope = (scores[0] - scores[1]) / (2 * step)
        torch.testing.assert_close(gradient[entry], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_weight_is_gradient_of_the_output_times_value(kind: type[nn.Module]) -> None:
    """dS/dA^h_qk = g^h_q . v^h_k: the identity that Grad-ECLIP and Attention-ECLIP share."""
    model, start = tower(kind), inner(kind, 1)
    with reading(model, [start], weights=True, start=start) as trace:
        score = model(tokens()).square().sum()
    layer = trace[start]
    by_weights, by_output = torch.autograd.grad(score, [layer.weights, layer.output])
    for b, h, q, k in itertools.product(range(3), range(HEADS), range(TOKENS), range(TOKENS)):
        product = sum(by_output[b, h, q, c] * layer.value[b, h, k, c] for c in range(7))
        torch.testing.assert_close(by_weights[b, h, q, k], product, rtol=1e-10, atol=1e-14)


def test_gradients_from_the_start_equal_those_of_the_whole_graph() -> None:
    model = tower(depth=3)
    with reading(model, weights=True, start=attn(1)) as trace:
        score = model(tokens()).square().sum()
    with reading(model, weights=True) as whole:
        expected_score = model(tokens()).square().sum()
    paths = [attn(1), attn(2)]
    gradients = torch.autograd.grad(score, [trace[path].weights for path in paths])
    expected = torch.autograd.grad(expected_score, [whole[path].weights for path in paths])
    for gradient, each in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("before", [True, False])
def test_grad_mode_is_restored(before: bool) -> None:
    model = tower()
    with torch.set_grad_enabled(before):
        with reading(model, start=attn(1)):
            model(tokens())
            assert torch.is_grad_enabled()
        assert torch.is_grad_enabled() is before
        with pytest.raises(ZeroDivisionError), reading(model, start=attn(1)):
            1 / (0 * model(tokens()).numel())
        assert torch.is_grad_enabled() is before
        with pytest.raises(RuntimeError), reading(model, start=attn(1)):
            model(tokens()[..., 1:])
        assert torch.is_grad_enabled() is before
