"""`torch.compile` for a model's residual blocks, where it gives what the model itself gives."""

from typing import Any

import torch
from torch import Tensor

from heatproof.errors import InputError
from heatproof.models.model import Model
from heatproof.reading.compiled import CALL
from heatproof.tolerances import agree

PICTURES = 2


def compile_blocks(model: Model, **how: Any) -> None:
    """Compile the image tower's residual blocks in place; `how` goes to `torch.compile`.

    Where they are read, they run as python still (`reading.compiled`): an explanation of the last
    layer gains as inference does, one of all layers gains nothing.

    Raises:
        InputError: torch cannot compile them here, or what it compiled gives other embeddings. The
            model is then as it was.
    """
    process, encode = model.image.preprocess, model.image.encode
    shape = (PICTURES, 3, process.height, process.width)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(model.device, model.dtype)
    layers = model.attention_layers("image")
    names = dict.fromkeys(layer.block for layer in layers if layer.block is not None)
    blocks = [model.module.get_submodule(name) for name in names]

    def embeddings() -> Tensor:
        with torch.inference_mode():
            return encode(pixels).float()

    # Compared before and after: a compiler's fusion may round differently.
    own = embeddings()
    try:
        for block in blocks:
            block.compile(**how)
        if agree(embeddings(), own, model.precision):
            return
        said = f"the blocks of {model.spec} give other embeddings when compiled"
    except RuntimeError as error:
        said = f"torch cannot compile the blocks of {model.spec} here ({_line(error)})"
    for block in blocks:
        setattr(block, CALL, None)
    raise InputError(f"{said}; load it without compile")


def _line(error: Exception) -> str:
    return " ".join(str(error).strip().split("\n\n")[0].split())
