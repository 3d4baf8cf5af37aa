"""`load` a model by its name, `wrap` one that is there."""

from typing import Any

import open_clip
import torch
from torch import nn

from heatproof.errors import InputError, ModelError, UnknownName
from heatproof.models import open_clip as open_clip_models
from heatproof.models.model import Model

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(spec: str, *, device: str = "cpu", dtype: str = "float32") -> Model:
    """A model by its name: `open_clip:NAME`."""
    kind, _, name = spec.partition(":")
    if kind != "open_clip":
        raise UnknownName("kind of model", kind, ["open_clip"])
    if name not in open_clip.list_models():
        raise UnknownName("open_clip model", name, open_clip.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.create_model(name, load_weights=False)
    module = module.eval().to(device, DTYPES[dtype])
    return open_clip_models.wrap(module, spec=spec, pretrained=False)


def wrap(
    module: nn.Module, *, preprocess: Any = None, tokenizer: Any = None, name: str | None = None
) -> Model:
    """A model object that is there, described."""
    if module.training:
        raise ModelError("the model is in training mode; call model.eval() first")
    if open_clip_models.recognises(module):
        return open_clip_models.wrap(
            module, spec=name or type(module).__name__, tokenizer=tokenizer
        )
    raise ModelError(f"got a {type(module).__name__}, which is no model that heatproof knows")
