"""What a reading says must be what the model computed, and nothing of it may stay behind."""

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from attention_by_hand import attended, attention_weights
from heatproof.errors import ReadingError
from heatproof.reading import AttentionCall, interventions, reading
from towers import (
    HEADS,
    TOKENS,
    WIDTH,
    Call,
    MultiHead,
    SelfAttention,
    Tower,
    WrittenOut,
    attn,
    replaced_weights,
    tokens,
    tower,
)

FUSED = F.scaled_dot_product_attention
BATCH, QUERIES, KEYS, CHANNELS, VALUES = 2, 5, 7, 11, 13
KINDS = [SelfAttention, WrittenOut, MultiHead]


def inner(kind: type[nn.Module], layer: int) -> str:
    """The path of the module that calls attention itself."""
    return attn(layer) + (".attend" if kind is MultiHead else "")


def operands(heads: int = 3, shared: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    groups = heads // shared
    return (
        random(BATCH, heads, QUERIES, CHANNELS),
        random(BATCH, groups, KEYS, CHANNELS),
        random(BATCH, groups, KEYS, VALUES),
    )


def keep(*shape: int, seed: int = 3) -> Tensor:
    """A random mask that leaves every row its first key."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.4
    mask[..., 0] = True
    return mask


def additive(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    added = torch.randn(shape, generator=generator, dtype=torch.float64)
    return added.masked_fill(~keep(*shape), -torch.inf)


def half_dead(*shape: int) -> Tensor:
    """A mask with a row that may attend to nothing."""
    mask = keep(*shape)
    mask[..., 2, :] = False
    return mask


def tidy(*models: nn.Module) -> None:
    """Assert that nothing of any reading is left."""
    assert F.scaled_dot_product_attention is FUSED
    assert _get_current_function_mode_stack() == []
    for model in models:
        for part in model.modules():
            assert not part._forward_hooks
            assert not part._forward_pre_hooks
            assert not part._forward_hooks_with_kwargs
            assert not part._forward_pre_hooks_with_kwargs
            assert not part._forward_hooks_always_called
            assert not part.training


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    tidy()
    assert torch.is_grad_enabled()


# --- what is read is what was computed ------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "settings"),
    [
        (None, {}),
        (None, {"scale": 0.37}),
        (None, {"scale": 0.0}),
        (None, {"is_causal": True}),
        (keep(QUERIES, KEYS), {}),
        (keep(BATCH, 3, QUERIES, KEYS), {"scale": 1.9}),
        (keep(3, QUERIES, KEYS), {}),
        (keep(BATCH, 1, 1, KEYS), {}),
        (additive(QUERIES, KEYS), {}),
        (additive(BATCH, 1, QUERIES, KEYS), {}),
        (additive(BATCH, 3, QUERIES, KEYS), {}),
        (half_dead(QUERIES, KEYS), {}),
        (half_dead(QUERIES, KEYS).double().log(), {}),
    ],
    ids=["plain", "scale", "scale zero", "causal", "bool 2-D", "bool 4-D", "bool by head",
         "key padding", "float 2-D", "float one head", "float 4-D", "dead row", "dead float row"],
)  # fmt: skip
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "fused"])
def test_weights_and_output_equal_plain_loops(mask, settings, weights: bool) -> None:
    call, (query, key, value) = Call(), operands()
    call.eval()
    outside = call(query, key, value, attn_mask=mask, **settings)
    with reading(call, weights=weights) as trace:
        inside = call(query, key, value, attn_mask=mask, **settings)
    expected = attention_weights(
        query, key, mask, scale=settings.get("scale"), causal=settings.get("is_causal", False)
    )
    layer = trace[""]
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.output, attended(expected, value), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.output, inside, rtol=0, atol=0)
    assert layer.query.equal(query)
    assert layer.key.equal(key)
    assert layer.value.equal(value)
    assert (layer.path, layer.module, layer.heads) == ("", call, 3)
    if weights:
        torch.testing.assert_close(layer.weights, expected, rtol=0, atol=1e-12)
    else:
        assert layer.weights is None


def test_grouped_queries_are_read_with_a_key_for_every_head() -> None:
    call, (query, key, value) = Call().eval(), operands(heads=6, shared=3)
    outside = call(query, key, value, enable_gqa=True)
    with reading(call, weights=True) as trace:
        inside = call(query, key, value, enable_gqa=True)
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)
    torch.testing.assert_close(trace[""].weights, attention_weights(query, key), rtol=0, atol=1e-12)
    assert trace[""].key.shape == (BATCH, 6, KEYS, CHANNELS)
    assert trace[""].key[:, 2].equal(key[:, 0])
    assert trace[""].value[:, 3].equal(value[:, 1])


@pytest.mark.parametrize("mask", [None, keep(QUERIES, KEYS), keep(BATCH, QUERIES, KEYS)])
def test_operands_without_a_head_axis_are_read_as_one_head(mask: Tensor | None) -> None:
    call, (query, key, value) = Call().eval(), (each[:, 0] for each in operands())
    outside = call(query, key, value, attn_mask=mask)
    with reading(call, weights=True) as trace:
        inside = call(query, key, value, attn_mask=mask)
    by_head = mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask
    expected = attention_weights(query[:, None], key[:, None], by_head)
    assert inside.shape == outside.shape
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12)
    torch.testing.assert_close(trace[""].weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_trace_lists_calls_by_module_path_in_their_order(kind: type[nn.Module]) -> None:
    model = tower(kind)
    with reading(model, weights=True) as trace:
        model(tokens())
    assert list(trace) == [inner(kind, layer) for layer in range(3)]
    for path, layer in trace.items():
        assert layer.path == path
        assert layer.module is model.get_submodule(path)
        assert layer.weights.shape == (3, HEADS, TOKENS, TOKENS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", [None, (1,), (0, 2)])
@pytest.mark.parametrize("weights", [True, False])
def test_reading_does_not_move_the_output(kind, chosen, weights: bool) -> None:
    model, x = tower(kind), tokens()
    paths = None if chosen is None else [inner(kind, layer) for layer in chosen]
    with torch.no_grad(), reading(model, paths, weights=weights) as trace:
        inside = model(x)
    torch.testing.assert_close(inside, model(x).detach(), rtol=0, atol=1e-13)
    assert list(trace) == (paths or [inner(kind, layer) for layer in range(3)])


def test_a_module_that_calls_twice_has_two_entries() -> None:
    class Twice(SelfAttention):
        def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            once = super().attend(query, key, value)
            return super().attend(once, key, value)

    model = tower(Twice, depth=1)
    with reading(model, weights=True) as trace:
        model(tokens())
    assert list(trace) == [attn(0), attn(0) + "#1"]
    torch.testing.assert_close(trace[attn(0) + "#1"].query, trace[attn(0)].output)
    with reading(model, [attn(0) + "#1"], weights=True) as second:
        model(tokens())
    assert list(second) == [attn(0) + "#1"]
    torch.testing.assert_close(
        second[attn(0) + "#1"].weights, trace[attn(0) + "#1"].weights, rtol=0, atol=1e-13
    )


def test_a_shared_module_is_read_each_time_and_its_other_name_is_explained() -> None:
    model = tower(depth=3)
    model.blocks[2] = model.blocks[0]
    with reading(model) as trace:
        model(tokens())
    assert list(trace) == [attn(0), attn(1), attn(0) + "#1"]
    with (
        pytest.raises(ReadingError, match=r"'blocks\.2\.attn'.*same module as 'blocks\.0\.attn'"),
        reading(model, [attn(2)]),
    ):
        pass


def test_a_function_imported_by_name_is_read_too() -> None:
    class ByName(SelfAttention):
        def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return FUSED(query, key, value)

    model, x = tower(ByName), tokens()
    with reading(model, [attn(1)], weights=True) as trace, reading(model) as other:
        inside = model(x)
    torch.testing.assert_close(inside, model(x), rtol=0, atol=1e-13)
    assert list(trace) == [attn(1)]
    assert list(other) == [attn(0), attn(1), attn(2)]


def test_a_call_belongs_to_its_innermost_module_whatever_was_asked_for() -> None:
    model = tower()
    with (
        pytest.raises(
            ReadingError, match=r"no attention passed through 'blocks\.1' .*blocks\.1\.attn"
        ),
        reading(model, ["blocks.1"]),
    ):
        model(tokens())


# --- what is not read stays as fast as it was -----------------------------------------------


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    calls: list[None] = []
    original = getattr(owner, name)

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_layers_that_are_not_read_keep_their_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, torch, "_native_multi_head_attention")
    model = tower(MultiHead, depth=5)
    with torch.no_grad():
        model(tokens())
        assert len(calls) == 5
        with reading(model, [inner(MultiHead, 4)], weights=True, start=inner(MultiHead, 4)):
            model(tokens())
        assert len(calls) == 5 + 4
        with reading(model):
            model(tokens())
        assert len(calls) == 5 + 4


def test_weights_are_formed_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tower(depth=5)
    formed = count_calls(monkeypatch, AttentionCall, "softmax")
    with reading(model, [attn(4)], weights=True) as trace:
        model(tokens())
    assert len(formed) == 1
    with reading(model) as trace:
        model(tokens())
    assert len(formed) == 1
    assert all(layer.weights is None for layer in trace.layers)
    with reading(model, [attn(1)], weights=True) as one, reading(model, [attn(3)]) as none:
        model(tokens())
    assert one[attn(1)].weights is not None
    assert none[attn(3)].weights is None
    assert len(formed) == 2


# --- nn.MultiheadAttention in every mode ----------------------------------------------------

MODES = {
    "plain": {},
    "time first": {"batch_first": False},
    "other key and value widths": {"kdim": 11, "vdim": 13},
    "bias for key and value": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": False},
    "no bias": {"bias": False},
}


def multi_head(seed: int = 0, **settings: object) -> nn.MultiheadAttention:
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **settings})
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention.eval().double()


def compare(attention: nn.MultiheadAttention, *args: Tensor, **kwargs: object) -> None:
    """Outputs and returned weights inside a reading are those outside it; the trace agrees."""
    outside, outside_weights = attention(*args, **kwargs)
    for weights, grad in ((True, False), (False, True)):
        with torch.set_grad_enabled(grad), reading(attention, weights=weights) as trace:
            inside, inside_weights = attention(*args, **kwargs)
        torch.testing.assert_close(inside, outside, rtol=0, atol=1e-12, check_dtype=True)
        if outside_weights is None:
            assert inside_weights is None
        else:
            torch.testing.assert_close(inside_weights, outside_weights, rtol=0, atol=1e-12)
        read = trace[""].weights
        assert (read is None) is not weights
        if weights and outside_weights is not None:
            if read.numel() != outside_weights.numel():
                read = read.mean(1)
            torch.testing.assert_close(read.reshape(outside_weights.shape), outside_weights)


@pytest.mark.parametrize("settings", MODES.values(), ids=MODES)
@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("masks", ["none", "2-D", "3-D", "float", "padding", "both"])
def test_multi_head_attention_is_as_outside_in_every_mode(
    settings: dict[str, object], asked: dict[str, object], batched: bool, masks: str
) -> None:
    attention, batch = multi_head(**settings), 3 if batched else 1
    shapes = {"float": (QUERIES, KEYS), "2-D": (QUERIES, KEYS), "both": (QUERIES, KEYS)}
    shapes["3-D"] = (batch * HEADS, QUERIES, KEYS)
    kwargs = dict(asked)
    if masks in shapes:
        mask = ~keep(*shapes[masks])  # True is masked here
        mask = (
            torch.randn(mask.shape).double().masked_fill(mask, -torch.inf)
            if masks == "float"
            else mask
        )
        kwargs["attn_mask"] = mask
    if masks in ("padding", "both"):
        padding = ~keep(batch, KEYS, seed=5)
        kwargs["key_padding_mask"] = padding if batched else padding[0]
    torch.manual_seed(1)
    query = torch.randn(batch, QUERIES, WIDTH).double()
    key = torch.randn(batch, KEYS, settings.get("kdim", WIDTH)).double()
    value = torch.randn(batch, KEYS, settings.get("vdim", WIDTH)).double()
    args = [query, key, value]
    if not batched:
        args = [each[0] for each in args]
    elif not settings.get("batch_first", True):
        args = [each.transpose(0, 1) for each in args]
    compare(attention, *args, **kwargs)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_takes_the_causal_hint(need_weights: bool) -> None:
    x, mask = tokens(), nn.Transformer.generate_square_subsequent_mask(TOKENS, dtype=torch.float64)
    compare(multi_head(), x, x, x, attn_mask=mask, is_causal=True, need_weights=need_weights)


def test_multi_head_attention_takes_its_settings_by_position() -> None:
    x = tokens()
    compare(multi_head(), x, x, x, None, True, None, False)
    compare(multi_head(), x, x, x, ~keep(3, TOKENS), False)


def test_a_foreign_hook_sees_the_arguments_as_the_model_gave_them() -> None:
    attention, x, seen = multi_head(), tokens(), []
    with reading(attention):
        handle = attention.register_forward_hook(lambda _, args, __: seen.append(len(args)))
        attention(x, x, x)
        handle.remove()
    assert seen == [3]


def test_weights_given_up_by_a_failed_call_are_not_handed_to_the_next() -> None:
    attention, x = multi_head(), tokens()
    with reading(attention):
        with pytest.raises(AssertionError, match="does not match value shape"):
            attention(x, x[:, :, 1:], x)
        assert attention(x, x, x, need_weights=False)[1] is None


# --- gradients ------------------------------------------------------------------------------


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


# --- nested readings, threads ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_outer_intervention_is_part_of_the_model_that_is_read(kind: type[nn.Module]) -> None:
    model, x = tower(kind), tokens()
    change = {inner(kind, 1): interventions.knock_out([1])}
    with reading(model, interventions=change) as outer:
        changed = model(x)
    with reading(model, [], interventions=change), reading(model, weights=True) as trace:
        nested = model(x)
    torch.testing.assert_close(nested, changed, rtol=0, atol=1e-13)
    assert (nested - model(x)).abs().max() > 1e-3
    assert trace[inner(kind, 1)].output[:, 1].count_nonzero() == 0
    torch.testing.assert_close(trace[inner(kind, 2)].output, outer[inner(kind, 2)].output)
    assert list(trace) == list(outer)


def test_an_outer_intervention_comes_before_an_inner_one() -> None:
    model, x, order = tower(), tokens(), []

    def named(name: str) -> Callable[[AttentionCall], AttentionCall]:
        return lambda call: order.append(name) or call

    with (
        reading(model, [], interventions={attn(0): named("outer")}),
        reading(model, interventions={attn(0): named("inner")}),
    ):
        model(x)
    assert order == ["outer", "inner"]


@pytest.mark.parametrize("kind", KINDS)
def test_nested_readings_of_parts_and_whole_close_in_any_order(kind: type[nn.Module]) -> None:
    model, x = tower(kind), tokens()
    expected = model(x)
    for outer, inside in [(None, (1, 2)), ((1, 2), None), ((0,), ()), ((), (0,)), ((0,), (1, 2))]:
        paths = [
            each if each is None else [inner(kind, layer) for layer in each]
            for each in (outer, inside)
        ]
        with reading(model, paths[0]) as first, reading(model.blocks, weights=True) as part:
            with reading(model, paths[1], weights=True) as second:
                torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-13)
            assert len(_get_current_function_mode_stack()) == 0
        every = [inner(kind, layer) for layer in range(3)]
        assert list(first) == (every if paths[0] is None else paths[0])
        assert list(second) == (every if paths[1] is None else paths[1])
        assert [f"blocks.{path}" for path in part] == every
    tidy(model)


def in_step(*jobs: Callable[[threading.Barrier], object]) -> list[object]:
    barrier = threading.Barrier(len(jobs), timeout=20)
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job, barrier) for job in jobs]]


def reader(model: Tower, kind: type[nn.Module], x: Tensor, layer: int, rounds: int):
    """A job that reads one layer again and again, with gradients, beside another thread."""
    path = inner(kind, layer)
    with reading(model, [path], weights=True, start=path) as alone:
        embedding = model(x)
        (expected,) = torch.autograd.grad(embedding.square().sum(), alone[path].weights)

    def job(barrier: threading.Barrier) -> None:
        for _ in range(rounds):
            with reading(model, [path], weights=True, start=path) as trace:
                barrier.wait()
                again = model(x)
                (gradient,) = torch.autograd.grad(again.square().sum(), trace[path].weights)
                barrier.wait()
            assert list(trace) == [path]
            assert again.equal(embedding)
            assert trace[path].weights.equal(alone[path].weights)
            assert gradient.equal(expected)
            assert torch.is_grad_enabled()
            assert _get_current_function_mode_stack() == []

    return job


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_reading_two_models_do_not_see_each_other(kind: type[nn.Module]) -> None:
    first, second = tower(kind), tower(kind, seed=7)
    in_step(
        reader(first, kind, tokens(), 1, rounds=10),
        reader(second, kind, tokens(seed=8), 2, rounds=10),
    )
    tidy(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_reading_the_same_model_do_not_see_each_other(kind: type[nn.Module]) -> None:
    model = tower(kind)
    in_step(
        reader(model, kind, tokens(), 1, rounds=10),
        reader(model, kind, tokens(seed=8), 1, rounds=10),
    )
    tidy(model)


def test_a_thread_that_does_not_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tower(MultiHead), tokens()
    change = {inner(MultiHead, layer): interventions.knock_out([0, 1]) for layer in range(3)}
    with torch.no_grad():
        expected = model(x)
    fast = count_calls(monkeypatch, torch, "_native_multi_head_attention")

    def reads(barrier: threading.Barrier) -> int:
        with torch.no_grad(), reading(model, interventions=change) as trace:
            barrier.wait()
            model(x)
            barrier.wait()
        return len(trace)

    def does_not(barrier: threading.Barrier) -> Tensor:
        with torch.no_grad():
            barrier.wait()
            result = model(x)
            barrier.wait()
        return result

    read, result = in_step(reads, does_not)
    assert read == 3
    assert result.equal(expected)
    assert len(fast) == 3


def test_a_hook_that_goes_while_another_thread_is_about_to_call_it_does_no_harm() -> None:
    """Torch forgets at once that a removed hook takes keyword arguments, and still calls it."""
    model, x = tower(depth=1), tokens()
    arrived, gone = threading.Event(), threading.Event()
    main = threading.get_ident()

    def stop(*_: object) -> None:
        if threading.get_ident() != main:
            arrived.set()
            assert gone.wait(20)

    for register in (model.register_forward_pre_hook, model.register_forward_hook):
        arrived.clear()
        gone.clear()
        handle = register(stop)  # runs before the reading's own hook
        with ThreadPoolExecutor(1) as pool:
            with reading(model):
                future = pool.submit(model, x)
                assert arrived.wait(20)
            gone.set()
            assert future.result().equal(model(x))
        handle.remove()


def test_a_reading_goes_on_when_another_thread_closes_its_own() -> None:
    model, x, closed = tower(), tokens(), threading.Event()

    def opens_and_closes(barrier: threading.Barrier) -> None:
        with reading(model):
            barrier.wait()
        closed.set()

    def goes_on(barrier: threading.Barrier) -> int:
        with reading(model) as trace:
            barrier.wait()
            assert closed.wait(20)
            model(x)
            assert F.scaled_dot_product_attention is not FUSED
        return len(trace)

    assert in_step(opens_and_closes, goes_on)[1] == 3


def test_readings_that_come_and_go_never_disturb_another_thread() -> None:
    model, x, done = tower(), tokens(), threading.Event()
    expected, interval = model(x), sys.getswitchinterval()

    def come_and_go() -> None:
        while not done.is_set():
            with reading(model, [attn(1)]):
                pass_through = model(x)
            torch.testing.assert_close(pass_through, expected, rtol=0, atol=1e-13)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(come_and_go)
            for _ in range(40):
                assert model(x).equal(expected)
            done.set()
            future.result()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    tidy(model)


# --- nothing left behind --------------------------------------------------------------------


class Fails(nn.Module):
    """Raises in the middle of the pass, after a first attention call."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.first, self.error = SelfAttention(), error

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        raise self.error("on purpose")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("start", [None, "blocks.1.attn.first"])
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_stays_after_an_error_inside_the_forward_pass(error, start, grad: bool) -> None:
    model, whole = tower(), tower()
    model.blocks[1].attn = Fails(error).eval().double()
    with torch.set_grad_enabled(grad):
        with pytest.raises(error, match="on purpose"), reading(model, weights=True, start=start):
            model(tokens())
        tidy(model)
        assert torch.is_grad_enabled() is grad
        with reading(whole) as trace:
            whole(tokens())
        assert len(trace) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_after_an_error_of_the_caller(error: type[BaseException]) -> None:
    model = tower()

    def fail(_: Tensor) -> None:
        raise error

    with pytest.raises(error), reading(model, start=attn(1)):
        fail(model(tokens()))
    tidy(model)


def test_nothing_stays_after_an_error_in_an_intervention_or_a_wrong_path() -> None:
    model = tower()
    with (
        pytest.raises(ReadingError),
        reading(model, interventions={attn(0): interventions.knock_out([9])}),
    ):
        model(tokens())
    tidy(model)
    with pytest.raises(ReadingError), reading(model, ["nowhere"]):
        pass
    tidy(model)


def test_nothing_stays_after_an_interrupt_in_nested_readings() -> None:
    model = tower()
    model.blocks[1].attn = Fails(KeyboardInterrupt).eval().double()
    with reading(model.blocks[0]) as part, reading(model, [attn(2)]):
        with (
            pytest.raises(KeyboardInterrupt),
            reading(model),
            reading(model.blocks, weights=True),
        ):
            model(tokens())
        model.blocks[1].attn = tower().blocks[1].attn
        model(tokens())
    assert next(iter(part)) == "attn"
    tidy(model)


def test_an_error_that_the_model_catches_leaves_the_reading_in_step() -> None:
    class Falls(SelfAttention):
        def __init__(self) -> None:
            super().__init__()
            self.broken = Fails(RuntimeError)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.broken(x)
            except RuntimeError:
                return super().forward(x)

    model, x = tower(Falls, depth=2), tokens()
    with reading(model) as trace:
        inside = model(x)
    torch.testing.assert_close(inside, model(x), rtol=0, atol=1e-13)
    assert list(trace) == [
        f"blocks.{n}.attn{part}" for n in (0, 1) for part in (".broken.first", "")
    ]
    tidy(model)


def test_a_failing_hook_of_somebody_else_leaves_the_reading_in_step() -> None:
    class Forgiving(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            try:
                self.proj(x)
            except ZeroDivisionError:
                handle.remove()
            return super().forward(x)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    model = tower(Forgiving, depth=1)
    handle = model.blocks[0].attn.proj.register_forward_pre_hook(fail)
    with reading(model) as trace:
        model(tokens())
    assert list(trace) == [attn(0)]


def test_what_stood_in_place_of_the_function_stands_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_calls(monkeypatch, F, "scaled_dot_product_attention")
    foreign, model = F.scaled_dot_product_attention, tower()
    with reading(model):
        model(tokens())
    assert F.scaled_dot_product_attention is foreign
    assert len(calls) == 3


def test_a_model_that_was_read_is_freed() -> None:
    model = tower()
    with reading(model, weights=True) as trace:
        model(tokens())
    freed = []
    torch.utils.weak.weakref.finalize(model.blocks[0].attn, freed.append, True)
    del model, trace
    gc.collect()
    assert freed


# --- precision ------------------------------------------------------------------------------

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


# --- errors that say what to do -------------------------------------------------------------


def test_compiled_models_are_refused() -> None:
    message = "is compiled by torch.compile, which hides its attention; pass the module that was"
    model = tower()
    wrapped = torch.compile(model, backend="eager")
    with pytest.raises(ReadingError, match=message), reading(wrapped):
        pass
    holder = nn.Sequential(wrapped).eval()
    with pytest.raises(ReadingError, match=f"module '0' {message}"), reading(holder):
        pass
    model.forward = torch.compile(model.forward, backend="eager")
    with pytest.raises(ReadingError, match=f"the model {message}"), reading(model):
        pass


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_is_refused(how: str) -> None:
    part = nn.Linear(3, 3).eval()
    scripted = torch.jit.trace(part, torch.ones(1, 3)) if how == "trace" else torch.jit.script(part)
    with (
        pytest.raises(ReadingError, match=r"the model is TorchScript.*pass the Python model"),
        reading(scripted),
    ):
        pass
    holder = nn.Sequential(nn.Identity(), scripted).eval()
    with pytest.raises(ReadingError, match="module '1' is TorchScript"), reading(holder):
        pass


def test_training_mode_is_refused_wherever_it_is() -> None:
    model = tower()
    model.blocks[1].mlp.train()
    with (
        pytest.raises(
            ReadingError, match=r"module 'blocks\.1\.mlp' is in training.*model\.eval\(\)"
        ),
        reading(model),
    ):
        pass
    model.train()
    with pytest.raises(ReadingError, match=r"the model is in training mode"), reading(model):
        pass


def test_dropout_that_is_on_is_refused() -> None:
    call = Call().eval()
    with pytest.raises(ReadingError, match=r"attention dropout of 0\.25 is on"), reading(call):
        call(*operands(), dropout_p=0.25)


def test_a_wrong_path_is_named() -> None:
    model = tower()
    for settings in ({"paths": ["blocks.9.attn"]}, {"start": "blocks.9.attn"},
                     {"interventions": {"blocks.9.attn": interventions.identity()}}):  # fmt: skip
        with (
            pytest.raises(ReadingError, match=r"no module 'blocks\.9\.attn'"),
            reading(model, **settings),
        ):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_no_attention_passes_is_named_with_those_that_it_does(kind) -> None:
    model = tower(kind)
    message = rf"no attention passed through 'blocks\.1\.mlp'.*{inner(kind, 0)!r}"
    for settings in ({"paths": ["blocks.1.mlp", inner(kind, 0)]},
                     {"start": "blocks.1.mlp"},
                     {"interventions": {"blocks.1.mlp": interventions.identity()}}):  # fmt: skip
        if "paths" not in settings:
            settings["paths"] = [inner(kind, 0)]
        with pytest.raises(ReadingError, match=message), reading(model, **settings):
            model(tokens())


def test_an_intervention_is_missed_even_where_no_attention_passes_at_all() -> None:
    model = nn.Sequential(nn.Linear(3, 3)).eval()
    with (
        pytest.raises(ReadingError, match=r"no attention passed through '0'.*no other path"),
        reading(model, interventions={"0": interventions.identity()}),
    ):
        model(torch.ones(1, 3))


def test_gradients_inside_inference_mode_are_refused() -> None:
    model = tower()
    with torch.inference_mode():
        with (
            pytest.raises(ReadingError, match=r"inside torch\.inference_mode"),
            reading(model, start=attn(1)),
        ):
            pass
        with reading(model, weights=True) as trace:
            model(tokens())
    assert len(trace) == 3


def test_operands_of_another_rank_are_refused() -> None:
    call = Call().eval()
    query, key, value = (each.unsqueeze(0) for each in operands())
    with (
        pytest.raises(ReadingError, match=r"shape \(1, 2, 3, 5, 11\), expected \(batch"),
        reading(call),
    ):
        call(query, key, value)
