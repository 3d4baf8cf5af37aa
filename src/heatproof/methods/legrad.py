"""LeGrad (Bousselham et al., ICCV 2025, arXiv 2404.03214): positive attention gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import (
    NEVER,
    Factors,
    Layers,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
    last_paths,
)
from heatproof.methods.dense import embedded
from heatproof.methods.registry import register
from heatproof.methods.relevance import check_same_tokens
from heatproof.reading import Attention, AttentionLayer, block_of

LAYERS = 2


@register
@dataclass(frozen=True)
class LeGrad(Method):
    """E_i = sum over layers l of mean over heads and queries of (ds_l/dA^l_qi)+.

    readout: `mean`, as published: s_l is the score of the mean over all tokens that layer l
        puts out, class token included, by the final norm and projection. `model`: s_l is the
        model's own score in every layer.
    layers: the last n calls, or `all` (default: 2, as in the authors' code).
    """

    readout: Literal["mean", "model"] = "mean"
    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="legrad",
        summary="positive attention gradients of the last layers, all queries averaged",
        source="Bousselham et al., ICCV 2025, arXiv 2404.03214; authors' wrapper.py",
        reads="attention gradients of the last calls (readout=mean: and what their blocks put out)",
        changes="readout: each layer's mean token in place of the class token (readout=mean)",
        values="not negative; no promised sum",
        signs=(NEVER, "attention gradient"),
        cost="1 forward pass, 1 backward pass through the layers read per prompt (readout=mean: 1 "
        "a layer)",
        sides=("image",),
        notes="The paper sums over layers; the authors' code takes the last two (layer_index=-2), "
        "and so does the default. Scaling to 0..1 is display. Their SigLIP and CoCa variants, on "
        "the pooling call, are not here: readout=model reads any tower. Their README takes "
        "images of 448 pixels: see `image_size`.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_paths(layers, self.layers, LAYERS)
        states = map(block_of, layers[-len(paths) :]) if self.readout == "mean" else ()
        return Plan(paths=paths, weights=True, start=paths[0], states=tuple(states))

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        layers = read.trace.layers
        check_same_tokens(layers)
        if self.readout == "model":  # one score for all layers: one backward pass per prompt
            maps = [
                sum(map(_positive, grads["weights"]), start=torch.zeros(()))
                for grads in read.gradients(layers, ("weights",))
            ]
            return torch.stack(maps, dim=1)
        # Each layer has a score of its own, so each costs a backward pass per prompt.
        parts = [_surrogate_layer(read, layer, number) for number, layer in enumerate(layers)]
        return torch.stack(parts).sum(0)

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Return the last layer's surrogate score."""
        return read.scores if self.readout == "model" else _mean_token_scores(read, -1)

    def factors(self, side: Side) -> Factors:
        del side
        if self.readout == "model":
            return Factors(("gradients of the score with respect to attention weights",))
        return Factors(
            ("attention weights of the last calls, differentiated",),
            ("the score of each layer's mean token in place of the model's own",),
            "readout",
        )


def _surrogate_layer(
    read: ReadPass, layer: Attention, number: int
) -> Float[Tensor, "item target token"]:
    scores = _mean_token_scores(read, number)
    maps = [
        _positive(grads["weights"][0]) for grads in read.gradients([layer], ("weights",), scores)
    ]
    return torch.stack(maps, dim=1)


def _positive(grad: Float[Tensor, "item head query key"]) -> Float[Tensor, "item key"]:
    # Rectified before heads and queries are averaged, as published.
    return grad.clamp(min=0).mean((1, 2))


def _mean_token_scores(read: ReadPass, number: int) -> Float[Tensor, "item target"]:
    """Return s_l: the score of the mean of the tokens that layer's block puts out."""
    output = list(read.states.values())[number].output
    return read.batch.compare(embedded(read, output.mean(1)))
