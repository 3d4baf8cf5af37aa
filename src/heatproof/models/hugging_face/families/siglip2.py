"""SigLIP 2 (NaFlex): as SigLIP, but each photo has a grid of its own and comes in patches."""

from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from heatproof.models import library
from heatproof.models.hugging_face.families.siglip import check_pooled, text_side
from heatproof.models.hugging_face.sides import Architecture, ImageSide, pooled
from heatproof.models.resizing import pair
from heatproof.models.towers import Readout


def _image(module: Any) -> ImageSide:
    check_pooled(module)
    config = module.config.vision_config
    # The learnt positions are a square grid; it is the native size of a model that has no other.
    side = int(config.num_patches**0.5) * config.patch_size
    return ImageSide(
        family="hf-siglip2",
        encode=partial(_patched_image, module, config.patch_size),
        readout=Readout("pool probe", 0),
        native=(side, side),
        patch=pair(config.patch_size),
        cuts_patches=True,
    )


def _patched_image(
    module: Any, patch: int, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    rows, cols = pixels.shape[2] // patch, pixels.shape[3] // patch
    shape = torch.tensor([[rows, cols]] * len(pixels), device=pixels.device)
    return pooled(
        module.get_image_features(
            pixel_values=patched(pixels, patch),
            pixel_attention_mask=torch.ones(len(pixels), rows * cols, device=pixels.device).int(),
            spatial_shapes=shape.reshape(-1, 2),
        )
    )


def patched(
    pixels: Float[Tensor, "image channel height width"], patch: int
) -> Float[Tensor, "image patch value"]:
    """Cut pixels into patches, row by row, channels last: the form that SigLIP 2 takes."""
    tiles = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _usual_processor(side: ImageSide) -> Any:
    patches = side.native[0] * side.native[1] // (side.patch[0] * side.patch[1])
    return transformers.Siglip2ImageProcessor(patch_size=side.patch[0], max_num_patches=patches)


ARCHITECTURE = Architecture(
    model_class="Siglip2Model",
    image=_image,
    text=text_side,
    usual_processor=_usual_processor,
    call=library.hugging_face,
)
