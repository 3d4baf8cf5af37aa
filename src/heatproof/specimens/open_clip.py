"""Tiny random models of every open_clip family: two blocks, small odd sizes, no download.

Each function returns a described `heatproof.models.Model`, in float64 unless told. Grids are
not square where the family allows it, and no two sizes agree, so that a swapped axis fails.
Weights are the library's own random ones, shaken: no bias, scale or residual branch is idle.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip
import timm
import torch
from timm.layers import HybridEmbed
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vitamin import MbConvStages, VitCfg
from torch import nn

from heatproof.models import open_clip as adapter
from heatproof.models.model import Model
from heatproof.specimens.registering import registering

FAMILIES: dict[str, Callable[..., Model]] = {}
specimen = registering(FAMILIES)

library: Any = open_clip  # it makes its configurations of dictionaries
EMBED, WIDTH, CONTEXT = 17, 33, 13

TEXT: dict[str, Any] = {"width": 26, "heads": 2, "layers": 2, "context_length": CONTEXT}
BLOCKS: dict[str, Any] = {"embed_dim": WIDTH, "num_heads": 3, "depth": 2}
VIT: dict[str, Any] = {
    "image_size": (21, 35),
    "patch_size": 7,
    "width": WIDTH,
    "head_width": 11,
    "layers": 2,
}


@specimen("vit")
def open_clip_vit(dtype: torch.dtype = torch.float64, **vision: Any) -> Model:
    """Build a ViT with a class token, as OpenAI's and LAION's are, on a grid of 3 x 5."""
    return _model("tiny vit", lambda: library.CLIP(EMBED, {**VIT, **vision}, TEXT), dtype)


def open_clip_one_head(dtype: torch.dtype = torch.float64) -> Model:
    """Build a ViT and a text tower of one head each: a mean over heads changes nothing."""
    vision, text = {**VIT, "head_width": WIDTH}, {**TEXT, "heads": 1}
    return _model("tiny vit, one head", lambda: library.CLIP(EMBED, vision, text), dtype)


@specimen("quickgelu")
def open_clip_quickgelu(dtype: torch.dtype = torch.float64) -> Model:
    """Build a ViT with OpenAI's activation."""
    build = lambda: library.CLIP(EMBED, VIT, TEXT, quick_gelu=True)  # noqa: E731
    return _model("tiny vit, quickgelu", build, dtype)


@specimen("mean pool")
def open_clip_mean_pool(dtype: torch.dtype = torch.float64) -> Model:
    """Build a ViT that averages its patches (CLIPA)."""
    return open_clip_vit(dtype, pool_type="avg", final_ln_after_pool=True, no_ln_pre=True)


@specimen("coca")
def open_clip_coca(dtype: torch.dtype = torch.float64) -> Model:
    """Build CoCa: the first of 7 pooling queries reads the image, an appended token the text."""
    tokens = {"output_tokens": True}
    pool = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 7}
    vision, text = {**VIT, **pool, **tokens}, {**TEXT, "embed_cls": True, **tokens}
    decoder = {**TEXT, "heads": 2}  # its width is the embedding's
    return _model("tiny coca", lambda: library.CoCa(26, decoder, text, vision), dtype)


@specimen("resnet")
def open_clip_resnet(dtype: torch.dtype = torch.float64) -> Model:
    """Build an attention-pooled ResNet on a grid of 2 x 2 (the library builds square ones only)."""
    vision = {"layers": (1, 1, 1, 1), "width": 6, "head_width": 64, "image_size": 64}
    return _model("tiny resnet", lambda: library.CLIP(EMBED, vision, TEXT), dtype)


@specimen("siglip")
def open_clip_siglip(dtype: torch.dtype = torch.float64) -> Model:
    """Build SigLIP: a pooling probe, no class token, a sigmoid, two-way text read at its end."""
    trunk = {"img_size": (21, 35), "patch_size": 7, "class_token": False, "global_pool": "map"}
    text = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    build = partial(
        timm.create_model, "vit_base_patch16_siglip_224", num_classes=0, **BLOCKS, **trunk
    )
    return _timm("tiny siglip", build, dtype, text, embed=WIDTH, bias=-10.0)


