"""Hugging Face's CLIP, SigLIP, SigLIP 2 and BLIP (retrieval), and its ViT and DeiT classifiers."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from heatproof.certificate import Weights
from heatproof.errors import ModelError
from heatproof.models import hugging_face_processing as processing
from heatproof.models import library, tokens
from heatproof.models.geometry import Preprocess
from heatproof.models.hugging_face_towers import Family, Vision, family_of
from heatproof.models.model import ImageTower, Model


def recognises(module: nn.Module) -> bool:
    """Whether `module` is one of the Hugging Face models that can be described."""
    return family_of(module) is not None


def wrap(
    module: nn.Module,
    *,
    spec: str | None = None,
    preprocess: Any = None,
    tokenizer: Any = None,
    weights: Weights = "unknown",
    notices: tuple[str, ...] = (),
) -> Model:
    """Describe a Hugging Face model.

    `preprocess` is a `Preprocess` or a Hugging Face image processor (or processor of both);
    `tokenizer` a tokenizer or such a processor. Without them the family's usual image processor,
    and CLIP's own tokenizer for a vocabulary of its size.
    """
    family = family_of(module)
    if family is None:
        raise ModelError(
            f"got a {type(module).__name__}, which is no Hugging Face model known here"
        )
    vision = family.vision(module)
    described = {
        "spec": spec or type(module).__name__,
        "tokenizer": tokenizer,
        "weights": weights,
        "notices": notices,
    }
    processor = None if isinstance(preprocess, Preprocess) else preprocess
    processor = getattr(processor, "image_processor", processor)
    own = _library(module, vision, processor or preprocess, tokenizer)
    processor = processor or processing.usual_processor(vision)
    if not isinstance(preprocess, Preprocess):
        preprocess = processing.preprocess_of(processor, vision)
    sized = _described(module, family, vision, processor, preprocess, described)
    return replace(sized, library=own)


def _library(
    module: Any, vision: Vision, given: Any, tokenizer: Any
) -> library.Library | library.NoLibrary:
    """transformers' own way, through the processor or transform that was given."""
    if given is None:
        usual = type(processing.usual_processor(vision)).__name__
        return library.NoLibrary(
            f"the model came without its image processor, and the usual {usual} was taken; pass "
            "wrap(..., preprocess=processor)"
        )
    if isinstance(given, Preprocess):
        if vision.family == "hf-siglip2":
            return library.NoLibrary(
                "the given preprocess makes pixels, and the model's own call takes patches; pass "
                "its image processor"
            )
        given = given.transform
    tokenizer = None if isinstance(tokenizer, tokens.Missing) else tokenizer
    if vision.family in ("hf-clip", "hf-siglip", "hf-siglip2"):
        return library.hugging_face(module, given, tokenizer)
    if vision.family == "hf-blip":
        return library.retrieval(module, given, tokenizer)
    return library.labelled(module, given)


def load(name: str, *, allow_download: bool = True) -> Model:
    """The model in a local folder, or of an id on the Hugging Face hub."""
    from heatproof.models import hugging_face_loading

    return hugging_face_loading.load(name, allow_download=allow_download)


def _described(
    module: Any,
    family: Family,
    vision: Vision,
    processor: Any,
    preprocess: Preprocess,
    described: dict[str, Any],
) -> Model:
    bias = getattr(module, "logit_bias", None)
    scale = getattr(module, "logit_scale", None)
    text = family.text and processing.text_tower(family.text(module), described["tokenizer"])
    resized = partial(_resized, module, family, vision, processor, described)
    return Model(
        spec=described["spec"],
        family=vision.family,
        module=module,
        image=ImageTower(
            vision.encode, vision.path, vision.layout, vision.readout, preprocess, vision.project
        ),
        text=text,
        classes=() if text else _classes(module.config),
        logit_scale=1.0 if scale is None else float(scale.detach().exp()),
        logit_bias=0.0 if bias is None else float(bias.detach()),
        sigmoid=bias is not None,
        resized=resized if vision.any_size else None,
        weights=described["weights"],
        notices=described["notices"],
    )


def _classes(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


def _resized(
    module: nn.Module,
    family: Family,
    vision: Vision,
    processor: Any,
    described: dict[str, Any],
    height: int,
    width: int,
) -> Model:
    """The same model at `height` x `width`, which the whole photograph is squashed to."""
    (rows, cols), size = vision.patch, (height, width)
    if size != vision.native and (min(size) < 1 or height % rows or width % cols):
        raise ModelError(
            f"got an input size of {height} x {width}, expected positive multiples of the patch "
            f"size {rows} x {cols}; try {max(1, round(height / rows)) * rows} x "
            f"{max(1, round(width / cols)) * cols}"
        )
    preprocess = processing.squashed(processor, vision, size)
    sized = _described(module, family, vision, processor, preprocess, described)
    return replace(sized, library=library.another_size(height, width))
