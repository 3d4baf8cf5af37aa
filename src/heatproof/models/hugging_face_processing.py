"""Hugging Face's image processors and tokenizers, as the parts of a described model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from heatproof.errors import ModelError, PromptError
from heatproof.models import measured_geometry, tokens
from heatproof.models.geometry import OwnGrid, Preprocess, Resize, View
from heatproof.models.hugging_face_towers import Size, Text, Vision, real
from heatproof.models.library import unpatched
from heatproof.models.model import TextTower, Tokens

# Pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlooredCrop(Preprocess):
    """Hugging Face's centre crop: of an odd margin, the smaller half lies left and above."""

    def view(self, width: int, height: int) -> View:
        """What the model sees of a photograph of `width` x `height` pixels."""
        view = super().view(width, height)
        resized_width, resized_height = self.resized(width, height)
        x = _excess(resized_width - self.width) * width / resized_width
        y = _excess(resized_height - self.height) * height / resized_height
        return replace(
            view, left=view.left - x, right=view.right - x, top=view.top - y, bottom=view.bottom - y
        )


def _excess(margin: int) -> int:
    return round(margin / 2) - margin // 2 if margin > 0 else 0


def preprocess_of(processor: Any, vision: Vision) -> Preprocess:
    """An image processor with its geometry, which its settings claim and a measurement confirms.

    Raises:
        ModelError: it is no image processor, it gives other than one image of a fixed size, or its
            geometry cannot be measured.
    """
    if _makes_patches(processor):
        return _own_grid(processor, vision)
    preprocess = transform_of(processor)
    unpatched = (preprocess.height % vision.patch[0], preprocess.width % vision.patch[1])
    return replace(preprocess, unpatched=unpatched)


def transform_of(processor: Any) -> Preprocess:
    """An image processor as the preprocessing of a model of another library."""
    _check_kind(processor)
    transform = partial(_pixels, processor, {})
    return measured_geometry.described(transform, _claimed(processor, transform))


def _makes_patches(processor: Any) -> bool:
    return hasattr(processor, "max_num_patches") and hasattr(processor, "patch_size")


def _check_kind(processor: Any) -> None:
    name = type(processor).__name__
    if any(kind.__name__ == "BaseVideoProcessor" for kind in type(processor).__mro__):
        raise ModelError(
            f"got a video processor ({name}), expected an image processor such as "
            "CLIPImageProcessor, or AutoProcessor.from_pretrained(...)"
        )
    if not callable(processor) or not hasattr(processor, "model_input_names"):
        raise ModelError(
            f"got {name} as the preprocessing, expected an image processor such as "
            "CLIPImageProcessor, or a transform of PIL images"
        )


def _claimed(processor: Any, transform: Any) -> Preprocess | None:
    """What the settings say, in the way that most processors are set; None where they do not."""
    size = _size(getattr(processor, "size", None))
    crop = _size(getattr(processor, "crop_size", None))
    cropped = crop if getattr(processor, "do_center_crop", None) else size
    if cropped is None or size is None or set(cropped) != {"height", "width"}:
        return None
    height, width = cropped["height"], cropped["width"]
    resize = _resize(size, (height, width))
    return None if resize is None else FlooredCrop(height, width, *resize, transform)


def _own_grid(processor: Any, vision: Vision) -> Preprocess:
    """NaFlex: the grid is the photo's own, of at most so many patches."""
    if vision.family != "hf-siglip2" or (processor.patch_size,) * 2 != vision.patch:
        raise ModelError(
            f"a {type(processor).__name__} cuts photos into patches of {processor.patch_size} "
            f"pixels; the model ({vision.family}) takes "
            + (
                f"patches of {vision.patch[0]}"
                if vision.family == "hf-siglip2"
                else "whole images: pass its own image processor"
            )
        )
    side = math.isqrt(processor.max_num_patches) * processor.patch_size
    return OwnGrid(side, side, "squash", side, partial(_own_pixels, processor))


def _own_pixels(processor: Any, image: Image.Image) -> Float[Tensor, "3 height width"]:
    return unpatched(processor(images=image, return_tensors="pt"))


def _size(size: Any) -> dict[str, int] | None:
    if not size or isinstance(size, int | list | tuple):
        return None
    return {name: int(side) for name, side in dict(size).items() if side is not None}


def _resize(size: dict[str, int], shown: Size) -> tuple[Resize, int] | None:
    if set(size) == {"shortest_edge"} and shown[0] == shown[1]:
        return "shortest", size["shortest_edge"]
    # A squash may be followed by a crop (DeiT: 256 to 224), which has to have the same aspect.
    if set(size) == {"height", "width"} and size["height"] * shown[1] == size["width"] * shown[0]:
        return "squash", min(size.values())
    return None


def squashed(processor: Any, vision: Vision, size: Size) -> Preprocess:
    """The same processor, asked to squash the whole photograph to another size."""
    height, width = size
    asked = {"size": {"height": height, "width": width}, "do_resize": True}
    if _makes_patches(processor):
        processor = _unpatched(processor)
    elif getattr(processor, "do_center_crop", None):
        asked["do_center_crop"] = False
    return Preprocess(
        height=height,
        width=width,
        resize="squash",
        resize_to=min(size),
        transform=partial(_pixels, processor, asked),
        unpatched=(height % vision.patch[0], width % vision.patch[1]),
    )


