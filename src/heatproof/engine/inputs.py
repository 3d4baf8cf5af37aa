"""What users hand in, as the engine takes it: models, images, prompts, tensors of numbers.

Images are files, arrays or tensors; prompts are texts, token ids or embeddings.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from heatproof import checking
from heatproof.engine.memory import largest_batch
from heatproof.errors import ImageError, InputError, ModelError, PromptError
from heatproof.images import Photo, open_image
from heatproof.models import load, wrap
from heatproof.models.class_names import class_indices
from heatproof.models.geometry import PhotoView
from heatproof.models.library import Inputs
from heatproof.models.model import Model
from heatproof.models.running import check_default_device, own_encoder
from heatproof.models.towers import Tokens

Picture = str | Path | Image.Image | np.ndarray
Images = Picture | Iterable[Picture] | Tensor
ImageSize = tuple[int, int] | int | str | None
"""(height, width), one number for both, "keep" or "native" (which None means, too)."""
ModelInput = Model | str | nn.Module
"""A model of `load` or `wrap`, or what these take."""

TEXT_BATCH = 64
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

WEIGHTED = (
    "the prompts are numbers and the model is a classifier: each score is the sum of all class "
    "logits, weighted by these numbers"
)


@dataclass(frozen=True)
class ImageInputs:
    """Images as the image tower takes them, with the model at the size that they need.

    Attributes:
        photos: the images as they came in; empty where preprocessed tensors did.
        views: what of each photo the model sees.
        own: what the library's own processor makes of each photo, where it was asked already; None
            for a photo that it would enlarge too far.
    """

    model: Model
    pixels: Float[Tensor, "image 3 height width"]
    photos: tuple[Photo, ...] = ()
    views: tuple[PhotoView, ...] = ()
    own: tuple[Inputs | None, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What of the photos is not as a user would expect, one line each."""
        return tuple(f"{p.source}: {notice}" for p in self.photos for notice in p.notices)


@dataclass(frozen=True)
class Prompts:
    """Prompts with their embeddings.

    `tokens` is None for class names and bare embeddings, `remarks` are notices about these.
    """

    labels: tuple[str, ...]
    embeddings: Float[Tensor, "prompt dim"]
    tokens: Tokens | None = None
    remarks: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[tuple[str, ...], ...]:
        """The words of each prompt that the tokenizer does not know."""
        known = () if self.tokens is None else self.tokens.unknown
        return known or ((),) * len(self.labels)

    @property
    def notices(self) -> tuple[str, ...]:
        """What of the prompts the model does not read as it is written, one line each."""
        return self.remarks if self.tokens is None else tuple(_prompt_notices(self.tokens))


PromptInput = Iterable[str] | Tensor | Prompts


def _prompt_notices(tokens: Tokens) -> Iterator[str]:
    for text, cut in zip(tokens.texts, tokens.cut, strict=True):
        if cut:
            yield f"prompt {text!r} is longer than the context; cut off: {cut!r}"
    for text, words, unread in zip(tokens.texts, tokens.control, tokens.unread, strict=False):
        if words:
            behind = f"; the model does not read what follows: {unread!r}" if unread else ""
            yield (
                f"prompt {text!r}: the tokenizer takes {_listed(words)} for its own control "
                f"token{'s' if len(words) > 1 else ''}{behind}"
            )
    for text, words in zip(tokens.texts, tokens.unknown, strict=False):
        if words:
            yield (
                f"prompt {text!r}: the model does not know {_listed(words)}; "
                "it reads every unknown word as the same token"
            )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in dict.fromkeys(words))


def model_of(value: object) -> Model:
    """Return a model as it is, loaded by its name, or wrapped.

    Raises:
        ModelError: it is none of these. InputError: torch makes tensors without values.
    """
    check_default_device()  # here, for every door begins with its model
    if isinstance(value, Model):
        return value
    if isinstance(value, nn.Module):
        return wrap(value)
    if isinstance(value, str):
        return load(value)
    first: object = value[0] if isinstance(value, tuple) and value else None  # pyright: ignore
    hint = "; pass the first one alone" if isinstance(first, nn.Module) else ""
    raise ModelError(
        f"got {checking.shown(value)} as a model, expected one of heatproof.load or "
        f"heatproof.wrap, or a name such as 'scenes'{hint}"
    )


def numbers(name: str, value: object, axes: str, *, truths: bool = False) -> Tensor:
    """Return a dense tensor of finite numbers (or truth values).

    axes: the names of its axes, such as "image dim".

    Raises:
        InputError: it is something else.
    """
    if (
        not isinstance(value, Tensor)
        or not is_plain(value)
        or (value.dtype is not torch.bool if truths else not value.is_floating_point())
        or value.dim() != len(axes.split())
        or not (value.dtype is torch.bool or not value.numel() or is_finite(value))
    ):
        raise InputError(
            f"got {name}={checking.shown(value)}, expected a tensor of finite numbers ({axes})"
        )
    return value


