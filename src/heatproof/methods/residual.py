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
from heatproof.reading import Activation, Attention, AttentionLayer
from heatproof.reading.attention_call import at_least_float32, merge_heads

SCALES = ("ls_1", "ls1", "layer_scale1", "gamma_1")

Tokens = Float[Tensor, "item token width"]


@dataclass(frozen=True)
class Block:
    """One block of the stream, at least in float32. Attention adds `weight` times all heads'
    outputs side by side, plus `bias`; the block's own layer scale is folded into both."""

    layer: Attention
    before: Tokens
    after: Tokens
    weight: Float[Tensor, "width inner"]
    bias: Float[Tensor, " width"]

    def added(self, outputs: Float[Tensor, "item head token channel"]) -> Tokens:
        """What attention would add to the stream, had its heads put out `outputs`."""
        return linear(merge_heads(outputs).squeeze(1), self.weight, self.bias)

    def by_head(self) -> Float[Tensor, "head width channel"]:
        """W_O a head at a time."""
        return self.weight.unflatten(1, (self.layer.heads, -1)).transpose(0, 1)


def blocks_of(sites: Sequence[AttentionLayer]) -> tuple[str, ...]:
    """Paths of the residual blocks around some attention calls.

    Raises:
        ReadingError: a call stands in none (an attention pool).
    """
    for site in sites:
        if site.block is None:
            raise ReadingError(
                f"attention at {site.path!r} stands in no residual block (an attention pool): this "
                "method has no stream to read there; try attention-x-gradient"
            )
    return tuple(site.block for site in sites if site.block is not None)


def branch_of(block: str, path: str) -> str:
    """Path of the block's own part that the attention at `path` lies in."""
    return f"{block}.{path.split('#')[0].removeprefix(block + '.').split('.')[0]}"


def states_wanted(sites: Sequence[AttentionLayer]) -> tuple[str, ...]:
    """Modules whose states `read_blocks` needs."""
    blocks = blocks_of(sites)
    branches = [branch_of(block, site.path) for block, site in zip(blocks, sites, strict=True)]
    return (*blocks, *branches)


def read_blocks(
    root: nn.Module, layers: Sequence[Attention], states: Mapping[str, Activation]
) -> list[Block]:
    """The blocks of some attention calls, first to last, each held to what its module returned.

    Raises:
        ReadingError: attention reaches the stream by more than a linear map.
    """
    return [_block(root, layer, states) for layer in layers]


def _block(root: nn.Module, layer: Attention, states: Mapping[str, Activation]) -> Block:
    path = block_around(states, layer)
    branch = states[branch_of(path, layer.path)].output
    items, tokens = layer.output.shape[0], layer.output.shape[2]
    weight, bias = _output_map(root, layer)
    made = linear(merge_heads(layer.output.detach()).squeeze(1), weight, bias)
    found = branch.detach()
    limit = LINEAR[found.dtype]
    found = at_least_float32(found)
    if found.shape[:2] != (items, tokens) or (made - found).abs().max() > limit * found.abs().max():
        raise ReadingError(
            f"attention at {layer.path!r} reaches the residual stream by more than a linear map "
            "(a norm inside, scaled heads): it cannot be split; try attention-x-gradient"
        )
    scale = layer_scale(root, path, bias)
    return Block(
        layer,
        at_least_float32(states[path].input),
        at_least_float32(states[path].output),
        weight * scale[:, None],
        bias * scale,
    )


def block_around(states: Mapping[str, Activation], layer: Attention) -> str:
    """Which of the modules that were read is the block around an attention call."""
    return next(
        path
        for path in states
        if layer.path.startswith(f"{path}.") and branch_of(path, layer.path) in states
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
    """What the block multiplies its attention's output by, channel by channel (LayerScale)."""
    module = root.get_submodule(block)
    ones = torch.ones_like(at_least_float32(like))
    for name in SCALES:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module) and not isinstance(found, nn.Identity):
            gamma = next(iter(found.parameters()))
            return ones * at_least_float32(gamma.detach())
        if isinstance(found, Tensor):
            return ones * at_least_float32(found.detach())
    return ones


def projection_of(read: ReadPass) -> EmbeddingHead:
    """The tower's own end for one token.

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


def at_readout(read: ReadPass, tokens: Tokens) -> Float[Tensor, "item width"]:
    """The readout's row of each item."""
    assert read.batch.readout is not None
    index = read.batch.readout.to(tokens.device).view(-1, 1, 1)
    return tokens.take_along_dim(index, dim=1).squeeze(1)


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
    """The end of the tower at its own statistics, at least in float32.

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
