"""Each intervention against the same thing done by hand, on every way of calling attention."""

import math
from collections.abc import Callable

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_by_hand import attended, attention_weights
from heatproof.errors import ReadingError
from heatproof.reading import AttentionCall, Intervention, interventions, reading
from towers import (
    HEADS,
    TOKENS,
    WIDTH,
    Call,
    MultiHead,
    SelfAttention,
    WrittenOut,
    attn,
    replaced_weights,
    tokens,
    tower,
)

BATCH, HEAD_COUNT, QUERIES, KEYS, CHANNELS, VALUES = 2, 3, 5, 7, 11, 13
KEEP = torch.tensor([[True, True, False, True, False, True, True]])
LOWER = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(2)
FLOAT = torch.linspace(-2, 2, QUERIES * KEYS, dtype=torch.float64).reshape(QUERIES, KEYS)


class EagerCall(nn.Module):
    """One call, written out."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **settings: object) -> Tensor:
        scores = query @ key.mT * settings.get("scale", query.shape[-1] ** -0.5)
        mask = settings.get("attn_mask")
        if settings.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            scores = (
                scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
            )
        return F.softmax(scores, -1) @ value


MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "bool": {"attn_mask": LOWER},
    "float": {"attn_mask": FLOAT},
    "scale": {"scale": 0.7},
}


def operands(values: int = VALUES, keys: int = KEYS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(QUERIES, CHANNELS), (keys, CHANNELS), (keys, values)]
    return tuple(
        torch.randn(BATCH, HEAD_COUNT, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    )


def changed(
    call: nn.Module, change: Intervention, *args: Tensor, weights: bool = False, **settings: object
) -> Tensor:
    call.eval()
    with reading(call, weights=weights, interventions={"": change}):
        return call(*args, **settings)


def by_hand(query: Tensor, key: Tensor, **settings: object) -> Tensor:
    return attention_weights(
        query, key, settings.get("attn_mask"), scale=settings.get("scale"),
        causal=bool(settings.get("is_causal")),
    )  # fmt: skip


def side_by_side(tensor: Tensor) -> Tensor:
    """Heads as neighbouring channels of one head."""
    return torch.cat([tensor[:, h] for h in range(tensor.shape[1])], -1)[:, None]


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


both = pytest.mark.parametrize("call", [Call(), EagerCall()], ids=["fused", "written out"])
masked = pytest.mark.parametrize("settings", MASKS.values(), ids=MASKS)
formed = pytest.mark.parametrize("weights", [True, False], ids=["weights", "no weights"])


@both
@masked
@formed
@pytest.mark.parametrize("scale", ["full", "head"])
def test_one_head_is_a_softmax_over_the_full_width(call, settings, weights, scale) -> None:
    query, key, value = operands()
    factor = 1 / math.sqrt(HEAD_COUNT * CHANNELS)
    if scale == "head":
        factor = settings.get("scale", 1 / math.sqrt(CHANNELS))
    mine = {**settings, "scale": factor}
    one = by_hand(side_by_side(query), side_by_side(key), **mine)
    wide = attended(one, side_by_side(value))
    expected = wide[:, 0].unflatten(-1, (HEAD_COUNT, VALUES)).transpose(1, 2)
    inside = changed(
        call, interventions.one_head(scale), query, key, value, weights=weights, **settings
    )
    same(inside, expected)


@pytest.mark.parametrize("shape", [(1, 1), (HEAD_COUNT, 1), (1, BATCH), (HEAD_COUNT, BATCH)])
def test_one_head_takes_a_mask_that_all_heads_share(shape: tuple[int, int]) -> None:
    heads, batch = shape
    query, key, value = operands()
    mask = LOWER.expand(batch, heads, QUERIES, KEYS).contiguous()
    args = (interventions.one_head(), query, key, value)
    expected = changed(Call(), *args, attn_mask=LOWER)
    same(changed(Call(), *args, attn_mask=mask), expected)
    if batch == 1:
        same(changed(Call(), *args, attn_mask=mask[0]), expected)
    same(changed(Call(), *args, attn_mask=mask.double().log()), expected)


@pytest.mark.parametrize("batched", [True, False])
def test_one_head_refuses_masks_that_differ_by_head(batched: bool) -> None:
    mask = torch.stack([LOWER, LOWER, ~LOWER])
    mask = mask.expand(BATCH, 3, QUERIES, KEYS) if batched else mask
    with pytest.raises(ReadingError, match=r"''.*one head cannot take 3 different masks"):
        changed(Call(), interventions.one_head(), *operands(), attn_mask=mask)


@both
@formed
def test_replaced_weights_stand_in_for_the_softmax(call: nn.Module, weights: bool) -> None:
    query, key, value = operands()
    given = torch.randn(BATCH, HEAD_COUNT, QUERIES, KEYS).double()
    for mine in (given, given[:1], given[:, :1], given[:1, :1]):
        inside = changed(call, replaced_weights(mine), query, key, value, weights=weights)
        same(inside, attended(mine.expand(given.shape), value))


@both
@formed
def test_values_attend_to_values(call: nn.Module, weights: bool) -> None:
    query, key, value = operands(CHANNELS, QUERIES)
    for settings in ({}, {"is_causal": True}, {"scale": 0.7}):
        expected = attended(by_hand(value, value, **settings), value)
        change = interventions.self_attention("value")
        same(changed(call, change, query, key, value, weights=weights, **settings), expected)


@both
@formed
def test_identity_hands_the_values_through(call: nn.Module, weights: bool) -> None:
    query, key, value = operands(keys=QUERIES)
    same(changed(call, interventions.identity(), query, key, value, weights=weights), value)
    with pytest.raises(ReadingError, match="as many queries as keys, got 5 and 7"):
        changed(call, interventions.identity(), *operands())


@both
@masked
@formed
def test_knocked_out_heads_give_nothing_and_the_others_what_they_gave(
    call, settings, weights
) -> None:
    query, key, value = operands()
    expected = attended(by_hand(query, key, **settings), value)
    for heads in ([], [1], [0, 2], [0, 1, 2]):
        inside = changed(
            call, interventions.knock_out(heads), query, key, value, weights=weights, **settings
        )
        for head in range(HEAD_COUNT):
            same(inside[:, head], expected[:, head] * (head not in heads))
    for wrong in (3, -1):
        with pytest.raises(ReadingError, match=f"no head {wrong}: this call has heads 0 to 2"):
            changed(call, interventions.knock_out([wrong]), query, key, value)


@both
@masked
@formed
def test_masked_keys_are_as_if_they_were_not_there(call, settings, weights) -> None:
    query, key, value = operands()
    inside = changed(
        call, interventions.masked_keys(KEEP), query, key, value, weights=weights, **settings
    )
    left, mine = KEEP[0].nonzero().flatten(), dict(settings)
    if mine.pop("is_causal", False):
        mine["attn_mask"] = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril()
    if "attn_mask" in mine:
        mine["attn_mask"] = mine["attn_mask"][:, left]
    expected = attended(by_hand(query, key[:, :, left], **mine), value[:, :, left])
    same(inside, expected)


@formed
def test_masked_keys_may_differ_by_input(weights: bool) -> None:
    query, key, value = operands()
    keep = torch.cat([KEEP, ~KEEP])
    inside = changed(Call(), interventions.masked_keys(keep), query, key, value, weights=weights)
    for n in range(BATCH):
        left = keep[n].nonzero().flatten()
        some = (query[n : n + 1], key[n : n + 1, :, left], value[n : n + 1, :, left])
        same(inside[n : n + 1], attended(by_hand(*some[:2]), some[2]))
    with pytest.raises(ReadingError, match="a mask of 5 keys for 7 keys"):
        changed(Call(), interventions.masked_keys(KEEP[:, :5]), query, key, value)


def test_masked_keys_leave_a_row_that_has_none_at_zero() -> None:
    query, key, value = operands(keys=QUERIES)
    keep = torch.tensor([[True, True, False, True, True]])
    hide = interventions.masked_keys(keep)
    inside = changed(Call(), interventions.chain(interventions.identity(), hide), query, key, value)
    same(inside, value * keep[0, :, None])
    for weights in (True, False):
        nothing = interventions.masked_keys(keep & ~keep)
        inside = changed(Call(), nothing, query, key, value, weights=weights)
        assert inside.count_nonzero() == 0


def test_masked_keys_keep_the_sum_of_weights_that_were_set() -> None:
    query, key, value = operands()
    given = torch.rand(BATCH, HEAD_COUNT, QUERIES, KEYS).double()
    change = interventions.chain(replaced_weights(given), interventions.masked_keys(KEEP))
    expected = given * KEEP
    expected = expected * given.sum(-1, keepdim=True) / expected.sum(-1, keepdim=True)
    same(changed(Call(), change, query, key, value), attended(expected, value))


@both
def test_a_chain_runs_first_to_last(call: nn.Module) -> None:
    query, key, value = operands(CHANNELS, QUERIES)
    keep = KEEP[:, :QUERIES]
    wide, hide = interventions.one_head(), interventions.masked_keys(keep)
    expected = changed(Call(), wide, query, key, value, attn_mask=keep.expand(QUERIES, -1))
    for change in (interventions.chain(wide, hide), interventions.chain(hide, wide)):
        same(changed(call, change, query, key, value), expected)
    out, ident = interventions.knock_out([0, 1]), interventions.identity()
    given = replaced_weights(torch.rand(QUERIES, QUERIES).double()[None, None])
    last_wins = changed(call, interventions.chain(given, ident), query, key, value)
    same(last_wins, value)
    same(changed(call, interventions.chain(ident, out), query, key, value)[:, 2], value[:, 2])


# --- settings that change nothing, in whole towers ------------------------------------------

KINDS = [SelfAttention, WrittenOut, MultiHead]
NOTHING: dict[str, Callable[[Tensor], Intervention]] = {
    "no head": lambda _: interventions.knock_out([]),
    "its own weights": replaced_weights,
    "every key": lambda _: interventions.masked_keys(torch.ones(1, TOKENS, dtype=torch.bool)),
    "an empty chain": lambda _: interventions.chain(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", NOTHING.values(), ids=NOTHING)
@formed
def test_settings_that_change_nothing_leave_the_output_alone(kind, change, weights: bool) -> None:
    model, x = tower(kind), tokens()
    with reading(model, weights=True) as trace:
        expected = model(x)
    changes = {path: change(layer.weights.detach()) for path, layer in trace.items()}
    with reading(model, weights=weights, interventions=changes):
        same(model(x), expected)


def test_one_head_of_a_single_headed_call_changes_nothing() -> None:
    query, key, value = (each[:, :1] for each in operands())
    for scale in ("full", "head"):
        same(
            changed(Call(), interventions.one_head(scale), query, key, value),
            attended(by_hand(query, key), value),
        )


@pytest.mark.parametrize("kind", KINDS)
@formed
def test_masking_keys_in_every_layer_is_removing_the_tokens(kind, weights: bool) -> None:
    model, x = tower(kind), tokens()
    keep = torch.tensor([[True, False, True, True, False]])
    path = "{}.attend" if kind is MultiHead else "{}"
    changes = {path.format(attn(n)): interventions.masked_keys(keep) for n in range(3)}
    outcome: list[Tensor] = []
    handle = model.blocks[2].register_forward_hook(lambda _, __, output: outcome.append(output))
    with reading(model, weights=weights, interventions=changes):
        model(x)
    model(x[:, keep[0]])
    handle.remove()
    same(outcome[0][:, keep[0]], outcome[1])


def test_masking_patches_of_a_clip_is_removing_them() -> None:
    torch.manual_seed(0)
    vision = {"image_size": 21, "patch_size": 7, "width": 22, "head_width": 11, "layers": 2}
    text = {"width": 26, "heads": 2, "layers": 2, "context_length": 7, "vocab_size": 31}
    visual = open_clip.CLIP(17, vision, text).eval().double().visual
    pixels = torch.rand(3, 3, 21, 21, dtype=torch.float64)
    keep = torch.tensor([[True, True, False, True, False, False, True, True, True, False]])
    paths = [f"transformer.resblocks.{n}.attn" for n in (0, 1)]
    with torch.no_grad():
        with reading(visual, interventions={p: interventions.masked_keys(keep) for p in paths}):
            masked_out = visual(pixels)
        dropping = visual.ln_pre.register_forward_pre_hook(lambda _, args: (args[0][:, keep[0]],))
        removed = visual(pixels)
        dropping.remove()
    same(masked_out, removed)
    assert (masked_out - visual(pixels)).abs().max() > 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_interventions_work_in_half_precision(dtype: torch.dtype, kind) -> None:
    model, whole, x = tower(kind, 2).to(dtype), tower(kind, 2), tokens()
    path = attn(1) + (".attend" if kind is MultiHead else "")
    keep = torch.tensor([[True, False, True, True, True]])
    for change in (
        interventions.one_head(),
        interventions.identity(),
        interventions.knock_out([0]),
        interventions.masked_keys(keep),
        interventions.self_attention("value"),
        replaced_weights(torch.full((1, 1, TOKENS, TOKENS), 0.25)),
    ):
        with reading(model, weights=dtype == torch.float16, interventions={path: change}):
            half = model(x.to(dtype))
        with reading(whole, weights=dtype == torch.float16, interventions={path: change}):
            full = whole(x)
        assert half.dtype == dtype
        torch.testing.assert_close(half.double(), full, rtol=0, atol=4e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_through_interventions(kind: type[nn.Module]) -> None:
    model, path = tower(kind), attn(1) + (".attend" if kind is MultiHead else "")
    with reading(
        model, [path], weights=True, start=path, interventions={path: interventions.one_head()}
    ) as trace:
        (gradient,) = torch.autograd.grad(model(tokens()).square().sum(), trace[path].weights)
    assert trace[path].heads == 1
    assert trace[path].value.shape == (3, 1, TOKENS, WIDTH)
    assert gradient.shape == (3, 1, TOKENS, TOKENS)
    assert gradient.count_nonzero() == gradient.numel()


def test_an_intervention_sees_the_call_as_the_model_made_it() -> None:
    seen: list[AttentionCall] = []
    query, key, value = operands()
    changed(Call(), lambda call: seen.append(call) or call, query, key, value, attn_mask=LOWER)
    (call,) = seen
    assert call.query is query
    assert call.mask is LOWER
    assert (call.scale, call.heads_out) == (CHANNELS**-0.5, HEAD_COUNT)
    assert call.weights is None
    assert HEADS != HEAD_COUNT
