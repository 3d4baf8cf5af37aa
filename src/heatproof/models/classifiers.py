"""timm's and torchvision's classifiers (ViT, DeiT, EVA and their kin), and timm's CLIP towers.

Nothing here computes logits: `encode` is the model itself. Other input sizes are served by a shell
around the very same parameters, with its position embeddings resampled by the library's own rule.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision import transforms
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import ViT_B_16_Weights
from torchvision.models.vision_transformer import interpolate_embeddings

from heatproof.certificate import Weights
from heatproof.errors import ModelError, UnknownName
from heatproof.models import library
from heatproof.models.class_names import class_indices, names_of
from heatproof.models.geometry import Preprocess
from heatproof.models.measured_geometry import checked
from heatproof.models.model import ImageTower, Layout, Model, Projection, Readout
from heatproof.models.projection import projection
from heatproof.models.shell import shell

__all__ = ["class_indices", "load", "recognises", "wrap"]

Size = tuple[int, int]
SEED = 0

EMBEDS = (
    "the model is an image tower without a text tower: prompts are embeddings, compared by cosine"
)

KINDS = (VisionTransformer, Eva, TorchvisionViT)
_WINDOWED = ("SwinTransformer", "SwinTransformerV2")


@dataclass(frozen=True)
class _Classifier:
    """What has to be known of a classifier. `resize` makes a shell fit another input size."""

    family: str
    layout: Callable[[int, int], Layout]
    readout: Readout
    native: Size
    patch: Size
    classes: int
    preprocess: Preprocess
    resize: Callable[[Any, Size], None] | None = None
    project: Projection | None = None


def recognises(module: nn.Module) -> bool:
    """Whether `module` is one of timm's or torchvision's models, described here or refused."""
    kinds = (kind.__module__ for kind in type(module).__mro__)
    return any(kind.startswith(("timm.models.", "torchvision.models.")) for kind in kinds)


def wrap(
    module: nn.Module,
    *,
    spec: str | None = None,
    preprocess: Preprocess | None = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe a classifier of timm's or torchvision's. Its prompts are classes: no tokenizer."""
    if tokenizer is not None:
        raise ModelError(
            f"a classifier ({type(module).__name__}) takes class names or indices as prompts, "
            "and no tokenizer"
        )
    known = _described(module)
    if not known.classes and EMBEDS not in notices:
        notices = (*notices, EMBEDS)
    resized = partial(_resized, module, spec=spec, weights=weights, notices=notices)
    return Model(
        spec=spec or type(module).__name__,
        family=known.family,
        module=module,
        image=ImageTower(
            module,
            "",
            known.layout,
            known.readout,
            preprocess or known.preprocess,
            known.project,
        ),
        classes=names_of(module, known.classes) if known.classes else (),
        resized=resized if known.resize else None,
        weights=weights,
        notices=notices,
        library=_library(module, known, preprocess),
    )


def _library(
    module: nn.Module, known: "_Classifier", preprocess: Preprocess | None
) -> library.Library | library.NoLibrary:
    """timm's own way: the transform of the model's configuration, unless one was given.

    torchvision's models do not say how their images are made.
    """
    if preprocess is not None:
        transform = preprocess.transform
        name = f"the given preprocess ({library.name_of(transform)})"
        return library.classifier(module, transform, name, features=not known.classes)
    if not isinstance(module, VisionTransformer | Eva):
        return library.NoLibrary(
            f"a {type(module).__name__} of torchvision does not name its transform, and the usual "
            "one was taken; pass wrap(..., preprocess=weights.transforms())"
        )
    from timm.data import create_transform, resolve_model_data_config  # pyright: ignore

    config = resolve_model_data_config(module, {"input_size": (3, *known.native)})
    transform = create_transform(**config, is_training=False)
    return library.classifier(module, transform, "timm's transform", features=not known.classes)


def _described(module: Any) -> _Classifier:
    if isinstance(module, VisionTransformer | Eva):
        return _timm_vit(module)
    if isinstance(module, TorchvisionViT):
        return _torchvision_vit(module)
    if type(module).__name__ in _WINDOWED:
        return _windowed(module)
    if any("attention" in type(part).__name__.lower() for part in module.modules()):
        raise ModelError(
            f"got a {type(module).__name__}, whose attention heatproof does not know; expected "
            "timm's VisionTransformer or Eva, or torchvision's VisionTransformer"
        )
    raise ModelError(
        f"got a {type(module).__name__}, which has no attention to read; expected a vision "
        "transformer, such as timm:vit_base_patch16_224"
    )


# timm ------------------------------------------------------------------------------------------


