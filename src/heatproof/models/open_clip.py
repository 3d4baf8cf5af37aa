"""open_clip's models, described: what their towers are, where they read out, how they resize.

Nothing here computes an embedding: `encode` is the model's own public method. Each family's facts
are those of open_clip's and timm's sources, and `tests/models/test_models_open_clip.py` holds them
against the attention that the models really compute.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from open_clip import CLIP, CoCa, CustomTextCLIP, get_tokenizer
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder
from open_clip.model import get_model_preprocess_cfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import PreTrainedTokenizerBase

from heatproof.certificate import Weights
from heatproof.errors import ModelError
from heatproof.models import library, tokens
from heatproof.models.geometry import Preprocess, Resize
from heatproof.models.measured_geometry import checked
from heatproof.models.model import ImageTower, Layout, Model, Projection, Readout, TextTower
from heatproof.models.projection import projection
from heatproof.models.shell import shell

Size = tuple[int, int]


def recognises(module: nn.Module) -> bool:
    """Whether `module` is one of open_clip's models."""
    return isinstance(module, CLIP | CustomTextCLIP | CoCa)


def fill_uninitialised(module: nn.Module) -> None:
    """Draw the one weight that open_clip leaves as memory was, not a number now and then."""
    if isinstance(module, CoCa):
        nn.init.normal_(module.text_decoder.text_projection, std=0.02)


def wrap(
    module: Any,
    *,
    spec: str,
    preprocess: Preprocess | None = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe one of open_clip's models.

    `preprocess` replaces the model's own; where its normalisation cannot be told, the model has no
    other sizes. `tokenizer` is any that `heatproof.models.tokens` knows, `tokens.missing(why)`
    included. Without one, a vocabulary of CLIP's size gets CLIP's own tokenizer.
    """
    vision = _vision(module)
    own = _library(module, preprocess, tokenizer)
    normalisation = {} if preprocess is None else _normalisation(preprocess.transform)
    if preprocess is None:
        preprocess = _preprocess(module)
    unpatched = vision.unpatched(preprocess.height, preprocess.width)
    described = {
        "spec": spec,
        "tokenizer": tokenizer,
        "weights": weights,
        "notices": notices,
    }
    return Model(
        spec=spec,
        family="coca" if isinstance(module, CoCa) else vision.family,
        module=module,
        image=ImageTower(
            encode=partial(_encode_image, module),
            path="visual",
            layout=vision.layout,
            readout=vision.readout,
            preprocess=replace(preprocess, unpatched=unpatched),
            project=vision.project,
        ),
        text=_text_tower(module, tokenizer),
        logit_scale=float(module.logit_scale.detach().exp()),
        logit_bias=0.0 if module.logit_bias is None else float(module.logit_bias.detach()),
        sigmoid=module.logit_bias is not None,
        resized=(
            None if normalisation is None else partial(_resized, module, normalisation, described)
        ),
        weights=weights,
        notices=notices,
        library=own,
    )


def _library(module: Any, preprocess: Preprocess | None, tokenizer: Any) -> library.Library:
    """open_clip's own way: the transform of the model's configuration, unless one was given."""
    if preprocess is None:
        transform, name = open_clip_transform(module), "open_clip's transform"
    else:
        transform = preprocess.transform
        name = f"the given preprocess ({library.name_of(transform)})"
    text = getattr(module, "text", module)
    if tokenizer is None and text.vocab_size == tokens.CLIP_VOCABULARY:
        tokenizer = get_tokenizer("ViT-B-32", context_length=text.context_length)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = library.ids_of(tokenizer, text.context_length)
    return library.two_towers(module, transform, tokenizer, name)


def open_clip_transform(module: Any) -> Any:
    """As `open_clip.create_model_and_transforms` makes it of a model's configuration."""
    return image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(module)), is_train=False)


def with_size(model: Model, height: int, width: int) -> Model:
    """The model at another input size, resizing and cropping photographs in its own way.

    `Model.resized` differs in the preprocessing only: it shows the model the whole photograph.
    """
    assert model.resized is not None
    twin = model.resized(height, width)
    mode = model.image.preprocess.resize
    preprocess = _preprocess(twin.module, resize_mode=mode)
    return replace(twin, image=replace(twin.image, preprocess=preprocess))


