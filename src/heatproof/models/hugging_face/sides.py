"""What is known of the two towers of a Hugging Face model, and the calls that encode.

Nothing here computes an embedding: `encode` calls the model's own public methods. The facts stand
in `families`, one file per `model_type`; tests hold them against the attention that models compute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from heatproof.models.library import Library
from heatproof.models.projection import EmbeddingHead
from heatproof.models.resizing import Size, pair
from heatproof.models.towers import Readout, TokenLayout, Tokens

EncodeImage = Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image dim"]]
EncodeText = Callable[[Tokens], Float[Tensor, "prompt dim"]]


@dataclass(frozen=True, kw_only=True)
class ImageSide:
    """Hold the facts of an image tower. `native` is its own input size in pixels.

    `path` is where its attention lies in the module tree. `any_size` says that the library
    interpolates the position embeddings for other sizes, `cuts_patches` that its processor gives
    each photo a grid of its own and cuts it into patches (NaFlex).
    """

    family: str
    encode: EncodeImage
    readout: Readout
    native: Size
    patch: Size
    prefix: tuple[str, ...] = ()
    path: str = "vision_model"
    any_size: bool = True
    cuts_patches: bool = False
    project: EmbeddingHead | None = None

    def layout(self, height: int, width: int) -> TokenLayout:
        """Return the layout of the tokens of `height` x `width` pixels."""
        return TokenLayout(height // self.patch[0], width // self.patch[1], self.prefix)


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """Hold the facts of a text tower.

    `rows` gives each prompt's readout row. `padding` is the padding token of towers that mask it
    and take prompts of any length up to `context`; None where the tower reads `context` tokens,
    padding included, unless it is `masked` and the tokenizer says what is padding. `special` are
    the ids of the start, the end and the padding, as far as the configuration names them.
    """

    encode: EncodeText
    readout: Readout
    rows: Callable[[Int[Tensor, "prompt context"]], Int[Tensor, " prompt"]]
    context: int
    vocabulary: int
    path: str = "text_model"
    padding: int | None = None
    project: EmbeddingHead | None = None
    special: frozenset[int] = frozenset()
    masked: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Describe the models of one class of transformers.

    `model_class` is its name. `usual_processor` makes the image processor that the library gives
    such a model by default; `call` makes the library's own way from a photo to a score out of
    module, processor and tokenizer.
    """

    model_class: str
    image: Callable[[Any], ImageSide]
    text: Callable[[Any], TextSide] | None = None
    usual_processor: Callable[[ImageSide], Any]
    call: Callable[[Any, Any, Any], Library]


def square(side: ImageSide) -> dict[str, int]:
    """Return a tower's own input size as image processors take it."""
    return {"height": side.native[0], "width": side.native[1]}


# Encoders ----------------------------------------------------------------------------------------


def pooled_image(module: Any) -> EncodeImage:
    """Return `module.get_image_features` as a function of pixels."""
    return partial(_pooled_image, module, pair(module.config.vision_config.image_size))


def _pooled_image(
    module: Any, native: Size, pixels: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, "image dim"]:
    return pooled(
        module.get_image_features(
            pixel_values=pixels, interpolate_pos_encoding=differs(pixels, native)
        )
    )


def text_features(module: Any, prompts: Tokens) -> Float[Tensor, "prompt dim"]:
    """Return `module.get_text_features` of prompts."""
    mask = None if prompts.mask is None else prompts.mask.to(module.device).long()
    ids = prompts.ids.to(module.device)
    return pooled(module.get_text_features(input_ids=ids, attention_mask=mask))


def differs(pixels: Tensor, native: Size) -> bool:
    """Return whether positions have to be interpolated; at the native size the usual way is taken.

    Interpolating onto the same grid would change the last bits.
    """
    return tuple(pixels.shape[-2:]) != native


def pooled(output: Any) -> Tensor:
    """Return the embedding in a tensor, in an output by name, or in a plain tuple of the same."""
    if isinstance(output, Tensor):
        return output
    # `return_dict=False` gives a plain tuple of the same.
    return output[1] if isinstance(output, tuple) else output.pooler_output