def _timm_vit(module: Any) -> _Classifier:
    prefix, readout = _timm_prefix(module), _timm_readout(module)
    # A pool that reads patches only is the last attention call: its keys are the patches.
    keys = prefix if module.attn_pool is None or _pools_prefix(module) else ()
    native = _pair(module.patch_embed.img_size)

    def layout(height: int, width: int) -> Layout:
        rows, cols = module.patch_embed.dynamic_feat_size((height, width))
        return Layout(rows, cols, keys)

    patch = _pair(module.patch_embed.feat_ratio(as_scalar=False))
    return _Classifier(
        family="timm-eva" if isinstance(module, Eva) else "timm-vit",
        layout=layout,
        readout=readout,
        native=native,
        patch=patch,
        classes=0 if _embeds(module) else module.num_classes,
        preprocess=_timm_preprocess(module, native, patch),
        resize=_resize_timm,
        project=(
            projection((module.norm, module.fc_norm), (module.head,))
            if readout.name == "class token"
            else None
        ),
    )


def _embeds(module: Any) -> bool:
    """Whether the model puts out an embedding and no logits: it has no head, or timm's description
    of its weights says that the head is CLIP's projection."""
    if not module.num_classes:
        return True
    config: dict[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    name = f"{config.get('architecture', '')}.{config.get('tag', '')}"
    contrastive = any(kind in name for kind in ("clip", "pe_core")) and "_ft_" not in name
    return contrastive and config.get("num_classes") == module.num_classes


def _pools_prefix(module: Any) -> bool:
    return isinstance(module, Eva) or module.pool_include_prefix


def _timm_prefix(module: Any) -> tuple[str, ...]:
    named = ("class",) if module.cls_token is not None else ()
    if getattr(module, "dist_token", None) is not None:
        named = (*named, "distillation")
    registers = module.num_prefix_tokens - len(named)
    return (*named, *(f"register {number}" for number in range(1, registers + 1)))


def _timm_readout(module: Any) -> Readout:
    if getattr(module, "head_dist", None) is not None:
        raise ModelError(
            "the model averages two heads, on its class and its distillation token, so that no one "
            "readout explains it; expected one head, such as timm:deit_base_patch16_224"
        )
    if module.attn_pool is not None:
        return _pool_readout(module.attn_pool)
    if module.global_pool == "token":
        return Readout("class token", 0)
    whole = getattr(module, "pool_include_prefix", False) and module.num_prefix_tokens
    if module.global_pool == "avg" and not whole:
        return Readout("mean of tokens", None)
    raise ModelError(
        f"the model pools by {module.global_pool!r}{' over prefix tokens too' if whole else ''}, "
        "whose readout is no mean over patches; expected global_pool 'token', 'avg' or 'map'"
    )


def _pool_readout(pool: Any) -> Readout:
    if getattr(pool, "latent_len", 0) == 1:
        return Readout("pool probe", 0)
    raise ModelError(
        f"the model pools by a {type(pool).__name__}, which reads out no single query; expected "
        "an attention pool with one latent"
    )


def _timm_preprocess(module: Any, size: Size, patch: Size, mode: str | None = None) -> Preprocess:
    """The preprocessing that timm resolves for a model; `mode` replaces its way of cropping."""
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    transform: Any
    config: dict[str, Any] = dict(resolve_model_data_config(module)) | {"input_size": (3, *size)}
    if mode:
        config |= {"crop_mode": mode, "crop_pct": 1.0}
    transform = create_transform(**config, is_training=False)
    kinds = {"squash": "squash", "border": "longest"}
    claimed = Preprocess(
        height=size[0],
        width=size[1],
        resize=kinds.get(config["crop_mode"], "shortest"),  # pyright: ignore[reportArgumentType]
        resize_to=int(min(size) / config["crop_pct"]),
        transform=transform,
        unpatched=(size[0] % patch[0], size[1] % patch[1]),
    )
    return checked(claimed)


def _resize_timm(shell: Any, size: Size) -> None:
    shell.set_input_size(size)


def _windowed(module: Any) -> _Classifier:
    """A Swin: described as far as it goes, so that the reading can say what is wrong with it."""
    size = _pair(getattr(getattr(module, "patch_embed", None), "img_size", 224))
    classes = getattr(module, "num_classes", None) or module.head.out_features
    whole = Preprocess(*size, "squash", min(size), ViT_B_16_Weights.IMAGENET1K_V1.transforms())
    return _Classifier(
        family="windowed",
        layout=lambda height, width: Layout(height // 32, width // 32),
        readout=Readout("mean of tokens", None),
        native=size,
        patch=(32, 32),
        classes=classes,
        preprocess=whole,
    )


# torchvision -----------------------------------------------------------------------------------


def _torchvision_vit(module: TorchvisionViT) -> _Classifier:
    side, patch = module.image_size, module.patch_size
    # As its weights at 224 pixels were trained and evaluated; the larger ones resize to the crop.
    resize_to = 256 if side == 224 else side
    transform = ViT_B_16_Weights.IMAGENET1K_V1.transforms(crop_size=side, resize_size=resize_to)
    return _Classifier(
        family="torchvision-vit",
        layout=lambda height, width: Layout(height // patch, width // patch, ("class",)),
        readout=Readout("class token", 0),
        native=(side, side),
        patch=(patch, patch),
        classes=module.num_classes,
        preprocess=checked(Preprocess(side, side, "shortest", resize_to, transform)),
        resize=_resize_torchvision,
        project=projection((module.encoder.ln,), (module.heads,)),
    )


def _resize_torchvision(shell: Any, size: Size) -> None:
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


# Other input sizes -----------------------------------------------------------------------------


def _resized(module: nn.Module, height: int, width: int, **described: Any) -> Model:
    """The same weights at `height` x `width`, which the whole photograph is squashed to."""
    known, size = _described(module), (height, width)
    rows, cols = known.patch
    if size != known.native and (min(size) < 1 or height % rows or width % cols):
        raise ModelError(
            f"got an input size of {height} x {width}, expected positive multiples of the patch "
            f"size {rows} x {cols}; try {max(1, round(height / rows)) * rows} x "
            f"{max(1, round(width / cols)) * cols}"
        )
    assert known.resize is not None
    twin = module
    if size != known.native:
        twin = shell(module)
        known.resize(twin, size)
    sized = wrap(twin, preprocess=_squashed(module, known, size), **described)
    return replace(sized, library=library.another_size(height, width))


def _squashed(module: Any, known: _Classifier, size: Size) -> Preprocess:
    if isinstance(module, VisionTransformer | Eva):
        return _timm_preprocess(module, size, known.patch, "squash")
    usual = ViT_B_16_Weights.IMAGENET1K_V1.transforms()
    steps = [
        transforms.Resize(size, interpolation=usual.interpolation),
        transforms.ToTensor(),
        transforms.Normalize(usual.mean, usual.std),
    ]
    transform = transforms.Compose(steps)
    unpatched = (size[0] % known.patch[0], size[1] % known.patch[1])
    return Preprocess(*size, "squash", min(size), transform, unpatched)


def _pair(size: Any) -> Size:
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)


# Loading ---------------------------------------------------------------------------------------


def load(name: str, *, allow_download: bool = True) -> Model:
    """One of timm's classifiers: `NAME`, `NAME.TAG` or `NAME/FILE`.

    `NAME` alone has random weights from a fixed seed, and a notice that says so; `.TAG` names
    pretrained ones, which are downloaded; `FILE` is a local checkpoint.
    """
    architecture, _, file = name.partition("/")
    base, _, tag = architecture.partition(".")
    _check_names(base, tag)
    spec = f"timm:{name}"
    if file:
        path = Path(file).expanduser()
        module, notices = _from_file(architecture, path), _unsaid(base, tag, path)
        return wrap(module, spec=spec, weights="loaded", notices=notices)
    if tag:
        module = _from_hub(architecture, allow_download=allow_download)
        return wrap(module, spec=spec, weights="loaded")
    default = getattr(timm.get_pretrained_cfg(base), "tag", "")
    hint = f"pretrained ones are timm:{base}.{default}" if default else f"weights: {spec}/FILE"
    notice = f"{spec} has random weights (seed {SEED}), so that its maps mean nothing; {hint}"
    return wrap(_built(architecture), spec=spec, weights="random", notices=(notice,))


def _unsaid(base: str, tag: str, path: Path) -> tuple[str, ...]:
    """What timm's own weights of an architecture differ in and a file of weights does not say."""
    default = timm.get_pretrained_cfg(base)
    if tag or default is None:
        return ()
    known = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{base}.*")]
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    unlike = [key for key in keys if len({str(getattr(config, key)) for config in known}) > 1]
    if not unlike:
        return ()
    return (
        f"{path} does not say how pictures are preprocessed, and timm's weights of {base} differ "
        f"in {', '.join(unlike)}; those of {base}.{default.tag} are taken (another: "
        f"timm:{base}.TAG/{path})",
    )


def _check_names(base: str, tag: str) -> None:
    if not timm.is_model(base):
        raise UnknownName("timm model", base, timm.list_models())
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in known:
        raise UnknownName(f"pretrained tag of timm's {base}", tag, known)


def _built(architecture: str, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return timm.create_model(architecture, **settings).eval()


def _from_file(architecture: str, path: Path) -> nn.Module:
    from heatproof.models import checkpoints

    weights = checkpoints.read(path)
    head = weights.get("head.bias")
    settings = {} if head is None else {"num_classes": len(head)}
    module = _built(architecture, **settings)
    checkpoints.install(module, weights, file=path, name=architecture)
    return module


def _from_hub(architecture: str, *, allow_download: bool) -> nn.Module:
    from heatproof.models import checkpoints

    config: Any = timm.get_pretrained_cfg(architecture)
    if not config.hf_hub_id:
        raise ModelError(
            f"timm keeps no weights of {architecture} on the Hugging Face hub; download them from "
            f"{config.url or 'their source'} and name the file: timm:{architecture}/FILE"
        )
    names = ["model.safetensors", "pytorch_model.bin"]
    path = checkpoints.fetch(
        config.hf_hub_id,
        [config.hf_hub_filename] if config.hf_hub_filename else names,
        instead=f"download it and name the file: timm:{architecture}/FILE",
        allow_download=allow_download,
    )
    try:
        overlay = {"state_dict": checkpoints.read(path), "custom_load": False}
        module = _built(architecture, pretrained=True, pretrained_cfg_overlay=overlay)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} does not fit {architecture}: {reason}") from None
    getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return module
