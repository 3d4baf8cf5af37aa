"""Which words interact with which regions (exCLIP, FIxLIP), and which texts span what a head adds
(TextSpan)."""

from heatproof.interactions.exclip import exclip
from heatproof.interactions.fixlip import fixlip, pair_fit
from heatproof.interactions.result import Interactions
from heatproof.interactions.text_span import TextSpan, head_outputs, text_span

__all__ = ["Interactions", "TextSpan", "exclip", "fixlip", "head_outputs", "pair_fit", "text_span"]
