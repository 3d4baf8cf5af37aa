"""torchvision's classifiers: its ViT, and Swin as far as an error line needs it."""

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import nn
from torchvision import transforms
from torchvision.models import VisionTransformer, ViT_B_16_Weights
from torchvision.models.vision_transformer import interpolate_embeddings

from heatproof.errors import ModelError
from heatproof.models.classifiers.facts import ClassifierFacts
from heatproof.models.classifiers.timm import class_names
from heatproof.models.geometry import Preprocess
from heatproof.models.measured_geometry import checked
from heatproof.models.projection import projection
from heatproof.models.resizing import Size, pair
from heatproof.models.towers import Readout, TokenLayout

USUAL = ViT_B_16_Weights.IMAGENET1K_V1.transforms


def facts_of(module: VisionTransformer) -> ClassifierFacts:
    """Return the facts of torchvision's ViT."""
    side, patch = module.image_size, module.patch_size
    # As its weights at 224 pixels were trained and evaluated; the larger ones resize to the crop.
    resize_to = 256 if side == 224 else side
    transform = USUAL(crop_size=side, resize_size=resize_to)
    preprocess = Preprocess(
        height=side, width=side, resize="shortest", resize_to=resize_to, transform=transform
    )
    return ClassifierFacts(
        family="torchvision-vit",
        layout=lambda height, width: TokenLayout(height // patch, width // patch, ("class",)),
        readout=Readout("class token", 0),
        native=(side, side),
        patch=(patch, patch),
        classes=class_names(module, module.num_classes) if module.num_classes else (),
        preprocess=checked(preprocess),
        resize=_resize,
        squash=partial(_squashed, (patch, patch)),
        project=projection((module.encoder.ln,), (module.heads,)),
    )


def _resize(shell: Any, size: Size) -> None:
    if size[0] != size[1]:
        raise ModelError(
            f"got an input size of {size[0]} x {size[1]}, but torchvision's ViT takes square "
            f"pictures only; try {min(size)} x {min(size)}, or timm's ViT"
        )
    name = "encoder.pos_embedding"
    embedding = shell.encoder.pos_embedding
    state = OrderedDict({name: embedding.detach()})
    new = interpolate_embeddings(size[0], shell.patch_size, state)[name]
    shell.encoder.pos_embedding = nn.Parameter(new, requires_grad=embedding.requires_grad)
    shell.image_size, shell.seq_length = size[0], new.shape[1]


def _squashed(patch: Size, size: Size) -> Preprocess:
    usual = USUAL()
    steps = [
        transforms.Resize(size, interpolation=usual.interpolation),
        transforms.ToTensor(),
        transforms.Normalize(usual.mean, usual.std),
    ]
    return Preprocess(
        height=size[0],
        width=size[1],
        resize="squash",
        resize_to=min(size),
        transform=transforms.Compose(steps),
        unpatched=(size[0] % patch[0], size[1] % patch[1]),
    )


def windowed_facts(module: Any) -> ClassifierFacts:
    """Describe a Swin of timm or torchvision as far as it goes.

    It has no token that sees the whole image; the reading says so, and needs a description first.
    """
    size = pair(getattr(getattr(module, "patch_embed", None), "img_size", 224))
    classes = getattr(module, "num_classes", None) or module.head.out_features
    return ClassifierFacts(
        family="windowed",
        layout=lambda height, width: TokenLayout(height // 32, width // 32),
        readout=Readout("mean of tokens", None),
        native=size,
        patch=(32, 32),
        classes=class_names(module, classes),
        preprocess=Preprocess(
            height=size[0],
            width=size[1],
            resize="squash",
            resize_to=min(size),
            transform=USUAL(),
        ),
    )
