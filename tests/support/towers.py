"""Small towers that call attention in a known way, for the tests of reading."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heatproof.reading import AttentionCall, Intervention

WIDTH, HEADS, TOKENS = 14, 2, 5


class Call(nn.Module):
    """One bare call of torch's function."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **settings: object) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **settings)


class SelfAttention(nn.Module):
    """Fused self-attention with its projections."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.attend(query, key, value).transpose(1, 2).flatten(2))


class WrittenOut(SelfAttention):
    """The same, written out as softmax and product."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.softmax(-1) @ value


class MultiHead(nn.Module):
    """The same through `nn.MultiheadAttention`, which has a fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), attention(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + F.gelu(self.mlp(x))


class Tower(nn.Module):
    """Blocks of attention and an MLP; the mean token comes out."""

    def __init__(self, attention: type[nn.Module] = SelfAttention, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(attention) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


def tower(attention: type[nn.Module] = SelfAttention, depth: int = 3, seed: int = 0) -> Tower:
    torch.manual_seed(seed)
    return Tower(attention, depth).eval().double()


def tokens(batch: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, TOKENS, WIDTH, generator=generator, dtype=torch.float64)


def replaced_weights(weights: Tensor) -> Intervention:
    """`weights` in place of the softmax of queries and keys; rows need not sum to one."""

    def intervene(call: AttentionCall) -> AttentionCall:
        size = (*call.query.shape[:3], call.key.shape[2])
        return call.change(weights=weights.to(call.value.device).expand(size))

    return intervene


def attn(layer: int) -> str:
    """The path of a layer's attention."""
    return f"blocks.{layer}.attn"
