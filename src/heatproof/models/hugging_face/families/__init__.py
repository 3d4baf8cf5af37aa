"""The architectures of transformers that are described: one file each, named by `model_type`."""

from importlib import import_module

from torch import nn

from heatproof import specs
from heatproof.models.hugging_face.sides import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    name: import_module(f"{__name__}.{name}").ARCHITECTURE for name in specs.hugging_face_models()
}
"""By the `model_type` of `config.json`."""


def architecture_of(module: nn.Module) -> Architecture | None:
    """Return the architecture of a model, found by the names of its classes."""
    by_class = {known.model_class: known for known in ARCHITECTURES.values()}
    for kind in type(module).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in by_class:
            return by_class[kind.__name__]
    return None
