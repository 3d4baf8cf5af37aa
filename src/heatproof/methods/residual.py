"""The residual stream of a tower: what enters a block, what its attention adds, what leaves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from heatproof.errors import ReadingError
from heatproof.methods.base import ReadPass
from heatproof.models.projection import LINEAR, EmbeddingHead, output_projection_of
from heatproof.reading import Activation, Attention, AttentionLayer, TokenStates, block_of
from heatproof.reading.attention_call import at_least_float32, merge_heads

# The names that model libraries give to a block's LayerScale.
SCALES = ("ls_1", "ls1", "layer_scale1", "gamma_1")


@dataclass(frozen=True)
class StreamBlock:
    """One block of the stream, at least in float32.

    Attention adds `weight` times all heads' outputs side by side, plus `bias`; the block's own
    layer scale is folded into both.
    """

    layer: Attention
    before: TokenStates
    after: TokenStates
    weight: Float[Tensor, "width inner"]
    bias: Float[Tensor, " width"]

    def added(self, outputs: Float[Tensor, "item head token channel"]) -> TokenStates:
        """Compute what attention would add to the stream if its heads gave `outputs`."""
        return linear(merge_heads(outputs).squeeze(1), self.weight, self.bias)

    def by_head(self) -> Float[Tensor, "head width channel"]:
        """Return W_O by head."""
        return self.weight.unflatten(1, (self.layer.heads, -1)).transpose(0, 1)


def branch_of(block: str, path: str) -> str:
    """Return the path of the block's own part that the attention at `path` lies in."""
    return f"{block}.{path.split('#')[0].removeprefix(block + '.').split('.')[0]}"


def states_wanted(layers: Sequence[AttentionLayer]) -> tuple[str, ...]:
    """Return the paths of the modules whose states `read_blocks` needs.

    Raises:
        ReadingError: a call stands in no block (an attention pool).
    """
    blocks = [block_of(layer) for layer in layers]
    return (*blocks, *map(branch_of, blocks, (layer.path for layer in layers)))


def read_blocks(
    root: nn.Module, layers: Sequence[Attention], states: Mapping[str, Activation]
) -> list[StreamBlock]:
    """Return the blocks of some attention calls, first to last, checked by what modules returned.

    Raises:
        ReadingError: attention reaches the stream by more than a linear map.
    """
    return [_block(root, layer, states) for layer in layers]


def _block(root: nn.Module, layer: Attention, states: Mapping[str, Activation]) -> StreamBlock:
    path = block_of(layer)
    branch = states[branch_of(path, layer.path)].output
    items, tokens = layer.output.shape[0], layer.output.shape[2]
    weight, bias = _output_map(root, layer)
    computed = linear(merge_heads(layer.output.detach()).squeeze(1), weight, bias)
    own, limit = at_least_float32(branch.detach()), LINEAR[branch.dtype]
    # Checked on every run: a norm or a scale between the two would make the split wrong.
    if own.shape[:2] != (items, tokens) or (computed - own).abs().max() > limit * own.abs().max():
        raise ReadingError(
            f"attention at {layer.path!r} reaches the residual stream by more than a linear map "
            "(a norm inside, scaled heads): it cannot be split; try attention-x-gradient"
        )
    # LayerScale belongs to the map from heads to stream: it is folded into weight and bias.
    scale = layer_scale(root, path, bias)
    return StreamBlock(
        layer,
        at_least_float32(states[path].input),
        at_least_float32(states[path].output),
        weight * scale[:, None],
        bias * scale,
    )


def _output_map(root: nn.Module, layer: Attention) -> tuple[Tensor, Tensor]:
    matrix, bias = output_projection_of(root, layer)
    weight = at_least_float32(matrix.detach())
    if bias is None:
        return weight, weight.new_zeros(weight.shape[0])
    return weight, at_least_float32(bias.detach())


def layer_scale(
    root: nn.Module, block: str, like: Float[Tensor, " width"]
) -> Float[Tensor, " width"]:
    """Return what the block multiplies its attention's output by, per channel (LayerScale)."""
    module = root.get_submodule(block)
    ones = torch.ones_like(at_least_float32(like))
    for name in SCALES:
        scale = getattr(module, name, None)
        if isinstance(scale, nn.Module) and not isinstance(scale, nn.Identity):
            scale = next(iter(scale.parameters()))
        if isinstance(scale, Tensor):
            return ones * at_least_float32(scale.detach())
    return ones


def projection_of(read: ReadPass) -> EmbeddingHead:
    """Return the tower's own end for one token: final norm and projection.

    Raises:
        ReadingError: its embedding is not made of one token (a pool, a mean).
    """
    if read.batch.project is None or read.batch.readout is None:
        raise ReadingError(
            "the embedding of this tower is not one token put through a final norm and a linear "
            "map (an attention pool, a mean over tokens, an MLP head), which this method needs; "
            "try attention-x-gradient"
        )
    return read.batch.project


@dataclass(frozen=True)
class Tail:
    """A tower's end with its norm's statistics frozen at the readout token, as an affine map.

    The embedding is `matrix` times (x - `mean`), plus `constant`, for x the readout's last token.
    """

    matrix: Float[Tensor, "item dim width"]
    mean: Float[Tensor, " item"]
    constant: Float[Tensor, " dim"]
    embedding: Float[Tensor, "item dim"]


def tail_of(project: EmbeddingHead, last: Float[Tensor, "item width"]) -> Tail:
    """Return the end of the tower at its own statistics, at least in float32.

    Raises:
        ReadingError: the final norm is no LayerNorm (nor absent).
    """
    width = last.shape[-1]
    eye = torch.eye(width, dtype=last.dtype, device=last.device)
    weight, bias = (eye, None) if project.linear is None else project.affine()
    weight = at_least_float32(weight.detach())
    constant = weight.new_zeros(len(weight)) if bias is None else at_least_float32(bias.detach())
    norm = project.norm
    if isinstance(norm, nn.Identity):
        mean, factor = last.new_zeros(len(last)), last.new_ones(len(last), width)
    elif isinstance(norm, nn.LayerNorm):
        mean = last.mean(-1)
        # LayerNorm divides by the biased standard deviation.
        deviation = torch.sqrt(last.var(-1, unbiased=False, keepdim=True) + norm.eps)
        factor = torch.ones_like(last) / deviation
        if norm.weight is not None:  # pyright: ignore[reportUnnecessaryComparison]
            factor = factor * at_least_float32(norm.weight.detach())
        if norm.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            constant = constant + weight @ at_least_float32(norm.bias.detach())
    else:
        raise ReadingError(
            f"the tower ends in a {type(norm).__name__}, expected a LayerNorm, whose statistics "
            "can be frozen; try attention-x-gradient"
        )
    matrix = weight * factor.unsqueeze(1)
    centred = last - mean.unsqueeze(-1)
    return Tail(matrix, mean, constant, torch.einsum("idw,iw->id", matrix, centred) + constant)
