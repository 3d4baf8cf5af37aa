"""The public functions' common arguments, checked before any work is done (see `checking`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from heatproof import checking
from heatproof.engine import inputs
from heatproof.engine.inputs import ImageSize, PromptInput
from heatproof.errors import InputError, ModelError
from heatproof.models import Model, load, wrap

ModelInput = Model | str | nn.Module
"""A model of `load` or `wrap`, or what these take."""


def model_of(value: object) -> Model:
    """A model as it is, loaded by its name, or wrapped.

    Raises:
        ModelError: it is none of these.
    """
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


def prompts_of(model: Model, value: PromptInput) -> PromptInput:
    """Texts as a list, none of which is the name of a file; tensors as they are.

    Raises:
        PromptError: they are neither.
    """
    if isinstance(value, Tensor):
        return value
    texts = checking.prompts(value, indices=bool(model.classes))
    if not model.classes:  # whose names are looked up, whatever files lie here
        checking.no_files(texts)
    return texts


def numbers(name: str, value: object, axes: str, *, truths: bool = False) -> Tensor:
    """A dense tensor of finite numbers (or truth values) with the axes named: "image dim".

    Raises:
        InputError: it is something else.
    """
    if (
        not isinstance(value, Tensor)
        or not inputs.is_plain(value)
        or (value.dtype is not torch.bool if truths else not value.is_floating_point())
        or value.dim() != len(axes.split())
        or not (value.dtype is torch.bool or not value.numel() or inputs.is_finite(value))
    ):
        raise InputError(
            f"got {name}={checking.shown(value)}, expected a tensor of finite numbers ({axes})"
        )
    return value


def check_options(
    *,
    certify: object,
    batch_size: object,
    memory: object,
    seed: object,
    progress: Callable[..., Any] | None,
    image_size: object = None,
) -> ImageSize:
    """Check how to explain; returns the image size as (height, width), "keep" or None."""
    checking.flag("certify", certify)
    if batch_size is not None:
        checking.whole("batch_size", batch_size, least=1)
    checking.memory(memory)
    checking.seed(seed)
    checking.progress(progress, 0, 1)
    return checking.image_size(image_size)
