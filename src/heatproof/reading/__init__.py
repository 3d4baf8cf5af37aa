"""How a model's own forward pass is read: traces, interventions, where gradients start."""

from heatproof.reading.activations import Activation, Edit, edit_activations, record_activations
from heatproof.reading.attention import reading, readings_open, refuse_unreadable
from heatproof.reading.attention_call import Attention, AttentionCall, Trace
from heatproof.reading.attention_layers import AttentionLayer, find_attention_layers
from heatproof.reading.blocks import TokenStates, block_of, block_path, blocks_of, by_token
from heatproof.reading.interventions import Intervention

__all__ = [
    "Activation",
    "Attention",
    "AttentionCall",
    "AttentionLayer",
    "Edit",
    "Intervention",
    "TokenStates",
    "Trace",
    "block_of",
    "block_path",
    "blocks_of",
    "by_token",
    "edit_activations",
    "find_attention_layers",
    "reading",
    "readings_open",
    "record_activations",
    "refuse_unreadable",
]
