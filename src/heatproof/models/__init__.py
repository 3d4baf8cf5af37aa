"""Which model: `load` by name, `wrap` an object. Descriptions only, no forward pass."""

from heatproof.models.loading import load, wrap
from heatproof.models.model import Model
from heatproof.models.projection import EmbeddingHead
from heatproof.models.towers import ImageTower, Piece, Readout, TextTower, TokenLayout, Tokens

__all__ = [
    "EmbeddingHead",
    "ImageTower",
    "Model",
    "Piece",
    "Readout",
    "TextTower",
    "TokenLayout",
    "Tokens",
    "load",
    "wrap",
]
