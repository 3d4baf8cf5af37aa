"""Hugging Face's image processors as preprocessing with a known geometry."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import SiglipImageProcessor

from heatproof.errors import ModelError
from heatproof.models import measured_geometry
from heatproof.models.geometry import OwnGrid, PhotoView, Preprocess, Resize
from heatproof.models.hugging_face.sides import ImageSide
from heatproof.models.library import unpatched
from heatproof.models.resizing import Size


@dataclass(frozen=True, kw_only=True)
class FlooredCrop(Preprocess):
    """Hugging Face's centre crop: of an odd margin, the smaller half lies left and above."""

    def view(self, width: int, height: int) -> PhotoView:
        """Return what the model sees of a photo of `width` x `height` pixels."""
        view = super().view(width, height)
        # Hugging Face floors the corner of the crop, where other libraries round it.
        resized_width, resized_height = self.resized(width, height)
        x = _excess(resized_width - self.width) * width / resized_width
        y = _excess(resized_height - self.height) * height / resized_height
        return replace(
            view, left=view.left - x, right=view.right - x, top=view.top - y, bottom=view.bottom - y
        )


def _excess(margin: int) -> int:
    return round(margin / 2) - margin // 2 if margin > 0 else 0


def preprocess_of(processor: Any, side: ImageSide) -> Preprocess:
    """Return an image processor's geometry, claimed by its settings and confirmed by measurement.

    Raises:
        ModelError: it is no image processor, it gives other than one image of a fixed size, or its
            geometry cannot be measured.
    """
    if _makes_patches(processor):
        return _own_grid(processor, side)
    preprocess = transform_of(processor)
    # Convolutions drop what no whole patch covers, at the bottom and on the right.
    unpatched = (preprocess.height % side.patch[0], preprocess.width % side.patch[1])
    return replace(preprocess, unpatched=unpatched)


def transform_of(processor: Any) -> Preprocess:
    """Return an image processor as the preprocessing of a model of another library."""
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
    """Return what the settings say, in the way of most processors; None where they do not."""
    size = _size(getattr(processor, "size", None))
    crop = _size(getattr(processor, "crop_size", None))
    cropped = crop if getattr(processor, "do_center_crop", None) else size
    # Settings of another kind: the geometry is then measured alone.
    if cropped is None or size is None or set(cropped) != {"height", "width"}:
        return None
    height, width = cropped["height"], cropped["width"]
    resize = _resize(size, (height, width))
    return (
        None
        if resize is None
        else FlooredCrop(
            height=height, width=width, resize=resize[0], resize_to=resize[1], transform=transform
        )
    )


def _own_grid(processor: Any, side: ImageSide) -> Preprocess:
    """Return a NaFlex processor's preprocessing, which gives each photo a grid of its own."""
    if not side.cuts_patches or (processor.patch_size,) * 2 != side.patch:
        raise ModelError(
            f"a {type(processor).__name__} cuts photos into patches of {processor.patch_size} "
            f"pixels; the model ({side.family}) takes "
            + (
                f"patches of {side.patch[0]}"
                if side.cuts_patches
                else "whole images: pass its own image processor"
            )
        )
    # The square that has as many patches as the processor allows.
    length = math.isqrt(processor.max_num_patches) * processor.patch_size
    return OwnGrid(
        height=length,
        width=length,
        resize="squash",
        resize_to=length,
        transform=partial(_own_pixels, processor),
    )


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


def squashed(processor: Any, side: ImageSide, size: Size) -> Preprocess:
    """Return the same processor, asked to squash the whole photo to another size."""
    height, width = size
    asked = {"size": {"height": height, "width": width}, "do_resize": True}
    if _makes_patches(processor):
        processor = _unpatched(processor)
    # A crop would cut off what the squash has just made room for.
    elif getattr(processor, "do_center_crop", None):
        asked["do_center_crop"] = False
    return Preprocess(
        height=height,
        width=width,
        resize="squash",
        resize_to=min(size),
        transform=partial(_pixels, processor, asked),
        unpatched=(height % side.patch[0], width % side.patch[1]),
    )


def _unpatched(processor: Any) -> Any:
    """Return SigLIP 2's processor without its last step, cutting into patches: `encode` does it."""
    same = ("resample", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")
    return SiglipImageProcessor(**{name: getattr(processor, name) for name in same})


def _pixels(
    processor: Any, asked: dict[str, Any], image: Image.Image
) -> Float[Tensor, "3 height width"]:
    found = processor(images=image, return_tensors="pt", **asked)
    pixels = found.get("pixel_values", None)
    # Several crops or frames of one photo have no single map.
    if isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[:2] == (1, 3):
        return pixels[0]
    shape = getattr(pixels, "shape", ())
    got = " x ".join(map(str, shape)) or f"{', '.join(found)} and no pixel_values"
    raise ModelError(
        f"the image processor ({type(processor).__name__}) gives {got} for one photo (crops, "
        "patches or frames), expected 1 x 3 x height x width"
    )
