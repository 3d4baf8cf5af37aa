"""The model inside what users hand in: wrappers that change nothing, modules that hold a CLIP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from heatproof.errors import ModelError


@dataclass(frozen=True)
class Held:
    """The model to describe, where it was found, and the processor that stood beside it."""

    module: nn.Module
    notices: tuple[str, ...] = ()
    processor: Any = None


def found_in(module: nn.Module, recognises: Callable[[nn.Module], bool]) -> Held:
    """Return the one model inside `module`; itself where it is one, or where there is none.

    Raises:
        ModelError: it holds several; one line names them. Or its wrapper changes what it computes.
    """
    module = _bare(module)
    if recognises(module):
        return Held(module)
    # A part that is held under two names is one part.
    parts = list({part: path for path, part in _outermost(module, recognises)}.items())
    if not parts:
        return Held(module)
    kind = type(module).__name__
    if len(parts) > 1:
        named = ", ".join(path for _, path in parts[:4])
        raise ModelError(f"got a {kind} that holds {len(parts)} models ({named}); pass one of them")
    ((held, path),) = parts
    holder = module.get_submodule(path.rpartition(".")[0])
    notice = (
        f"the {type(held).__name__} inside the {kind} is explained (its part {path!r}); what the "
        f"{kind} does beside it is not"
    )
    processor = getattr(holder, "processor", None)
    return Held(held, (notice,), processor if hasattr(processor, "image_processor") else None)


def _bare(module: Any) -> nn.Module:
    """Return what wrappers compute that change nothing: torch's, peft's with adapters inside."""
    if hasattr(module, "_orig_mod"):
        return _bare(module._orig_mod)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _bare(module.module)
    if any(kind.__module__.startswith("peft.") for kind in type(module).__mro__) and hasattr(
        module, "get_base_model"
    ):
        if getattr(getattr(module, "active_peft_config", None), "is_prompt_learning", False):
            raise ModelError(
                f"got a {type(module).__name__} that puts learned tokens before the prompt, which "
                "heatproof cannot follow; expected adapters inside the model, such as LoRA's"
            )
        return _bare(module.get_base_model())
    return module


def _outermost(
    module: nn.Module, recognises: Callable[[nn.Module], bool], path: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module.named_children():
        inner = f"{path}.{name}" if path else name
        if recognises(_bare(part)):
            yield inner, _bare(part)
        else:
            yield from _outermost(part, recognises, inner)