# --- images -----------------------------------------------------------------------------------


def images(model: Model, given: Images, size: ImageSize) -> ImageInputs:
    """Open and preprocess images.

    size: "keep" keeps their aspect ratio: the shortest side is the model's own, both sides are
        rounded to whole patches, nothing is cut off. Tensors say their size themselves.

    Raises:
        ImageError: one cannot be read. InputError: the model does not take this size.
    """
    if isinstance(given, Tensor):
        return _from_tensor(model, given)
    photos = tuple(open_image(image) for image in checking.images(given))
    sized = at_size(model, wanted_size(model, photos, size))
    process = sized.image.preprocess
    pixels = _stacked([process(photo.image) for photo in photos])
    views = tuple(process.view(*photo.image.size) for photo in photos)
    return ImageInputs(sized, pixels.to(model.device, model.dtype), photos, views)


def _stacked(pixels: Sequence[Tensor]) -> Float[Tensor, "image 3 height width"]:
    sizes = {tuple(image.shape[1:]) for image in pixels}
    if len(sizes) > 1:
        raise InputError(
            f"the model gives each image a grid of its own aspect ratio, and these {len(pixels)} "
            f"come to {len(sizes)} different sizes; explain them one by one, or with explain_each"
        )
    return torch.stack(list(pixels))


def _from_tensor(model: Model, pixels: Tensor) -> ImageInputs:
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(0)
    shaped = is_plain(pixels) and pixels.dim() == 4 and pixels.shape[1] == 3 and pixels.numel()
    if not shaped or not pixels.is_floating_point():
        raise ImageError(
            f"got a tensor of shape {tuple(pixels.shape)} and {pixels.dtype}, expected "
            "preprocessed floats of shape (image, 3, height, width), all of them there"
        )
    if not is_finite(pixels):
        raise ImageError(
            "got a tensor with values that are not finite (NaN or infinite), expected preprocessed "
            "pixels; was something divided by 0?"
        )
    # A tensor says its size itself; a flexible model takes any.
    size = (pixels.shape[-2], pixels.shape[-1])
    sized = at_size(model, size)  # refuses what is no whole number of patches
    if model.image.preprocess.flexible:
        sized = model
    return ImageInputs(sized, ordinary(pixels).to(model.device, model.dtype))


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor's values can be read: it is not sparse, quantized or on no device."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    # Without a copy of the tensor: the memory may be limited.
    return all(bool(extreme.isfinite()) for extreme in tensor.detach().aminmax())


def at_size(model: Model, size: tuple[int, int] | None) -> Model:
    """Return the model for images of this height and width; itself where they are its own."""
    native = model.image.preprocess
    height, width = size or (native.height, native.width)
    if size is None or (not native.flexible and size == (native.height, native.width)):
        return model
    if model.resized is None:
        raise InputError(
            f"{model.spec} takes {native.height} x {native.width} pixels alone, got "
            f"{height} x {width}: its family has no rule for other sizes"
        )
    return model.resized(height, width)


def wanted_size(model: Model, photos: Sequence[Photo], size: ImageSize) -> tuple[int, int] | None:
    """Return the height and width that `size` means for these photos; None for the model's own."""
    size = checking.image_size(size)
    if size is None or size == "native":
        return None
    if isinstance(size, tuple):
        return size
    native = model.image.preprocess
    if native.flexible:
        return None
    patch = native.height // model.image.layout(native.height, native.width).rows
    wanted = {
        _keep_aspect_ratio(photo.image.size, min(native.height, native.width), patch)
        for photo in photos
    }
    if len(wanted) > 1:
        raise InputError(
            f"image size 'keep' needs images of one aspect ratio, got {len(wanted)} different "
            "ones; explain them one by one"
        )
    return wanted.pop()


def _keep_aspect_ratio(size: tuple[int, int], shortest: int, patch: int) -> tuple[int, int]:
    width, height = size
    factor = shortest / min(size)
    # Attention costs the square of the number of patches.
    if max(size) * factor > 8 * shortest:
        raise InputError(
            f"an image of {width} x {height} pixels is too long and thin for image size 'keep'; "
            "try --image-size native"
        )
    return max(patch, round(height * factor / patch) * patch), max(
        patch, round(width * factor / patch) * patch
    )


# --- prompts ----------------------------------------------------------------------------------


def check_prompts(model: Model, given: PromptInput) -> PromptInput:
    """Return texts as a list, none of which is the name of a file; tensors as they are.

    Raises:
        PromptError: they are neither.
    """
    if isinstance(given, Tensor | Prompts):
        return given
    texts = checking.prompts(given, indices=bool(model.classes))
    if not model.classes:  # whose names are looked up, whatever files are here
        checking.no_files(texts)
    return texts


