"""How a model's own forward pass is read: traces, interventions, where gradients start."""

from heatproof.reading.activations import Edit, State, block_path, editing, observing, rows_of
from heatproof.reading.attention import Trace, reading, readings_open, refuse_unreadable
from heatproof.reading.attention_call import Attention, AttentionCall
from heatproof.reading.attention_layers import AttentionLayer, find_attention_layers
from heatproof.reading.interventions import Intervention

__all__ = [
    "Attention",
    "AttentionCall",
    "AttentionLayer",
    "Edit",
    "Intervention",
    "State",
    "Trace",
    "block_path",
    "editing",
    "find_attention_layers",
    "observing",
    "reading",
    "readings_open",
    "refuse_unreadable",
    "rows_of",
]