@specimen("eva")
def open_clip_eva(dtype: torch.dtype = torch.float64) -> Model:
    """Build EVA 02: rotary positions beside the learned ones, a class token."""
    sizes = {**BLOCKS, "embed_dim": 36, "num_classes": EMBED, "img_size": (21, 35), "patch_size": 7}
    return _timm(
        "tiny eva", partial(timm.create_model, "eva02_base_patch16_clip_224", **sizes), dtype
    )


@specimen("registers")
def open_clip_registers(dtype: torch.dtype = torch.float64) -> Model:
    """Build a timm ViT with a class token and four registers."""
    sizes = {**BLOCKS, "num_classes": EMBED, "img_size": (21, 35), "patch_size": 7}
    return _timm(
        "tiny registers", partial(timm.create_model, "vit_base_patch14_reg4_dinov2", **sizes), dtype
    )


@specimen("vitamin")
def open_clip_vitamin(dtype: torch.dtype = torch.float64) -> Model:
    """Build ViTamin: two convolutional stages, then a ViT that averages patches (stride 16)."""
    config = VitCfg(embed_dim=(8, 12, WIDTH), depths=(1, 1, 2), stem_width=8)
    build = partial(_hybrid, partial(MbConvStages, config), class_token=False, global_pool="avg")
    return _timm("tiny vitamin", build, dtype)


@specimen("mobileclip-b")
def open_clip_mobileclip_b(dtype: torch.dtype = torch.float64) -> Model:
    """Build MobileCLIP-B: a convolutional stem, then a ViT with a class token (stride 16)."""
    strides = {"stride": (4, 2, 2), "kernel_size": (4, 2, 2), "padding": 0}
    stem = partial(ConvStem, channels=(8, 12, WIDTH), act_layer=nn.GELU, **strides)
    return _timm("tiny mobileclip-b", partial(_hybrid, stem, no_embed_class=True), dtype)


@specimen("mobileclip-s")
def open_clip_mobileclip_s(dtype: torch.dtype = torch.float64) -> Model:
    """Build MobileCLIP-S: convolutions, with attention in the last stage only (stride 32)."""
    kind: Any = FastVit
    build = partial(
        kind,
        layers=(1, 1, 1, 2),
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(3, 3, 3, 3),
        se_downsamples=(False, False, True, True),
        pos_embs=(None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        num_classes=EMBED,
    )
    return _timm("tiny mobileclip-s", build, dtype, size=(96, 160))


def _hybrid(stem: Callable[[], nn.Module], **settings: Any) -> nn.Module:
    sizes = {**BLOCKS, "num_classes": EMBED, "img_size": (48, 80), "patch_size": 1}
    embed = partial(HybridEmbed, backbone=stem(), proj=False)
    return VisionTransformer(embed_layer=embed, **sizes, **settings)


def _timm(
    name: str,
    trunk: Callable[[], nn.Module],
    dtype: torch.dtype,
    text: dict[str, Any] = TEXT,
    embed: int = EMBED,
    bias: float | None = None,
    size: tuple[int, int] | None = None,
) -> Model:
    """Build open_clip's wrapper around a timm trunk, put in after: the wrapper takes no sizes."""

    def build() -> nn.Module:
        vision: Any = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None}
        module = library.CustomTextCLIP(embed, vision, text, init_logit_bias=bias)
        visual: Any = module.visual
        made: Any = trunk()
        visual.trunk, visual.image_size = made, size or made.patch_embed.img_size
        return module

    return _model(name, build, dtype)


def _model(name: str, build: Callable[[], nn.Module], dtype: torch.dtype) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(29)
        module = build().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim:
                    parameter += 0.05 * torch.randn_like(parameter)
        adapter.fill_uninitialised(module)
    visual: Any = module.visual
    visual.preprocess_cfg = {"size": visual.image_size, "resize_mode": "squash"}
    return adapter.wrap(module.to(dtype), spec=name, weights="random")
