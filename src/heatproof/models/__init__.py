"""Which model: `load` by name, `wrap` an object. Descriptions only, no forward pass."""

from heatproof.models.loading import load, wrap
from heatproof.models.model import (
    ImageTower,
    Layout,
    Model,
    Piece,
    Projection,
    Readout,
    TextTower,
    Tokens,
)

__all__ = [
    "ImageTower",
    "Layout",
    "Model",
    "Piece",
    "Projection",
    "Readout",
    "TextTower",
    "Tokens",
    "load",
    "wrap",
]
