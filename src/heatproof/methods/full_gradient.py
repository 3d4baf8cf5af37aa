"""FullGrad (Srinivas & Fleuret, NeurIPS 2019, arXiv 1905.00780) on tokens, and FullGrad+.

With z_l the residual stream before block l (and after the last), b every bias added after z_0 and
y what it was added to: FullGrad is z_0 dS/dz_0 + sum of b dS/dy, FullGrad+ the same with all z_l
(arXiv 2411.16760). Both add up to what they promise where the model is homogeneous: under
LibraGrad's rules, not under its own gradients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import ReadingError
from heatproof.methods.base import Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.tokens import products
from heatproof.reading import AttentionLayer, blocks_of
from heatproof.reading.backward_rules import BackwardRules, Bias, token_values

ByToken = Float[Tensor, "item token"]


@dataclass(frozen=True)
class FullGradient(Method):
    """To be run under rules that keep biases; see `LibraGrad`. `plus`: FullGrad+."""

    plus: bool = True

    card: ClassVar[MethodCard] = MethodCard(
        name="full-gradient",
        summary="residual stream and biases times their gradients",
        source="Srinivas & Fleuret, NeurIPS 2019, arXiv 1905.00780",
        reads="the residual stream, every bias after it, and gradients with respect to them",
        changes="nothing",
        values="signed; all key tokens add up to the score (plus: to its share at every block)",
        cost="1 forward pass, 1 backward pass through all blocks per prompt",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        blocks = blocks_of(layers)
        return Plan(paths=(layers[-1].path,), states=blocks, leaf=blocks[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        streams = self._streams(read)
        maps: list[Tensor] = []
        for gradients, biases in _gradients(read, streams):
            parts = [products(z, g) for z, g in zip(streams, gradients, strict=True)]
            laid = [_laid_out(read, part) for part in (*parts, *biases)]
            maps.append(torch.stack(laid).sum(0))
        return torch.stack(maps, dim=1)

    def total(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Compute the score for every stream that was read, less the biases above it, plus all
        biases."""
        assert read.embedding is not None
        with torch.no_grad():  # what the score adds by itself (a logit's bias) is not the input's
            constant = read.batch.compare(torch.zeros_like(read.embedding))
        scores = read.scores.detach() - constant
        streams, added_biases = self._streams(read), _biases(read)
        above = torch.tensor(
            [[_order(b.result) > _order(z) for b in added_biases] for z in streams]
        )
        # How often a bias counts: once, less once for each stream that it is above.
        times = 1 - above.sum(0).to(scores.dtype)
        totals: list[Tensor] = []
        for target, (_, biases) in enumerate(_gradients(read, streams)):
            total = len(streams) * scores[:, target]
            if biases:  # a fresh model's may all be zero, and none is kept
                added = torch.stack([values.sum(1) for values in biases], dim=1)
                total = total + added @ times.to(added)
            totals.append(total)
        return torch.stack(totals, dim=1)

    def _streams(self, read: ReadPass) -> list[Tensor]:
        states = list(read.states.values())
        if not self.plus:
            return [states[0].input]
        return [*(state.input for state in states), states[-1].output]


def _biases(read: ReadPass) -> list[Bias]:
    assert isinstance(read.rules, BackwardRules)  # see `LibraGrad`
    return read.rules.biases


def _gradients(
    read: ReadPass, streams: Sequence[Tensor]
) -> Iterator[tuple[Sequence[Tensor], list[ByToken]]]:
    """Yield for each target the streams' gradients, and every bias's values by token."""
    recorded, count, items = _biases(read), len(streams), len(read.scores)
    for grads in read.gradients_of([*streams, *(bias.result for bias in recorded)]):
        shares = zip(recorded, grads[count:], strict=True)
        yield grads[:count], [token_values(bias, grad, items) for bias, grad in shares]


def _laid_out(read: ReadPass, values: Float[Tensor, "item some"]) -> ByToken:
    """Lay values out on the tokens of the last call."""
    tokens, count = read.last.key.shape[2], values.shape[1]
    if count == tokens:
        return values
    # What was added after pooling is the readout's own; where that is no token, all share it.
    if read.batch.pooled or read.batch.readout is None:
        return (values.sum(1, keepdim=True) / tokens).expand(-1, tokens)
    if count != 1:
        raise ReadingError(
            f"a bias is added to {count} tokens where the last attention has {tokens}; "
            "try another method, such as attention-x-gradient"
        )
    laid = values.new_zeros(len(values), tokens)
    return laid.scatter(1, read.batch.readout.to(values.device).unsqueeze(1), values)


def _order(tensor: Tensor) -> int:
    """Return when a tensor was computed in its graph; a leaf comes first."""
    node: Any = tensor.grad_fn
    return -1 if node is None else node._sequence_nr()
