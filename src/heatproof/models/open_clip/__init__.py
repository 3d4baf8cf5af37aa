"""open_clip's models: CLIP, CustomTextCLIP and CoCa, with any of its towers that can be read.

Nothing here computes an embedding: `encode` is the model's own public method.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from jaxtyping import Float
from open_clip import CLIP, CoCa, CustomTextCLIP, get_tokenizer
from open_clip.model import get_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from heatproof.certificate import Weights
from heatproof.models import library, tokenizers
from heatproof.models.geometry import Preprocess, Resize
from heatproof.models.measured_geometry import checked
from heatproof.models.model import Model
from heatproof.models.open_clip.text import text_of, text_tower
from heatproof.models.open_clip.vision import set_input_size, vision_of
from heatproof.models.resizing import check_multiples, pair, shell
from heatproof.models.towers import ImageTower


def recognises(module: nn.Module) -> bool:
    """Return whether `module` is one of open_clip's models."""
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

    `preprocess` replaces the model's own; where its normalisation is unknown, the model has no
    other sizes. `tokenizer` is any that `heatproof.models.tokenizers` knows, `Missing(why)`
    included. Without one, a vocabulary of CLIP's size gets CLIP's own tokenizer.
    """
    vision = vision_of(module)
    own = _library(module, preprocess, tokenizer)
    known = _OpenClipParts(
        module=module,
        normalisation={} if preprocess is None else _normalisation(preprocess.transform),
        spec=spec,
        tokenizer=tokenizer,
        weights=weights,
        notices=notices,
    )
    if preprocess is None:
        preprocess = _preprocess(module)
    unpatched = vision.unpatched(preprocess.height, preprocess.width)
    resizable = known.normalisation is not None
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
        text=text_tower(module, tokenizer),
        logit_scale=float(module.logit_scale.detach().exp()),
        logit_bias=0.0 if module.logit_bias is None else float(module.logit_bias.detach()),
        sigmoid=module.logit_bias is not None,
        resized=partial(_resized, known, "squash") if resizable else None,
        resized_as_trained=partial(_resized, known, preprocess.resize) if resizable else None,
        weights=weights,
        notices=notices,
        library=own,
    )


@dataclass(frozen=True, kw_only=True)
class _OpenClipParts:
    """Hold what a model keeps at every input size. `normalisation` is None where it is unknown."""

    module: Any
    normalisation: dict[str, Any] | None
    spec: str
    tokenizer: Any
    weights: Weights
    notices: tuple[str, ...]


def _encode_image(
    module: Any, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    return module.encode_image(pixels, normalize=False)  # CoCa normalises by default


def _library(module: Any, preprocess: Preprocess | None, tokenizer: Any) -> library.Library:
    """Return open_clip's own way: its transform of the model, unless another one was given."""
    if preprocess is None:
        transform, name = open_clip_transform(module), "open_clip's transform"
    else:
        transform = preprocess.transform
        name = f"the given preprocess ({library.name_of(transform)})"
    text = text_of(module)
    if tokenizer is None and text.vocab_size == tokenizers.CLIP_VOCABULARY:
        tokenizer = get_tokenizer("ViT-B-32", context_length=text.context_length)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = library.ids_of(tokenizer, text.context_length)
    return library.two_towers(module, transform, tokenizer, name)


def open_clip_transform(module: Any) -> Any:
    """Return the transform that `open_clip.create_model_and_transforms` makes for a model."""
    return image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(module)), is_train=False)


# Preprocessing -----------------------------------------------------------------------------------


def _preprocess(module: Any, **changes: Any) -> Preprocess:
    """Return the preprocessing that the model was trained with, as open_clip builds it."""
    known = merge_preprocess_dict(PreprocessCfg(), get_model_preprocess_cfg(module))
    config = PreprocessCfg(**merge_preprocess_dict(known, changes))
    height, width = pair(config.size)
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
    """Return mean, deviation and interpolation of a composed transform, for another size's."""
    # Read off the steps, for a given transform carries no configuration.
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    if "Normalize" not in steps:
        return None
    normalise = {"mean": tuple(steps["Normalize"].mean), "std": tuple(steps["Normalize"].std)}
    resize = steps.get("Resize") or steps.get("ResizeKeepRatio")
    bilinear = resize is not None and getattr(resize.interpolation, "value", "") == "bilinear"
    return {**normalise, "interpolation": "bilinear" if bilinear else "bicubic"}


# Other input sizes -------------------------------------------------------------------------------


def _resized(known: _OpenClipParts, resize: Resize, height: int, width: int) -> Model:
    """Return the same weights at `height` x `width`, to which photos are brought by `resize`."""
    size = (height, width)
    assert known.normalisation is not None
    check_multiples(size, vision_of(known.module).stride)
    twin = shell(known.module)
    set_input_size(twin.visual, size)
    changes = {"size": size, "resize_mode": "squash", **known.normalisation}
    if hasattr(twin.visual, "preprocess_cfg"):
        twin.visual.preprocess_cfg = {**twin.visual.preprocess_cfg, **changes}
    preprocess = _preprocess(twin, **changes)
    sized = wrap(
        twin,
        preprocess=preprocess,
        spec=known.spec,
        tokenizer=known.tokenizer,
        weights=known.weights,
        notices=known.notices,
    )
    if resize != "squash":
        own = _preprocess(twin, resize_mode=resize)
        sized = replace(sized, image=replace(sized.image, preprocess=own))
    return replace(sized, library=library.another_size(height, width))
