"""Load a model by its name, or wrap one that the caller has."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from heatproof import checking, specs
from heatproof.errors import InputError, ModelError, UnknownName
from heatproof.models.compiling import compile_blocks
from heatproof.models.geometry import Preprocess
from heatproof.models.inside import found_in
from heatproof.models.measured_geometry import described
from heatproof.models.model import Model
from heatproof.models.running import check_default_device

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@torch.inference_mode(False)  # its weights are to take part in gradients, whoever calls
def load(
    spec: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    image_size: int | tuple[int, int] | None = None,
    allow_download: bool = True,
    compile: bool = False,
) -> Model:
    """Load a model by its name, in evaluation mode.

    `spec` is `open_clip:NAME[/PRETRAINED]` (PRETRAINED: a tag or a local file), `hf:ID_OR_FOLDER`,
    `timm:NAME`, `scenes[:CHECKPOINT]` or `specimen:NAME`. Where it names no weights they are
    random, from a fixed seed, and `Model.notices` says so. Only weights that `spec` names are ever
    downloaded, and none with `allow_download=False`. `image_size` (a side, or height and width) has
    the position embeddings interpolated. `compile` has torch compile the image tower's blocks,
    which takes half a minute and pays where many images follow (`compiling.compile_blocks`).

    Raises `UnknownName`, `ModelError` and, for a device or dtype that cannot be had, `InputError`.
    """
    check_default_device()
    family, name = specs.check(spec)
    checking.flag("allow_download", allow_download)
    checking.flag("compile", compile)
    size = checking.image_size(image_size)
    if size == "keep":
        raise InputError("got image size 'keep', which depends on the image; pass it to explain")
    target, precision = _device(device), _dtype(dtype)
    loading = import_module(f"heatproof.{family.package}.loading")
    model: Model = loading.load(name, allow_download=allow_download)
    model.module.to(device=target, dtype=precision)
    model = _at_size(model, size) if isinstance(size, tuple) else model
    if compile:
        compile_blocks(model)
    return model


def wrap(
    module: nn.Module,
    *,
    preprocess: Preprocess | Callable[[Image.Image], Tensor] | Any = None,
    tokenizer: Any = None,
    name: str | None = None,
) -> Model:
    """Describe a model object that the caller has; it is not changed.

    Wrappers that compute what they wrap are looked through (`DataParallel`, `torch.compile`, peft's
    adapters). Of a module that holds one CLIP-like model somewhere inside (a Lightning module,
    a `SentenceTransformer`), that model is taken, and a notice says so.

    `preprocess` is the transform that the model was trained with, if it is not the model's own
    (for a Hugging Face model its processor, too); which part of a photo it shows is read off
    it, or measured. `tokenizer` is one of open_clip's or Hugging Face's.
    """
    check_default_device()
    _check_module(module)
    # Inside a training module the model itself is explained; a notice says so.
    held = found_in(module, _has_a_text_tower)
    module = held.module
    _check_usable(module)
    if name is not None:
        checking.text("name", name)
    if preprocess is not None and (not callable(preprocess) or isinstance(preprocess, type)):
        raise ModelError(
            f"got {checking.shown(preprocess)} as preprocess, expected the transform or processor "
            "that the model was trained with"
        )
    if tokenizer is not None and (not callable(tokenizer) or isinstance(tokenizer, type)):
        raise ModelError(
            f"got {checking.shown(tokenizer)} as tokenizer, expected one of open_clip's "
            "(open_clip.get_tokenizer(NAME)) or Hugging Face's"
        )
    preprocess = held.processor if preprocess is None else preprocess
    tokenizer = held.processor if tokenizer is None else tokenizer
    if preprocess is not None and not _is_description(preprocess):
        preprocess = described(cast(Callable[[Image.Image], Tensor], preprocess))
    for adapter in _adapters():
        if adapter.recognises(module):
            return adapter.wrap(
                module,
                spec=name or type(module).__name__,
                preprocess=_for_adapter(adapter, preprocess),
                tokenizer=tokenizer,
                notices=held.notices,
            )
    *objects, last = (family.objects for family in specs.FAMILIES if family.objects)
    raise ModelError(
        f"got a {type(module).__name__}, which is no model that heatproof knows; expected "
        f"{', '.join(objects)}, or {last}{_part_to_pass(module)}"
    )


def _device(device: str | torch.device) -> torch.device:
    checking.device(device)
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise InputError(
            f"asked for the device {checking.shown(str(device))}, which torch does not find here; "
            f"there is {', '.join(here)}"
        ) from None
    return target


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if not isinstance(dtype, str | torch.dtype):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"got dtype={checking.shown(dtype)}, expected {' or '.join(DTYPES)}")
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UnknownName("dtype", name, DTYPES)
    return DTYPES[name]


def _at_size(model: Model, image_size: tuple[int, int]) -> Model:
    height, width = image_size
    native = model.image.preprocess
    if (height, width) == (native.height, native.width):
        return model
    resized = model.resized_as_trained or model.resized
    if resized is None:
        raise ModelError(
            f"{model.spec} takes pictures of {native.height} x {native.width} only, "
            f"got an image size of {height} x {width}"
        )
    return resized(height, width)


# Wrapping ----------------------------------------------------------------------------------------


@cache
def _adapters() -> tuple[Any, ...]:
    """Import the packages that describe objects, in the order in which they are asked."""
    packages = (family.package for family in specs.FAMILIES if family.objects)
    return tuple(import_module(f"heatproof.{package}") for package in packages)


def _for_adapter(adapter: Any, preprocess: Any) -> Any:
    """Return the preprocessing as an adapter takes it: Hugging Face's takes processors."""
    hugging_face = adapter.__name__.endswith(".hugging_face")
    if preprocess is None or hugging_face or isinstance(preprocess, Preprocess):
        return preprocess
    processor = getattr(preprocess, "image_processor", preprocess)
    return import_module("heatproof.models.hugging_face.processors").transform_of(processor)


