"""What a trace says is what the model computed, and what is not read stays fast."""

import pytest
import torch
from torch import Tensor, nn

from attention_by_hand import attended, attention_weights
from heatproof.errors import ReadingError
from heatproof.reading import AttentionCall, reading
from reading_cases import (
    BATCH,
    CHANNELS,
    FUSED,
    KEYS,
    KINDS,
    QUERIES,
    additive,
    count_calls,
    half_dead,
    inner,
    keep,
    multi_head,
    operands,
)
from towers import (
    HEADS,
    TOKENS,
    WIDTH,
    Call,
    MultiHead,
    SelfAttention,
    attn,
    tokens,
    tower,
)

# --- what is read is what was computed ----------------------------------------------------


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


# --- what is not read stays as fast as it was ---------------------------------------------


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


# --- nn.MultiheadAttention in every mode --------------------------------------------------


MODES = {
    "plain": {},
    "time first": {"batch_first": False},
    "other key and value widths": {"kdim": 11, "vdim": 13},
    "bias for key and value": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": False},
    "no bias": {"bias": False},
}


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
