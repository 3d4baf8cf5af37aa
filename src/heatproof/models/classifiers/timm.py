"""timm's classifiers (ViT, DeiT, EVA and their kin), and its image towers of CLIP models."""

from functools import partial
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from heatproof.models import timm_vit
from heatproof.models.classifiers.facts import ClassifierFacts
from heatproof.models.geometry import Preprocess
from heatproof.models.measured_geometry import checked
from heatproof.models.resizing import Size, pair


def facts_of(module: Any) -> ClassifierFacts:
    """Return the facts of timm's ViT or EVA."""
    native = pair(module.patch_embed.img_size)
    return ClassifierFacts(
        family="timm-eva" if isinstance(module, timm_vit.Eva) else "timm-vit",
        layout=partial(timm_vit.layout, module),
        readout=timm_vit.readout_of(module),
        native=native,
        patch=timm_vit.patch_of(module),
        classes=() if _embeds(module) else class_names(module, module.num_classes),
        preprocess=_preprocess(module, native),
        transform=partial(_transform, module, native),
        resize=lambda shell, size: shell.set_input_size(size),
        squash=partial(_preprocess, module, mode="squash"),
        project=timm_vit.projection_of(module),
    )


def _embeds(module: Any) -> bool:
    """Return whether the model gives an embedding and no logits.

    It has no head, or timm's description of its weights says that the head is CLIP's projection.
    """
    if not module.num_classes:
        return True
    config: dict[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    name = f"{config.get('architecture', '')}.{config.get('tag', '')}"
    contrastive = any(kind in name for kind in ("clip", "pe_core")) and "_ft_" not in name
    return contrastive and config.get("num_classes") == module.num_classes


def _transform(module: Any, size: Size) -> Any:
    config = resolve_model_data_config(module, {"input_size": (3, *size)})
    return create_transform(**config, is_training=False)


def _preprocess(module: Any, size: Size, mode: str | None = None) -> Preprocess:
    """Return the preprocessing that timm resolves for a model; `mode` replaces its crop rule."""
    config: dict[str, Any] = dict(resolve_model_data_config(module)) | {"input_size": (3, *size)}
    if mode:
        config |= {"crop_mode": mode, "crop_pct": 1.0}
    transform: Any = create_transform(**config, is_training=False)
    kinds = {"squash": "squash", "border": "longest"}
    patch = timm_vit.patch_of(module)
    claimed = Preprocess(
        height=size[0],
        width=size[1],
        resize=kinds.get(config["crop_mode"], "shortest"),  # pyright: ignore[reportArgumentType]
        resize_to=int(min(size) / config["crop_pct"]),
        transform=transform,
        unpatched=(size[0] % patch[0], size[1] % patch[1]),
    )
    return checked(claimed)


def class_names(module: nn.Module, classes: int) -> tuple[str, ...]:
    """Return the names that a timm or torchvision classifier comes with, by index.

    timm's pretrained configuration may hold them; else a number of classes that only an ImageNet
    subset has gets that subset's names ("tench, Tinca tinca"), and any other "class 0", "class 1".
    """
    config = getattr(module, "pretrained_cfg", None) or {}
    labels = config.get("label_names") or ()
    if len(labels) == classes:
        described = config.get("label_descriptions") or {}
        return tuple(str(described.get(label, label)) for label in labels)
    subset = infer_imagenet_subset({"num_classes": classes})
    if subset is not None:
        return tuple(ImageNetInfo(subset).label_descriptions())
    return tuple(f"class {index}" for index in range(classes))
