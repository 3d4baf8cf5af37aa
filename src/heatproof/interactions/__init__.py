"""Which words interact with which regions: exCLIP's and FIxLIP's second-order attributions."""

from heatproof.interactions.exclip import exclip
from heatproof.interactions.fixlip import fixlip, pair_fit
from heatproof.interactions.result import Interactions

__all__ = ["Interactions", "exclip", "fixlip", "pair_fit"]
