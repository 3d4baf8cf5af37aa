"""How a model's own forward pass is read: traces, interventions, where gradients start."""

from heatproof.reading.call import Attention, AttentionCall
from heatproof.reading.intercept import Trace, reading, refuse_unreadable
from heatproof.reading.interventions import Intervention
from heatproof.reading.sites import Site, find_sites

__all__ = [
    "Attention",
    "AttentionCall",
    "Intervention",
    "Site",
    "Trace",
    "find_sites",
    "reading",
    "refuse_unreadable",
]