def _is_description(preprocess: object) -> bool:
    """Return whether it says its own geometry: `Preprocess` and Hugging Face's processors do."""
    known = type(preprocess).__module__.startswith("transformers.")
    return known or isinstance(preprocess, Preprocess)


def _has_a_text_tower(module: nn.Module) -> bool:
    """Return whether a module is CLIP-like. (Any part of timm's models is recognised as timm's.)"""
    *clip_like, _ = _adapters()
    return any(adapter.recognises(module) for adapter in clip_like)


def _part_to_pass(module: nn.Module) -> str:
    """Name the part of an unknown model that is a known one, if any is."""
    *_, classifiers = _adapters()
    parts = [name for name, part in module.named_modules() if isinstance(part, classifiers.KINDS)]
    return f"; its part {parts[0]!r} is one, pass that" if parts else ""


def _check_module(module: object) -> None:
    if isinstance(module, nn.Module):
        return
    if isinstance(module, Model):
        raise ModelError(f"got {module.spec}, which is wrapped already; pass it on as it is")
    if isinstance(module, tuple) and any(_is_module(part) for part in module):  # pyright: ignore
        hint = "pass the module among them alone"
    else:
        held = [name for name, part in getattr(module, "__dict__", {}).items() if _is_module(part)]
        hint = f"pass its .{held[0]}" if held else "load(...) takes names"
    raise ModelError(f"got {checking.shown(module)}, expected a torch.nn.Module; {hint}")


def _is_module(part: object) -> bool:
    return isinstance(part, nn.Module)


def _check_usable(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "got a scripted model, whose attention cannot be read; pass the model that was scripted"
        )
    if any(hasattr(part, "_orig_mod") for part in module.modules()):
        raise ModelError(
            "got a compiled model, whose attention cannot be read; pass the one that was given to "
            "torch.compile (compiled._orig_mod), or compile it in place by its .compile()"
        )
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise ModelError("the model is on the meta device and has no weights; load them first")
    if any(tensor.is_inference() for tensor in tensors):
        raise ModelError(
            "the model was made inside torch.inference_mode, and no gradient goes through its "
            "weights; make it outside, or pass copy.deepcopy(model), copied outside"
        )
    # Dropout and batch statistics would make each pass another function.
    training = next((name for name, part in module.named_modules() if part.training), None)
    if training is not None:
        where = f" (in {training})" if training else ""
        raise ModelError(f"the model is in training mode{where}; call model.eval() first")
