"""Attention is found by running the model; a model that has none to read says why."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from heatproof.errors import ReadingError
from heatproof.reading import AttentionLayer, find_attention_layers
from towers import HEADS, TOKENS, MultiHead, SelfAttention, WrittenOut, attn, tokens, tower

NATIVE = F.scaled_dot_product_attention


@pytest.mark.parametrize("kind", [SelfAttention, WrittenOut, MultiHead])
def test_sites_are_listed_in_order_with_their_sizes(kind: type[nn.Module]) -> None:
    model, x = tower(kind), tokens(batch=7)
    suffix = ".attend" if kind is MultiHead else ""
    assert find_attention_layers(model, lambda: model(x), 7) == tuple(
        AttentionLayer(attn(layer) + suffix, HEADS, TOKENS, TOKENS, f"blocks.{layer}")
        for layer in range(3)
    )


def test_sites_tell_queries_from_keys() -> None:
    class Pool(nn.Module):
        def forward(self, query: Tensor, key: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, key)

    pool, query, key = Pool().eval(), torch.ones(2, 3, 5, 7), torch.ones(2, 3, 11, 7)
    assert find_attention_layers(pool, lambda: pool(query, key), 2) == (
        AttentionLayer("", 3, 5, 11),
    )


def test_sites_are_those_of_the_tower_that_ran() -> None:
    model, x = nn.ModuleDict({"a": tower(), "b": tower()}).eval(), tokens()
    sites = find_attention_layers(model, lambda: model["b"](x), 3)
    assert [site.path for site in sites] == [f"b.{attn(layer)}" for layer in range(3)]


class LinearAttention(nn.Module):
    """Keys are softmaxed over tokens, queries over channels: no token-by-token weights exist."""

    def forward(self, x: Tensor) -> Tensor:
        query = key = value = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        context = key.softmax(-2).transpose(-2, -1) @ value
        return (query.softmax(-1) @ context).transpose(1, 2).flatten(2)


NONE = "no attention passed through torch's scaled_dot_product_attention in"


def test_linear_attention_is_left_alone_and_named() -> None:
    model, x = nn.Sequential(LinearAttention()).eval(), tokens()
    with pytest.raises(ReadingError, match=rf"{NONE} Sequential: .*linear attention.*try"):
        find_attention_layers(model, lambda: model(x), 3)


def test_a_convolutional_network_has_no_attention() -> None:
    model = torchvision.models.resnet18().eval()
    with pytest.raises(ReadingError, match=rf"{NONE} ResNet: it has none"):
        find_attention_layers(model, lambda: model(torch.rand(1, 3, 32, 32)), 1)


WINDOWED = r"is windowed or folded: \d+ groups of \d+ tokens for 2 input\(s\).*Swin"


def test_windowed_attention_of_torchvision_is_refused() -> None:
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 3], [5, 5]).eval()
    with pytest.raises(ReadingError, match=rf"'features\.1\.0\.attn' {WINDOWED}"):
        find_attention_layers(model, lambda: model(torch.rand(2, 3, 40, 40)), 2)


@pytest.mark.parametrize("fused", [True, False])
def test_windowed_attention_of_timm_is_refused(fused: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(2, 1), num_heads=(2, 3), embed_dim=12, img_size=56
    ).eval()
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused
    with pytest.raises(ReadingError, match=rf"'layers\.0\.blocks\.0\.attn' {WINDOWED}"):
        find_attention_layers(model, lambda: model(torch.rand(2, 3, 56, 56)), 2)


def test_nothing_stays_and_no_graph_is_made() -> None:
    model, grads = tower(), []

    def run() -> None:
        grads.append(model(tokens()).requires_grad)

    find_attention_layers(model, run, 3)
    assert grads == [False]
    assert torch.is_grad_enabled()
    with pytest.raises(ReadingError):
        find_attention_layers(model, run, 4)
    assert F.scaled_dot_product_attention is NATIVE
    assert _get_current_function_mode_stack() == []
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
