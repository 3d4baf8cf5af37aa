"""How a model's own forward pass is read: traces, interventions, where gradients start."""

from heatproof.reading.call import Attention, AttentionCall
from heatproof.reading.intercept import Trace, reading, readings_open, refuse_unreadable
from heatproof.reading.interventions import Intervention
from heatproof.reading.sites import Site, find_sites
from heatproof.reading.states import Edit, State, block_path, editing, observing, rows_of

__all__ = [
    "Attention",
    "AttentionCall",
    "Edit",
    "Intervention",
    "Site",
    "State",
    "Trace",
    "block_path",
    "editing",
    "find_sites",
    "observing",
    "reading",
    "readings_open",
    "refuse_unreadable",
    "rows_of",
]
