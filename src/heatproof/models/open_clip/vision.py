"""open_clip's image towers: where their tokens lie, where they read out, how they resize.

The facts are those of open_clip's and timm's sources; `tests/models/test_models_open_clip.py` holds
them against the attention that the models really compute.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.fastvit import FastVit
from torch import nn

from heatproof.errors import ModelError
from heatproof.models import timm_vit
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import Size, interpolated, pair
from heatproof.models.towers import Readout, TokenLayout


@dataclass(frozen=True)
class VisionFacts:
    """Hold the facts of an image tower. `stride` is height and width of a patch in pixels."""

    family: str
    layout: Callable[[int, int], TokenLayout]
    readout: Readout
    stride: Size
    project: EmbeddingHead | None = None

    def unpatched(self, height: int, width: int) -> Size:
        """Return the rows and columns of pixels, bottom and right, that no patch covers."""
        grid = self.layout(height, width)
        rows, cols = grid.rows * self.stride[0], grid.cols * self.stride[1]
        return max(0, height - rows), max(0, width - cols)


def vision_of(module: Any) -> VisionFacts:
    """Return the facts of a model's image tower.

    Raises:
        ModelError: it has no global attention, or gives no single embedding.
    """
    visual = module.visual
    if isinstance(visual, VisionTransformer):
        return _vit(visual)
    # Its attention pool starts from the mean of all patches.
    if isinstance(visual, ModifiedResNet):
        return VisionFacts("resnet", _resnet_layout, Readout("mean query", 0), (32, 32))
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    if isinstance(trunk, timm_vit.TimmViT):
        return _timm_vit(trunk, visual.head if isinstance(visual, TimmModel) else nn.Identity())
    if isinstance(trunk, FastVit):
        return _fastvit(trunk)
    raise ModelError(
        f"the image tower is a {type(trunk).__name__}, which has no global attention to read; "
        "expected a ViT, EVA, SigLIP, CoCa, ViTamin, MobileCLIP or attention-pooled ResNet tower"
    )


def _vit(visual: Any) -> VisionFacts:
    if visual.attn_pool is not None and visual.attn_pool_type:
        raise ModelError(
            f"the image tower pools in two steps (attentional_pool={visual.attn_pool_type!r}), "
            "which gives no single embedding; expected attentional_pool=true or false"
        )
    readouts = {"tok": Readout("class token", 0), "avg": Readout("mean of tokens", None)}
    if visual.pool_type not in readouts:
        raise ModelError(
            f"the image tower pools nothing (pool_type={visual.pool_type!r}) and has no embedding; "
            "expected pool_type 'tok' or 'avg'"
        )
    readout = readouts[visual.pool_type]
    if visual.attn_pool is not None and readout.row == 0:
        # CoCa: the first pooling query makes the embedding, the others feed its text decoder.
        readout = Readout("pool probe", 0)
    stride = pair(visual.patch_size)
    # Only a class token goes through norm and projection alone; a pool mixes tokens before.
    project = EmbeddingHead(visual.ln_post, visual.proj) if readout.name == "class token" else None
    return VisionFacts("vit", partial(_strided_layout, stride), readout, stride, project)


def _strided_layout(stride: Size, height: int, width: int) -> TokenLayout:
    return TokenLayout(height // stride[0], width // stride[1], ("class",))


def _resnet_layout(height: int, width: int) -> TokenLayout:
    # The stem halves twice (the first time rounding up), three of the four stages once.
    return TokenLayout((height + 1) // 2 // 16, (width + 1) // 2 // 16, ("mean",))


def _timm_vit(trunk: Any, head: nn.Module) -> VisionFacts:
    return VisionFacts(
        _timm_family(trunk),
        partial(timm_vit.layout, trunk),
        timm_vit.readout_of(trunk),
        timm_vit.patch_of(trunk),
        timm_vit.projection_of(trunk, head),
    )


def _timm_family(trunk: Any) -> str:
    if isinstance(trunk, timm_vit.Eva):
        return "eva"
    backbone = type(getattr(trunk.patch_embed, "backbone", None)).__name__
    # ViTamin and MobileCLIP are timm ViTs behind a convolutional stem.
    by_backbone = {"MbConvStages": "vitamin", "ConvStem": "mobileclip"}
    return by_backbone.get(backbone, "vit" if trunk.attn_pool is None else "siglip")


def _fastvit(trunk: Any) -> VisionFacts:
    if not any(name.endswith("token_mixer.qkv") for name, _ in trunk.named_modules()):
        raise ModelError("the image tower is a FastViT without attention; try MobileCLIP-S1 or -B")
    # Attention is in the last stage, on that stage's grid.
    stride: int = trunk.feature_info[-1]["reduction"]

    def layout(height: int, width: int) -> TokenLayout:
        return TokenLayout(math.ceil(height / stride), math.ceil(width / stride))

    return VisionFacts("mobileclip", layout, Readout("mean of tokens", None), (stride, stride))


def set_input_size(visual: Any, size: Size) -> None:
    """Give a shell of an image tower its new size: new position embeddings, nothing in place."""
    if isinstance(visual, VisionTransformer):
        patch = pair(visual.patch_size)
        grid = (size[0] // patch[0], size[1] // patch[1])
        visual.positional_embedding = interpolated(
            visual.positional_embedding, 1, visual.grid_size, grid
        )
        visual.grid_size, visual.image_size = grid, size
    elif isinstance(visual, ModifiedResNet):
        _set_resnet_size(visual, size)
    elif isinstance(visual.trunk, FastVit):  # convolutional positions: any size
        visual.image_size = size
    else:
        visual.set_input_size(size)


def _set_resnet_size(visual: Any, size: Size) -> None:
    pool, (height, width) = visual.attnpool, pair(visual.image_size)
    pool.positional_embedding = interpolated(
        pool.positional_embedding, 1, (height // 32, width // 32), (size[0] // 32, size[1] // 32)
    )
    visual.image_size = size