def _unpatched(processor: Any) -> Any:
    """SigLIP 2's processor without its last step, cutting into patches, which `encode` does."""
    from transformers import SiglipImageProcessor

    same = ("resample", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")
    return SiglipImageProcessor(**{name: getattr(processor, name) for name in same})


def _pixels(
    processor: Any, asked: dict[str, Any], image: Image.Image
) -> Float[Tensor, "3 height width"]:
    found = processor(images=image, return_tensors="pt", **asked)
    pixels = found.get("pixel_values", None)
    if isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[:2] == (1, 3):
        return pixels[0]
    shape = getattr(pixels, "shape", ())
    got = " x ".join(map(str, shape)) or f"{', '.join(found)} and no pixel_values"
    raise ModelError(
        f"the image processor ({type(processor).__name__}) gives {got} for one photo (crops, "
        "patches or frames), expected 1 x 3 x height x width"
    )


def usual_processor(vision: Vision) -> Any:
    """The image processor that the library gives a family by default, at the model's size."""
    import transformers

    height, width = vision.native
    square = {"height": height, "width": width}
    if vision.family == "hf-clip":
        return transformers.CLIPImageProcessor(
            size={"shortest_edge": min(vision.native)}, crop_size=square
        )
    if vision.family == "hf-siglip2":
        patches = height * width // (vision.patch[0] * vision.patch[1])
        return transformers.Siglip2ImageProcessor(
            patch_size=vision.patch[0], max_num_patches=patches
        )
    names = {"hf-siglip": "Siglip", "hf-blip": "Blip", "hf-vit": "ViT"}
    if vision.family == "hf-deit":
        return transformers.DeiTImageProcessor(
            size={"height": height * 8 // 7, "width": width * 8 // 7}, crop_size=square
        )
    return getattr(transformers, f"{names[vision.family]}ImageProcessor")(size=square)


# Prompts ---------------------------------------------------------------------------------------


def text_tower(text: Text, tokenizer: Any) -> TextTower:
    """The text side, with the model's own tokenizer, CLIP's where it fits, or none."""
    codec = tokens.Codec(
        tokenizer=_usable(text, tokenizer),
        context=text.context,
        vocabulary=text.vocabulary,
        readout=text.rows,
        special=text.special,
    )
    own = getattr(codec.tokenizer, "pad_token_id", None)
    padding = text.padding if text.padding is None or own is None else own
    tokenize = partial(_tokenize, codec, padding)
    if text.masked and "attention_mask" in getattr(codec.tokenizer, "model_input_names", ()):
        tokenize = partial(_tokenize_with_mask, codec)
    from_ids = codec.from_ids if padding is None else partial(_from_ids, codec, padding)
    return TextTower(text.encode, text.path, tokenize, from_ids, text.readout, text.project)


def _usable(text: Text, tokenizer: Any) -> Any:
    if tokenizer is None and text.vocabulary == tokens.CLIP_VOCABULARY and text.padding is None:
        return tokens.clip_tokenizer(text.context)
    if tokenizer is None:
        return tokens.missing(
            f"the model came without a tokenizer for its {text.vocabulary} tokens; "
            "pass wrap(..., tokenizer=...) or token ids"
        )
    if isinstance(tokenizer, tokens.Missing):
        return tokenizer
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    if getattr(inner, "pad_token_id", 0) is None:
        raise ModelError("the tokenizer names no padding token; set tokenizer.pad_token first")
    return inner


def _tokenize(codec: tokens.Codec, padding: int | None, prompts: Sequence[str]) -> Tokens:
    padded = codec.tokenize(prompts)
    if padded.ids.numel() and int(padded.ids.max()) >= codec.vocabulary:
        raise PromptError(
            f"the tokenizer gave the id {int(padded.ids.max())}, but the model has "
            f"{codec.vocabulary} tokens; is it another model's?"
        )
    return padded if padding is None else _trimmed(padded, padding)


def _tokenize_with_mask(codec: tokens.Codec, prompts: Sequence[str]) -> Tokens:
    """SigLIP as its tokenizer has it: some say what is padding, and the model then masks it."""
    padded = _tokenize(codec, None, prompts)
    if not prompts:
        return padded
    given = codec.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=codec.context,
        truncation=True,
        return_tensors="pt",
    )
    return replace(padded, mask=given["attention_mask"].bool())


def _from_ids(codec: tokens.Codec, padding: int, ids: Int[Tensor, "prompt context"]) -> Tokens:
    missing = codec.context - ids.shape[-1]
    if ids.ndim == 2 and missing > 0:
        ids = torch.nn.functional.pad(ids, (0, missing), value=padding)
    return _trimmed(codec.from_ids(ids), padding)


def _trimmed(padded: Tokens, padding: int) -> Tokens:
    """Prompts as long as the longest of them, and a mask over the padding that is left."""
    mask = real(padded.ids, padding)
    longest = int(mask.int().cumsum(1).argmax(1).max()) + 1 if len(mask) else 1
    return replace(padded, ids=padded.ids[:, :longest], mask=mask[:, :longest])
