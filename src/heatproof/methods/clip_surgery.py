"""CLIP Surgery (Li et al., arXiv 2304.05653): a second, value-value path; redundancy taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError, ReadingError
from heatproof.methods.base import Factors, Layers, MethodCard, Plan, ReadPass, Side, last_paths
from heatproof.methods.dense import SURROGATE, DenseMethod, embedded, token_scores
from heatproof.methods.registry import register
from heatproof.methods.residual import read_blocks, states_wanted
from heatproof.reading import Attention, AttentionLayer, TokenStates, block_of

LAYERS = 6


@register
@dataclass(frozen=True)
class CLIPSurgery(DenseMethod):
    """A second path beside the model's own: x <- x + W_O softmax(v v' s) v + b_O in the last
    blocks, from values of the model's own path, without MLPs; then redundancy is taken out.

    architecture: `dual`, as published; `model` takes the model's own last tokens.
    features: `empty` takes each token's score with the empty prompt off (the authors' formula for
        single prompts); `set` is their feature surgery over the prompts that were asked for:
        w_t s_it - mean over the set of w s_i, with w = softmax(2 s_r) / mean at the readout r;
        `none` leaves the scores as they are. Null prompts are held against the same set.
    layers: how many last blocks have a second path, or `all` (default: 6).
    """

    architecture: Literal["dual", "model"] = "dual"
    features: Literal["empty", "set", "none"] = "empty"
    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="clip-surgery",
        summary="every token's likeness to the prompt after value-value attention, less redundancy",
        source="Li et al., arXiv 2304.05653; authors' clip_surgery_model.py and clip.py",
        reads="values and output projections of the last calls, and the residual stream",
        changes="forward pass: a second path of value-value attention without MLPs beside the "
        "model's own (architecture=dual); readout: every token in place of the class token",
        values="signed, score of each token less a redundant one; no promised sum",
        signs=("less like the prompt", "more like the prompt"),
        cost="1 forward pass for any number of prompts, and the empty prompt's embedding once",
        sides=("image",),
        notes="Authors' defaults: the last 6 blocks; the class token from the model's own path; "
        "softmax temperature 2. Their demo explains one prompt by features=empty with 85 templates "
        "around it (here: the prompt as it is) and needs a label set for features=set; as in "
        "their code, and not in the paper's figures, w comes from the class token. The "
        "score is the one asked for; the authors take the cosine. Their ResNet variant "
        "(normalised values, scale x 8) is not here: a pool has no residual stream.",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_paths(layers, self.layers, LAYERS)
        return Plan(paths=paths, states=states_wanted(layers[-len(paths) :]))

    def tokens(self, read: ReadPass) -> TokenStates:
        if self.architecture == "model":
            return read.states[block_of(read.last)].output
        blocks = read_blocks(read.root, read.trace.layers, read.states)
        second = blocks[0].before
        for block in blocks:
            # No MLP: the authors leave it out of the second path.
            second = second + block.added(_value_attention(block.layer))
        assert read.batch.readout is not None
        row = read.batch.readout.to(second.device).view(-1, 1, 1).expand(-1, 1, second.shape[-1])
        # The model's own class token, in the dtype of the model: its score is the model's.
        return second.scatter(1, row, blocks[-1].after.take_along_dim(row[..., :1], dim=1))

    def scores(self, read: ReadPass, tokens: TokenStates) -> Float[Tensor, "item target token"]:
        scores = token_scores(read, tokens)
        match self.features:
            case "empty":
                return scores - _empty(read, tokens).unsqueeze(1)
            case "set":
                return _surgery(read, scores)
            case "none":
                return scores

    def factors(self, side: Side) -> Factors:
        del side
        native = ["values and output projections of the last calls"]
        substituted = [SURROGATE]
        if self.architecture == "dual":
            substituted.append("value-value attention on a second path without MLPs")
        if self.features != "none":
            which = "the empty prompt's" if self.features == "empty" else "the prompts' mean"
            substituted.append(f"{which} score taken off each token's")
        replaced = "forward pass" if self.architecture == "dual" else "readout"
        return Factors(tuple(native), tuple(substituted), replaced)


def _value_attention(layer: Attention) -> Float[Tensor, "item head token channel"]:
    value = layer.value
    scores = value @ value.transpose(-2, -1) * value.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


def _empty(read: ReadPass, tokens: TokenStates) -> Float[Tensor, "item token"]:
    if read.batch.empty is None:
        raise ReadingError("there is no empty prompt to compare with; try features=none")
    embeddings = embedded(read, tokens)
    return read.batch.empty(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])


def _surgery(
    read: ReadPass, scores: Float[Tensor, "item target token"]
) -> Float[Tensor, "item target token"]:
    own = read.batch.asked
    if own < 2:
        raise InputError(
            f"features=set takes out what the prompts have in common: got {own} prompt, "
            "expected at least 2; try features=empty"
        )
    assert read.batch.readout is not None
    row = read.batch.readout.to(scores.device).view(-1, 1, 1)
    at_row = scores.take_along_dim(row, dim=2)
    # Less its maximum: the ratio below is the same, and nothing overflows.
    powers = torch.exp(2 * (at_row - at_row.amax(1, keepdim=True)))
    weighted = scores * powers / powers[:, :own].mean(1, keepdim=True)
    return weighted - weighted[:, :own].mean(1, keepdim=True)
