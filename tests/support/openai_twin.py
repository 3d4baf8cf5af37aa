"""A model with the classes, names and layout of OpenAI's `clip` package, written for the tests.

The package itself, as PyPI has it, needs `pkg_resources`, which setuptools has given up. What
matters is here: its class is called CLIP in `clip.model`; blocks keep tokens first, (token, image,
channel); parameters have the names that open_clip took over.
"""

from collections import OrderedDict
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from heatproof.models.tokenizers import CLIP_VOCABULARY

SIZE, PATCH, WIDTH, DIM = 21, 7, 64, 17  # of `twin`, a tiny one
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)  # tokens first
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = [nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)]
        self.mlp = nn.Sequential(OrderedDict(zip(("c_fc", "gelu", "c_proj"), parts, strict=True)))
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.mask is None else self.mask.to(x)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mask: Tensor | None = None) -> None:
        super().__init__()
        blocks = [ResidualAttentionBlock(width, heads, mask) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x.transpose(0, 1)).transpose(0, 1)


class VisionTransformer(nn.Module):
    def __init__(self, size: int, patch: int, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.input_resolution = size
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        tokens = (size // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(torch.randn(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, 2, heads)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, dim))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class CLIP(nn.Module):
    """A CLIP of OpenAI's layout around any image tower with an `input_resolution`."""

    def __init__(self, visual: Any, context: int, vocabulary: int, width: int, dim: int) -> None:
        super().__init__()
        self.context_length, self.vocab_size = context, vocabulary
        self.visual = visual
        mask = torch.full((context, context), -torch.inf).triu(1)
        self.transformer = Transformer(width, 2, 2, mask)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, dim))
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(len(x)), text.argmax(-1)] @ self.text_projection


CLIP.__module__ = "clip.model"


def twin() -> CLIP:
    """Return a tiny one with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        visual = VisionTransformer(SIZE, PATCH, WIDTH, 2, DIM)
        return CLIP(visual, 77, CLIP_VOCABULARY, 24, DIM).eval()


def transform(size: int) -> Any:
    """What `clip._transform` does."""
    return transforms.Compose(
        [
            transforms.Resize(size, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def tokenize(texts: list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """What `clip.tokenize` does: texts that are too long are an error unless they may be cut."""
    codec = SimpleTokenizer(context_length=context_length)
    for text in texts:
        if len(codec.encode(text)) > context_length - 2 and not truncate:
            raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return codec(texts, context_length)


tokenize.__module__ = "clip.clip"