def prompts(model: Model, given: PromptInput, memory: int | str | None = None) -> Prompts:
    """Tokenise and embed prompts: texts, token ids, embeddings, or a classifier's class names.

    memory: limits what embedding them takes.

    Raises:
        PromptError: no prompt, an empty one, or a tensor of the wrong kind.
    """
    if isinstance(given, Prompts):  # embedded already: an ensemble of templates, for example
        return given
    if isinstance(given, Tensor):
        return _from_prompt_tensor(model, given, memory)
    texts = checking.prompts(given, indices=bool(model.classes))
    if model.classes:
        return _classes(model, texts)
    if model.text is None:
        raise PromptError(
            f"{model.spec} is an image tower without a text tower, got {texts[0][:40]!r}; expected "
            "embeddings (prompt, dim) of the text tower that it was trained with"
        )
    return embed(model, texts, memory)


def embed(model: Model, texts: Sequence[str], memory: int | str | None = None) -> Prompts:
    """Embed texts by the model's own tokenizer and text encoder; an empty text is allowed."""
    assert model.text is not None
    tokens = model.text.tokenize(texts)
    return Prompts(tuple(texts), _encode(model, tokens, memory), tokens)


def _encode(model: Model, tokens: Tokens, memory: int | str | None) -> Tensor:
    assert model.text is not None
    encode = model.text.encode
    size = TEXT_BATCH
    if memory is not None:
        size = largest_batch(model, lambda: encode(select(tokens, 0, 1)), memory, TEXT_BATCH)
    with torch.no_grad(), own_encoder(model.spec, "text"):
        parts = [
            encode(select(tokens, start, start + size))
            for start in range(0, len(tokens.texts), size)
        ]
    embeddings = torch.cat(parts)
    # Scores of half-precision models are compared in float32: rounding would make ties.
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def select(tokens: Tokens, start: int, stop: int) -> Tokens:
    """Return the prompts from number `start` to `stop`."""
    part = slice(start, stop)
    return replace(
        tokens,
        ids=tokens.ids[part],
        readout=tokens.readout[part],
        texts=tokens.texts[part],
        pieces=tokens.pieces[part],
        cut=tokens.cut[part],
        control=tokens.control[part],
        unread=tokens.unread[part],
        unknown=tokens.unknown[part],
        mask=None if tokens.mask is None else tokens.mask[part],
    )


def pick(prompts: Prompts, chosen: Sequence[int]) -> Prompts:
    """Return some of the prompts, by their numbers, without embedding them again."""
    rows = torch.tensor(list(chosen), device=prompts.embeddings.device)
    tokens = prompts.tokens
    if tokens is not None:

        def picked(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[number] for number in chosen) if values else ()

        at = rows.to(tokens.ids.device)
        tokens = Tokens(
            ids=tokens.ids[at],
            readout=tokens.readout[at.to(tokens.readout.device)],
            texts=picked(tokens.texts),
            pieces=picked(tokens.pieces),
            cut=picked(tokens.cut),
            mask=None if tokens.mask is None else tokens.mask[at.to(tokens.mask.device)],
            control=picked(tokens.control),
            unread=picked(tokens.unread),
            unknown=picked(tokens.unknown),
        )
    labels = tuple(prompts.labels[number] for number in chosen)
    return Prompts(labels, prompts.embeddings[rows], tokens, prompts.remarks)


def _classes(model: Model, names: Sequence[str]) -> Prompts:
    index = class_indices(model, names)
    one_hot = torch.nn.functional.one_hot(index, len(model.classes))
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    labels = tuple(model.classes[int(i)] for i in index)
    return Prompts(labels, one_hot.to(model.device, dtype))


def ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients may go through."""
    # One that was made in `torch.inference_mode` takes none, but its copy does.
    return tensor.clone() if tensor.is_inference() else tensor


def _from_prompt_tensor(model: Model, given: Tensor, memory: int | str | None) -> Prompts:
    given = ordinary(given)
    kind = given.dtype in INTEGERS or given.is_floating_point()
    if not is_plain(given) or given.dim() != 2 or not given.numel() or not kind:
        raise PromptError(
            f"got a prompt tensor of shape {tuple(given.shape)} and {given.dtype}, expected token "
            "ids (prompt, context) or embeddings (prompt, dim)"
        )
    if given.is_floating_point():
        if not is_finite(given):
            raise PromptError("got embeddings that are not finite (NaN or infinite values)")
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        labels = tuple(f"embedding {n}" for n in range(len(given)))
        remarks = (WEIGHTED,) if model.classes else ()
        return Prompts(labels, given.detach().to(model.device, dtype), remarks=remarks)
    if model.text is None:
        raise PromptError(f"{model.spec} has no text tower; expected class names or indices")
    tokens = model.text.from_ids(given.to(model.device))
    return Prompts(tokens.texts, _encode(model, tokens, memory), tokens)
