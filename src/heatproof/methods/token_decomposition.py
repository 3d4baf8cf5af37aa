"""The exact split of the score by layer, head and token (Gandelsman et al., ICLR 2024, clip_prs).

The readout's last token is a sum: what entered the first block, what each head of each layer moved
there from each token, what each MLP added. With the final norm's deviation and the embedding's
length held at what they are, the score is linear in it, and so is itself that sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.methods.base import (
    CONTRIBUTES,
    Factors,
    Layers,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
    last_paths,
)
from heatproof.methods.registry import register
from heatproof.methods.residual import (
    StreamBlock,
    Tail,
    projection_of,
    read_blocks,
    states_wanted,
    tail_of,
)
from heatproof.methods.tokens import at_readout
from heatproof.reading import AttentionLayer, block_of
from heatproof.reading.attention_call import at_least_float32


@dataclass(frozen=True)
class ScoreTerms:
    """A score's exact terms. Everything adds up to the score, item by item and target by target.

    `attention` is what each head of each layer brings to the readout from each token. `rest` is
    what enters the first block at the readout and what each MLP adds there, one term each.
    `constant` is what belongs to no token: output biases, the final norm's mean and bias.
    """

    attention: Float[Tensor, "item target layer head token"]
    rest: Float[Tensor, "item target term"]
    constant: Float[Tensor, "item target"]


@register
@dataclass(frozen=True)
class TokenDecomposition(Method):
    """E_i = sum over layers and heads of <W_p LN'(W_O^h A^h_ri v^h_i), t> / |f|, and its share of
    what belongs to no token.

    contrast: `none`, so that the values add up to the score; `set` takes off the mean over the
        prompts that were asked for, as the authors' segmentation does over the class names.
    layers: the last n calls only, or `all` (default); what lies before them is one term.
    """

    contrast: Literal["none", "set"] = "none"
    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="token-decomposition",
        summary="the score split exactly by layer, head and token",
        source="Gandelsman et al., ICLR 2024, arXiv 2310.05916; authors' prs_hook.py",
        reads="attention weights, values, output projections and the residual stream at the "
        "readout; the final norm's deviation and the embedding's length, both held fixed",
        changes="nothing",
        values="signed; all key tokens add up to the score (contrast=set: less the prompts' mean)",
        signs=CONTRIBUTES,
        cost="1 forward pass for any number of prompts",
        notes="All layers, as in compute_segmentations.py (the authors' TextSpan: the last four). "
        "Output biases are spread evenly to a layer's tokens, the final norm's mean and bias "
        "evenly to the 2 n + 1 parts of the stream and within a layer to tokens, as in their code. "
        "They draw attention's share alone; what enters the first block and what MLPs add stands "
        "at the readout token here, so that the map is theirs and the sum is the score. Their "
        "contrast with the mean class is contrast=set, their ReLU is display.",
    )

    made_of = Factors(
        (
            "attention weights",
            "values and output projections",
            "the residual stream",
            "the final norm's deviation and the embedding's length",
        )
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_paths(layers, self.layers, len(layers))
        states = states_wanted(layers[-len(paths) :])
        return Plan(paths=paths, weights=True, states=states)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        parts = self.parts(read)
        layers, tokens = parts.attention.shape[2], parts.attention.shape[-1]
        values = parts.attention.sum((2, 3))
        # Of 2 n + 1 parts of the stream n are attentions'; the others stand at the readout token.
        share = parts.constant / (2 * layers + 1)
        # Terms of no token are spread evenly, so that the values still add up to the score.
        values = values + (share * layers / tokens).unsqueeze(-1)
        assert read.batch.readout is not None
        row = read.batch.readout.to(values.device).view(-1, 1, 1).expand(-1, values.shape[1], -1)
        own = parts.rest.sum(-1) + share * (layers + 1)
        return self._contrasted(read, values.scatter_add(2, row, own.unsqueeze(-1)))

    def parts(self, read: ReadPass) -> ScoreTerms:
        """Return the score's terms before any contrast; output biases are spread in `attention`."""
        blocks = read_blocks(read.root, read.trace.layers, read.states)
        tail = tail_of(projection_of(read), at_readout(read, blocks[-1].after.detach()))
        direction, offset = _direction(read, tail)
        # The direction is pulled back once through the tower's end, not once per token.
        back = torch.einsum("itd,idw->itw", direction, tail.matrix)
        constant = direction @ tail.constant - back.sum(-1) * tail.mean.unsqueeze(-1) + offset
        rest = [at_readout(read, blocks[0].before.detach())]
        rest += [_rest(read, block) for block in blocks]
        return ScoreTerms(
            _stacked([_by_head(read, block, back) for block in blocks]),
            torch.einsum("iwp,itw->itp", torch.stack(rest, dim=-1), back),
            constant,
        )

    def _contrasted(
        self, read: ReadPass, values: Float[Tensor, "item target *token"]
    ) -> Float[Tensor, "item target *token"]:
        if self.contrast == "none":
            return values
        if read.batch.asked < 2:
            raise InputError(
                f"contrast=set takes off the mean over the prompts: got {read.batch.asked} prompt, "
                "expected at least 2; try contrast=none"
            )
        # The mean is over the user's own prompts: null prompts behind them must not change a map.
        return values - values[:, : read.batch.asked].mean(1, keepdim=True)

    def total(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Compute the score of the readout's last token, at least in float32."""
        state = read.states[block_of(read.last)]
        last = at_least_float32(at_readout(read, state.output.detach()))
        return self._contrasted(
            read, read.batch.compare(tail_of(projection_of(read), last).embedding)
        )


def _by_head(
    read: ReadPass, block: StreamBlock, back: Float[Tensor, "item target width"]
) -> Float[Tensor, "item target head token"]:
    """Compute what a layer's heads bring to the readout from each token, biases spread evenly."""
    layer = block.layer
    assert layer.weights is not None
    weights = read.rows(layer.weights.detach(), layer).squeeze(2)
    pulled = torch.einsum("itw,hwc->ithc", back, block.by_head())
    found = torch.einsum("ihk,ihkc,ithc->ithk", weights, layer.value.detach(), pulled)
    # A bias belongs to no token: every head and token gets the same share of it.
    share = (back @ block.bias) / (layer.heads * layer.key.shape[2])
    return found + share[..., None, None]


def _stacked(
    layers: Sequence[Float[Tensor, "item target _ token"]],
) -> Float[Tensor, "item target layer head token"]:
    """Stack all layers; one with fewer heads (an intervention's) is filled up with zeros."""
    most = max(layer.shape[2] for layer in layers)
    return torch.stack([F.pad(t, (0, 0, 0, most - t.shape[2])) for t in layers], dim=2)


def _rest(read: ReadPass, block: StreamBlock) -> Float[Tensor, "item width"]:
    """Compute what a block adds to the readout beside attention: its MLP."""
    output = read.rows(block.layer.output.detach(), block.layer)
    change = at_readout(read, (block.after - block.before).detach())
    # What is left of the block's change after its attention is its MLP.
    return change - block.added(output).squeeze(1)


def _direction(
    read: ReadPass, tail: Tail
) -> tuple[Float[Tensor, "item target dim"], Float[Tensor, "item target"]]:
    """Return w and b with S = <w, f> + b, the embedding's length held fixed.

    For any score that is linear in the unit embedding.
    """
    # dS/df lies across f. Along f there must be S - b, with b the score of a zero embedding.
    with torch.enable_grad():
        embedding = tail.embedding.detach().requires_grad_()
        scores = read.batch.compare(embedding)
    grads = [grad for (grad,) in read.gradients_of([embedding], scores)]
    across = torch.stack(grads, dim=1)
    f = embedding.detach().unsqueeze(1)
    # A score may have a constant part (a bias, other prompts), which no token brings.
    offset = read.batch.compare(torch.zeros_like(tail.embedding))
    missing = scores.detach() - offset - (across * f).sum(-1)
    along = missing / (f * f).sum(-1)
    return across + along.unsqueeze(-1) * f, offset
