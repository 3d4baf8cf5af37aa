"""A second set of module objects around the same weights: what another input size needs."""

import copy
import itertools
from typing import Any

from torch import nn

from heatproof.reading.hooks import no_hooks_change


def shell(module: nn.Module) -> Any:
    """New module objects around the very same parameters and buffers."""
    shared = itertools.chain(module.parameters(), module.buffers())
    with no_hooks_change():  # another thread may be reading the module
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