# The image side --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Vision:
    """What has to be known of an image tower. `stride` is a patch in pixels, high and wide."""

    family: str
    layout: Callable[[int, int], Layout]
    readout: Readout
    stride: Size
    project: Projection | None = None

    def unpatched(self, height: int, width: int) -> Size:
        """Rows and columns of pixels, bottom and right, that no patch covers."""
        grid = self.layout(height, width)
        rows, cols = grid.rows * self.stride[0], grid.cols * self.stride[1]
        return max(0, height - rows), max(0, width - cols)


def _encode_image(
    module: Any, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    return module.encode_image(pixels, normalize=False)  # CoCa normalises unless told not to


def _vision(module: Any) -> _Vision:
    visual = module.visual
    if isinstance(visual, VisionTransformer):
        return _vit(visual)
    if isinstance(visual, ModifiedResNet):
        return _Vision("resnet", _resnet_layout, Readout("mean query", 0), (32, 32))
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    if isinstance(trunk, TimmVisionTransformer | Eva):
        return _timm_vit(trunk, visual.head if isinstance(visual, TimmModel) else nn.Identity())
    if isinstance(trunk, FastVit):
        return _fastvit(trunk)
    raise ModelError(
        f"the image tower is a {type(trunk).__name__}, which has no global attention to read; "
        "expected a ViT, EVA, SigLIP, CoCa, ViTamin, MobileCLIP or attention-pooled ResNet tower"
    )


def _vit(visual: Any) -> _Vision:
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
        readout = Readout("pool probe", 0)
    stride = _pair(visual.patch_size)
    project = Projection(visual.ln_post, visual.proj) if readout.name == "class token" else None
    return _Vision("vit", partial(_strided_layout, stride, ("class",)), readout, stride, project)


def _strided_layout(stride: Size, prefix: tuple[str, ...], height: int, width: int) -> Layout:
    return Layout(height // stride[0], width // stride[1], prefix)


def _resnet_layout(height: int, width: int) -> Layout:
    """The stem halves twice (the first time rounding up), three of the four stages once."""
    return Layout((height + 1) // 2 // 16, (width + 1) // 2 // 16, ("mean",))


def _timm_vit(trunk: Any, head: nn.Module) -> _Vision:
    readout = _timm_readout(trunk)
    stride = _pair(trunk.patch_embed.feat_ratio(as_scalar=False))
    prefix = _timm_prefix(trunk)
    if trunk.attn_pool is not None and not getattr(trunk, "pool_include_prefix", True):
        prefix = ()

    def layout(height: int, width: int) -> Layout:
        rows, cols = trunk.patch_embed.dynamic_feat_size((height, width))
        return Layout(rows, cols, prefix)

    project = None
    if readout.name == "class token":
        project = projection((trunk.norm, trunk.fc_norm), (trunk.head, head))
    return _Vision(_timm_family(trunk), layout, readout, stride, project)


def _timm_family(trunk: Any) -> str:
    if isinstance(trunk, Eva):
        return "eva"
    backbone = type(getattr(trunk.patch_embed, "backbone", None)).__name__
    by_backbone = {"MbConvStages": "vitamin", "ConvStem": "mobileclip"}
    return by_backbone.get(backbone, "vit" if trunk.attn_pool is None else "siglip")


def _timm_prefix(trunk: Any) -> tuple[str, ...]:
    named = ("class",) if trunk.cls_token is not None else ()
    registers = trunk.num_prefix_tokens - len(named)
    return (*named, *(f"register {number}" for number in range(1, registers + 1)))


def _timm_readout(trunk: Any) -> Readout:
    if trunk.attn_pool is not None:
        whole = trunk.attn_pool.latent_len > 1 and trunk.attn_pool.pool != "token"
        return Readout("pool probe", None if whole else 0)
    readouts = {"token": Readout("class token", 0), "avg": Readout("mean of tokens", None)}
    if trunk.global_pool not in readouts:
        raise ModelError(
            f"the image tower pools by {trunk.global_pool!r}, whose readout is no set of tokens; "
            "expected 'token', 'avg' or 'map'"
        )
    return readouts[trunk.global_pool]


def _fastvit(trunk: Any) -> _Vision:
    if not any(name.endswith("token_mixer.qkv") for name, _ in trunk.named_modules()):
        raise ModelError("the image tower is a FastViT without attention; try MobileCLIP-S1 or -B")
    stride: int = trunk.feature_info[-1]["reduction"]

    def layout(height: int, width: int) -> Layout:
        return Layout(math.ceil(height / stride), math.ceil(width / stride))

    return _Vision("mobileclip", layout, Readout("mean of tokens", None), (stride, stride))


def _preprocess(module: Any, **changes: Any) -> Preprocess:
    """The preprocessing that the model was trained with, as open_clip builds it."""
    known = merge_preprocess_dict(PreprocessCfg(), get_model_preprocess_cfg(module))
    config = PreprocessCfg(**merge_preprocess_dict(known, changes))
    height, width = _pair(config.size)
    transform: Any = image_transform_v2(config, is_train=False)
    claimed = Preprocess(
        height=height,
        width=width,
        resize=cast(Resize, config.resize_mode),
        resize_to=min(height, width),
        transform=transform,
    )
    return checked(claimed)


def _normalisation(transform: Any) -> dict[str, Any] | None:
    """Mean, deviation and interpolation of a composed transform, for one of another size."""
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    if "Normalize" not in steps:
        return None
    found = {"mean": tuple(steps["Normalize"].mean), "std": tuple(steps["Normalize"].std)}
    resize = steps.get("Resize") or steps.get("ResizeKeepRatio")
    bilinear = resize is not None and getattr(resize.interpolation, "value", "") == "bilinear"
    return {**found, "interpolation": "bilinear" if bilinear else "bicubic"}


# The text side ---------------------------------------------------------------------------------


def _text_tower(module: Any, tokenizer: Any) -> TextTower:
    name, row = _text_readout(module)
    text = getattr(module, "text", module)
    codec = tokens.Codec(
        tokenizer=tokenizer if tokenizer is not None else _own_tokenizer(text),
        context=text.context_length,
        vocabulary=text.vocab_size,
        readout=row,
        special=_special_ids(module, text),
    )
    return TextTower(
        encode=partial(_encode_text, module),
        path="transformer" if isinstance(module, CLIP) else "text",
        tokenize=codec.tokenize,
        from_ids=codec.from_ids,
        readout=Readout(name, None),
        project=_text_projection(text),
    )


def _special_ids(module: Any, text: Any) -> frozenset[int]:
    """Ids of the start, the end and the padding, as far as the model itself says them."""
    if isinstance(text, HFTextEncoder):
        return _named_ids(text.config)
    pool: Any = text.text_pool_type if text is module else text.pool_type
    if pool == "argmax":  # the end of text has the highest id, in CLIP the start has the one before
        return frozenset((text.vocab_size - 2, text.vocab_size - 1))
    if pool == "eos":
        return frozenset((module.text_eos_id if text is module else text.eos_id,))
    return frozenset()


def _named_ids(config: Any) -> frozenset[int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    ids = (getattr(config, name, None) for name in names)
    return frozenset(token for token in ids if isinstance(token, int))


def _text_projection(text: Any) -> Projection | None:
    if isinstance(text, HFTextEncoder):
        return None
    return Projection(text.ln_final, text.text_projection)


def _encode_text(module: Any, prompts: tokens.Tokens) -> Float[Tensor, "prompt dim"]:
    device = next(module.parameters()).device
    return module.encode_text(prompts.ids.to(device), normalize=False)


def _own_tokenizer(text: Any) -> Any:
    if text.vocab_size == tokens.CLIP_VOCABULARY:
        return tokens.clip_tokenizer(text.context_length)
    return tokens.missing(
        f"the model came without a tokenizer for its {text.vocab_size} tokens; "
        "pass wrap(..., tokenizer=...) or token ids"
    )


def _text_readout(
    module: Any,
) -> tuple[Any, Callable[[Int[Tensor, "prompt context"]], Int[Tensor, " prompt"]]]:
    """The readout's name and its row for each prompt; -1 is the mean over a prompt's tokens."""
    text = getattr(module, "text", module)
    if isinstance(text, HFTextEncoder):
        if isinstance(text.pooler, ClsPooler | ClsLastHiddenStatePooler):
            return "class token", partial(_constant_row, 0)
        return "mean of tokens", partial(_constant_row, -1)
    if isinstance(text, TextTransformer) and text.cls_emb is not None:
        return "class token", partial(_constant_row, text.context_length)
    pool: Any = text.text_pool_type if text is module else text.pool_type
    if pool == "eos":
        return "end of text", partial(
            _first_row_of, module.text_eos_id if text is module else text.eos_id
        )
    rows = {
        "argmax": ("end of text", partial(torch.argmax, dim=-1)),
        "last": ("last token", partial(_constant_row, text.context_length - 1)),
        "first": ("class token", partial(_constant_row, 0)),
    }
    if pool not in rows:
        raise ModelError(
            f"the text tower pools by {pool!r}, which gives no single embedding; "
            "expected 'argmax', 'eos', 'last' or 'first'"
        )
    return rows[pool]


def _constant_row(row: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    return torch.full((ids.shape[0],), row)


def _first_row_of(token: int, ids: Int[Tensor, "prompt context"]) -> Int[Tensor, " prompt"]:
    return (ids == token).int().argmax(dim=-1)


# Other input sizes -----------------------------------------------------------------------------


def _resized(
    module: Any,
    normalisation: dict[str, Any],
    described: dict[str, Any],
    height: int,
    width: int,
) -> Model:
    """The same weights at `height` x `width`, which the whole photograph is squashed to."""
    vision = _vision(module)
    if height < 1 or width < 1 or height % vision.stride[0] or width % vision.stride[1]:
        raise ModelError(
            f"got an input size of {height} x {width}, expected multiples of "
            f"{vision.stride[0]} x {vision.stride[1]}; try {_near((height, width), vision.stride)}"
        )
    twin = shell(module)
    _set_input_size(twin.visual, (height, width))
    changes = {"size": (height, width), "resize_mode": "squash", **normalisation}
    if hasattr(twin.visual, "preprocess_cfg"):
        twin.visual.preprocess_cfg = {**twin.visual.preprocess_cfg, **changes}
    sized = wrap(twin, preprocess=_preprocess(twin, **changes), **described)
    return replace(sized, library=library.another_size(height, width))


def _near(size: Size, stride: Size) -> str:
    near = (max(1, round(side / step)) * step for side, step in zip(size, stride, strict=True))
    return " x ".join(map(str, near))


def _set_input_size(visual: Any, size: Size) -> None:
    """Give a shell of an image tower its new size: new position embeddings, nothing in place."""
    if isinstance(visual, VisionTransformer):
        patch = _pair(visual.patch_size)
        grid = (size[0] // patch[0], size[1] // patch[1])
        visual.positional_embedding = _interpolated(
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
    pool, (height, width) = visual.attnpool, _pair(visual.image_size)
    pool.positional_embedding = _interpolated(
        pool.positional_embedding, 1, (height // 32, width // 32), (size[0] // 32, size[1] // 32)
    )
    visual.image_size = size


def _interpolated(
    embedding: Float[nn.Parameter, "old width"], prefix: int, old: Size, new: Size
) -> Float[nn.Parameter, "new width"]:
    """Position embeddings on another grid, bicubic and antialiased as open_clip resizes its own."""
    with torch.no_grad():
        named, grid = embedding[:prefix], embedding[prefix:]
        grid = grid.unflatten(0, old).permute(2, 0, 1).unsqueeze(0)
        computed = grid if grid.dtype == torch.float64 else grid.float()
        grid = interpolate(computed, size=new, mode="bicubic", antialias=True, align_corners=False)
        grid = grid.squeeze(0).flatten(1).T.to(embedding.dtype)
        return nn.Parameter(torch.cat([named, grid]), requires_grad=embedding.requires_grad)


def _pair(size: Any) -> Size:
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)
