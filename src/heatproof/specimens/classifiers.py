"""Tiny random classifiers of timm and torchvision: two blocks, five classes, no download."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torchvision.models import ViT_B_16_Weights

from heatproof.models import classifiers
from heatproof.models.geometry import Preprocess
from heatproof.models.model import Model
from heatproof.specimens.registering import registering

MODELS: dict[str, Callable[..., Model]] = {}
specimen = registering(MODELS)

BLOCKS: dict[str, Any] = {"embed_dim": 36, "depth": 2, "num_heads": 3, "patch_size": 7}
CLASSES, SIZE = 5, (21, 35)


@specimen("timm vit")
def timm_vit(dtype: torch.dtype = torch.float64) -> Model:
    """Build timm's ViT: class token, on a grid of 3 x 5."""
    return _described("timm vit", _timm("vit_base_patch16_224"), dtype)


@specimen("timm eva")
def timm_eva(dtype: torch.dtype = torch.float64) -> Model:
    """Build EVA 02 that averages its patches."""
    return _described("timm eva", _timm("eva02_base_patch14_224"), dtype)


@specimen("torchvision vit")
def torchvision_vit(dtype: torch.dtype = torch.float64) -> Model:
    """Build torchvision's ViT, on a grid of 3 x 3 (the library builds square ones only)."""

    def build() -> nn.Module:
        return torchvision.models.VisionTransformer(21, 7, 2, 3, 36, 37, num_classes=CLASSES)

    transform = ViT_B_16_Weights.IMAGENET1K_V1.transforms(crop_size=21, resize_size=24)
    return _described(
        "torchvision vit",
        build,
        dtype,
        Preprocess(height=21, width=21, resize="shortest", resize_to=24, transform=transform),
    )


def _timm(name: str) -> Any:
    return lambda: timm.create_model(name, img_size=SIZE, num_classes=CLASSES, **BLOCKS)


def _described(
    name: str, build: Any, dtype: torch.dtype, preprocess: Preprocess | None = None
) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(29)
        module: nn.Module = build()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return classifiers.wrap(
        module.eval().to(dtype), spec=f"tiny {name}", preprocess=preprocess, weights="random"
    )
