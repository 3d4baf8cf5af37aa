"""OpenAI's own `clip` package, described: its CLIP class, transform and tokenizer as they are.

The package is not imported: classes are known by their names, and what it offers is looked up where
the user has imported it. Nothing here computes an embedding: `encode` is the model's own method.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from torch import Tensor, nn

from heatproof.certificate import Weights
from heatproof.errors import ModelError
from heatproof.models import library, tokenizers
from heatproof.models.geometry import Preprocess
from heatproof.models.measured_geometry import described
from heatproof.models.model import Model
from heatproof.models.projection import EmbeddingHead
from heatproof.models.towers import ImageTower, Readout, TextTower, TokenLayout, Tokens

PACKAGE = "clip.model"


def recognises(module: nn.Module) -> bool:
    """Return whether `module` is the CLIP of OpenAI's package."""
    return any(
        (kind.__module__, kind.__name__) == (PACKAGE, "CLIP") for kind in type(module).__mro__
    )


def wrap(
    module: Any,
    *,
    spec: str,
    preprocess: Preprocess | None = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe a model of OpenAI's package.

    Without `preprocess` it is the package's own transform at the model's size; `tokenizer` is
    `clip.tokenize`, or any that `heatproof.models.tokenizers` knows.
    """
    visual = module.visual
    side = int(visual.input_resolution)
    own = _library(module, side, preprocess, tokenizer)
    if preprocess is None:
        preprocess = described(_own_transform(side) or _same_transform(side))
    layout, readout, project = _resnet(visual) if hasattr(visual, "attnpool") else _vit(visual)
    return Model(
        spec=spec,
        family="openai-clip",
        module=module,
        image=ImageTower(
            encode=partial(_encode_image, module),
            path="visual",
            layout=layout,
            readout=readout,
            preprocess=preprocess,
            project=project,
        ),
        text=_text_tower(module, tokenizer),
        logit_scale=float(module.logit_scale.detach().exp()),
        weights=weights,
        notices=notices,
        library=own,
    )


# The image side ----------------------------------------------------------------------------------

Tower = tuple[Callable[[int, int], TokenLayout], Readout, EmbeddingHead | None]


def _vit(visual: Any) -> Tower:
    high, wide = visual.conv1.stride

    def layout(height: int, width: int) -> TokenLayout:
        return TokenLayout(height // high, width // wide, ("class",))

    return layout, Readout("class token", 0), EmbeddingHead(visual.ln_post, visual.proj)


def _resnet(visual: Any) -> Tower:
    if type(visual.attnpool).__name__ != "AttentionPool2d":
        raise ModelError(
            f"the image tower pools by a {type(visual.attnpool).__name__}, which is not known "
            "here; expected OpenAI's AttentionPool2d"
        )

    def layout(height: int, width: int) -> TokenLayout:
        return TokenLayout(height // 32, width // 32, ("mean",))

    return layout, Readout("mean query", 0), None


def _encode_image(
    module: Any, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    return module.encode_image(pixels)


def _own_transform(side: int) -> Any:
    """Return the package's transform, where it is imported."""
    package = sys.modules.get("clip.clip")
    return None if package is None else package._transform(side)  # pyright: ignore


def _same_transform(side: int) -> Any:
    return image_transform(
        side,
        is_train=False,
        mean=OPENAI_DATASET_MEAN,
        std=OPENAI_DATASET_STD,
        interpolation="bicubic",
        resize_mode="shortest",
    )


def _library(
    module: Any, side: int, preprocess: Preprocess | None, tokenizer: Any
) -> library.Library | library.NoLibrary:
    transform = _own_transform(side) if preprocess is None else preprocess.transform
    if transform is None:
        return library.NoLibrary(
            "OpenAI's clip package is not imported, and a transform like its own was taken; pass "
            "wrap(..., preprocess=preprocess) as clip.load gives it"
        )
    if tokenizer is None and "clip.clip" in sys.modules:
        tokenizer = sys.modules["clip.clip"].tokenize
    if tokenizer is not None and _is_own(tokenizer):
        tokenizer = partial(tokenizer, context_length=module.context_length, truncate=True)
    name = "clip's transform" if preprocess is None else library.name_of(transform)
    return library.two_towers(module, transform, tokenizer, name)


# The text side -----------------------------------------------------------------------------------


def _text_tower(module: Any, tokenizer: Any) -> TextTower:
    context, vocabulary = int(module.context_length), int(module.vocab_size)
    if tokenizer is None or (_is_own(tokenizer) and vocabulary == tokenizers.CLIP_VOCABULARY):
        # CLIP's own has the same vocabulary and cleaning as `clip.tokenize`; and it says which
        # characters a token stands for.
        tokenizer = tokenizers.usual_tokenizer(vocabulary, context)
    codec = tokenizers.Codec(tokenizer, context, vocabulary, partial(torch.argmax, dim=-1))
    return TextTower(
        encode=partial(_encode_text, module),
        path="transformer",
        context=context,
        tokenize=codec.tokenize,
        from_ids=codec.from_ids,
        readout=Readout("end of text", None),
        project=EmbeddingHead(module.ln_final, module.text_projection),
    )


def _is_own(tokenizer: Any) -> bool:
    """Return whether it is `clip.tokenize`."""
    name = getattr(tokenizer, "__module__", ""), getattr(tokenizer, "__name__", "")
    return name == ("clip.clip", "tokenize")


def _encode_text(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    return module.encode_text(prompts.ids.to(next(module.parameters()).device))
