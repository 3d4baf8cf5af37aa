"""Models that do not look: the readout is kept from the image's tokens, in all layers or some.

A class token starts equal for every image, so that it stays equal where it may attend to nothing
but itself: the embedding is then one and the same. The probe of an attention pool is blind where it
may attend to no key at all. Where the readout is a mean over patches no such intervention exists:
each patch carries its own content to the embedding by the residual stream, without attention.

These interventions come after whatever a method does to a call (`reading(last=True)`): they mask
scores, and where a method has set the weights themselves they take the row's share away from them.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from heatproof.engine.batches import POOLS
from heatproof.errors import ReadingError
from heatproof.evaluation.variants import Variant, intervened
from heatproof.models import Model, Tokens
from heatproof.reading import AttentionCall, AttentionLayer, Intervention
from heatproof.reading.interventions import hidden_keys

NO_BLINDNESS = (
    "the readout is a mean over patches, each of which carries its own content to the embedding "
    "without any attention: this model cannot be made blind"
)


def blind(
    model: Model,
    layers: Sequence[AttentionLayer],
    *,
    last: int | None = None,
    calls: Counter[str] | None = None,
) -> Variant:
    """Return the model whose readout sees nothing of an image.

    Args:
        layers: the image tower's attention calls, first to last.
        last: in how many of the last layers; in all of them without it.
        calls: counts, by path, the images whose call was intervened on.

    Raises:
        ReadingError: the readout is a mean over patches.
    """
    chosen = layers if last is None else layers[-last:]
    where = "every layer" if last is None else f"the last {last} layer(s)"
    changes = {
        layer.path: _counted(hidden_keys(_content(model, layer), rows), layer.path, calls)
        for layer, rows in _readout_calls(model, chosen)
    }
    return intervened(model, f"readout blind in {where}", changes, last=True)


def _counted(change: Intervention, path: str, calls: Counter[str] | None) -> Intervention:
    def intervene(call: AttentionCall) -> AttentionCall:
        if calls is not None:
            calls[path] += len(call.query)
        return change(call)

    return intervene


def partly_blind(
    model: Model, layers: Sequence[AttentionLayer], share: float, *, seed: int = 0
) -> Variant:
    """Return the model whose readout sees all but `share` of the patches, in every layer.

    The hidden patches are the same for all images, and those of a smaller share are among those of
    a larger one.

    Raises:
        ReadingError: as in `blind`.
    """
    if share == 1:
        return blind(model, layers)
    changes: dict[str, Intervention] = {}
    for layer, rows in _readout_calls(model, layers):
        content = _content(model, layer)
        patches = content.nonzero()[:, 0]
        order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
        hidden = torch.zeros_like(content)
        hidden[patches[order[: round(share * len(patches))]]] = True
        changes[layer.path] = hidden_keys(hidden, rows)
    return intervened(model, f"{share:.0%} of the patches hidden", changes, last=True)


def blind_reader(model: Model, tokens: Tokens, layers: Sequence[AttentionLayer]) -> Variant:
    """Return the model whose text readout sees none of the words of one prompt.

    Its embedding depends on the place of the readout alone: prompts of one length score equal.

    Args:
        tokens: the one prompt that is read.
        layers: the text tower's attention calls, for prompts of this length.

    Raises:
        ReadingError: the readout is a mean over words.
    """
    assert model.text is not None
    if model.text.readout.name == "mean of tokens":
        raise ReadingError(NO_BLINDNESS.replace("patch", "word").replace("wordes", "words"))
    row = int(tokens.readout[0])

    def see_nothing(call: AttentionCall) -> AttentionCall:
        # By the call's own length: some towers cut a prompt to its words.
        hidden = torch.ones(call.key.shape[2], dtype=torch.bool)
        if call.query.shape[2] == len(hidden):
            hidden[row] = False
        return hidden_keys(hidden, torch.tensor([row]))(call)

    calls = _own_calls(layers, pooled=model.text.readout.name in POOLS)
    changes = {layer.path: see_nothing for layer in calls}
    return intervened(model, f"text readout {row} blind in every layer", changes, last=True)


def _readout_calls(
    model: Model, layers: Sequence[AttentionLayer]
) -> list[tuple[AttentionLayer, Int[Tensor, " row"] | None]]:
    """Return the calls in which the readout attends, with its rows there (None: all of them)."""
    readout = model.image.readout
    pooled = readout.name in POOLS
    if readout.row is None and not pooled:
        raise ReadingError(NO_BLINDNESS)
    rows = None if readout.row is None else torch.tensor([readout.row])
    return [(layer, rows) for layer in _own_calls(layers, pooled=pooled)]


def _own_calls(layers: Sequence[AttentionLayer], *, pooled: bool) -> tuple[AttentionLayer, ...]:
    # Before a pool there is no readout: its probe comes in with the last call.
    return tuple(layers[-1:]) if pooled else tuple(layers)


def _content(model: Model, layer: AttentionLayer) -> Bool[Tensor, " key"]:
    """Mark the keys that hold anything of the image: all but the readout token itself.

    In a pool that is every key: the mean query of a ResNet is itself a mean over patches. Registers
    count as content, for they may have gathered it.
    """
    content = torch.ones(layer.keys, dtype=torch.bool)
    row = model.image.readout.row
    if row is not None and model.image.readout.name not in POOLS:
        content[row] = False
    return content
