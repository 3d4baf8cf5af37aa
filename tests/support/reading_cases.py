"""Operands, masks and towers that several tests of reading share."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from towers import HEADS, WIDTH, MultiHead, SelfAttention, WrittenOut, attn

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


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    calls: list[None] = []
    original = getattr(owner, name)

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def multi_head(seed: int = 0, **settings: object) -> nn.MultiheadAttention:
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **settings})
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention.eval().double()
