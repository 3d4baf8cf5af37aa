"""Row weights with the fused kernel on: values and gradients of weights that are written out.

Seen to fail: with the wrong row, with the weights' value in place of nothing, and without the mask.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.engine import forward
from heatproof.methods.base import Method
from heatproof.models.model import Model
from heatproof.reading import reading

VIT = "open_clip vit"
METHODS = [
    methods.AttentionXGradient(),
    methods.AttentionECLIP(heads="model", spatial="attention", layers="all"),
    methods.AttentionECLIP(layers=2),
    methods.create("attention-grad-cam"),
    methods.create("raw-attention"),
]


def attention(query: Tensor, key: Tensor, value: Tensor, leaf: Tensor) -> Tensor:
    """Attention by hand, with something added to its weights."""
    weights = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, -1)
    return (weights + leaf) @ value


def test_the_leafs_gradient_is_that_of_weights_by_hand() -> None:
    """Two layers of attention in float64, each with its residual; another row for each item."""
    torch.manual_seed(0)
    state = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    rows = torch.tensor([3, 1])

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + F.scaled_dot_product_attention(x, 2 * x, x.flip(-1))

    model = torch.nn.Sequential(Layer(), Layer()).eval()
    with reading(model, ["0", "1"], weights=True, rows=rows, start="0") as trace:
        score = model(state).pow(3).sum()
    own = torch.autograd.grad(score, [layer.weights for layer in trace.layers])  # pyright: ignore
    leaves = [torch.zeros(2, 3, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = state
    for leaf in leaves:
        x = x + attention(x, 2 * x, x.flip(-1), leaf)
    by_hand = torch.autograd.grad(x.pow(3).sum(), leaves)
    assert float(score.detach()) == pytest.approx(float(x.detach().pow(3).sum()), rel=1e-12)
    for layer, found, expected in zip(trace.layers, own, by_hand, strict=True):
        assert layer.weights is not None
        assert layer.weights.shape == found.shape == (2, 3, 1, 5)
        wanted = torch.stack([grad[:, row] for grad, row in zip(expected, rows, strict=True)])
        torch.testing.assert_close(found.squeeze(2), wanted, rtol=1e-12, atol=1e-12)


def explained(model: Model, method: Method, side: str, images: Tensor) -> tuple[Tensor, ...]:
    prompts = ["a red circle", "two small blue stars left of a square"]
    if side == "image":
        width = model.image.encode(images[:1]).shape[1]
        texts = torch.randn(2, width, generator=torch.Generator().manual_seed(1)).to(images)
        made = heatproof.explain(model, images, texts, method=method)
        return made.maps, made.scores
    made = heatproof.explain_words(model, images, prompts, method=method)
    return torch.cat([one for row in made.maps for one in row]), made.scores


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.card.name)
@pytest.mark.parametrize("side", ["image", "text"])
def test_maps_are_those_of_weights_that_are_written_out(
    method: Method, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = heatproof.load("scenes")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if side == "image":  # else the last block runs on its row
        monkeypatch.setattr(forward.last_block, "fits", lambda *_: False)
    fused = explained(model, method, side, images)
    monkeypatch.setattr(forward.Reader, "_rows", lambda *_: None)
    written = explained(model, method, side, images)
    for one, other in zip(fused, written, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
