"""KernelSHAP (Lundberg & Lee, NeurIPS 2017, arXiv 1705.07874): Shapley values by least squares."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import CONTRIBUTES, MethodCard, ReadPass
from heatproof.methods.perturbing import Coalitions, Perturbing, all_coalitions, placed, players
from heatproof.methods.registry import register
from heatproof.registry import number


@register
@dataclass(frozen=True)
class KernelSHAP(Perturbing):
    """The phi of least norm among those that minimise sum_z w(z) (S(z) - S(empty) - z . phi)^2
    subject to sum phi = S(x) - S(empty); w is the Shapley kernel.

    samples: coalitions that are scored, the empty and the full one included. Where there are no
        more than that, all of them are, and the values are the Shapley values themselves.
    """

    samples: int = number(25, least=3)

    card: ClassVar[MethodCard] = MethodCard(
        name="kernel-shap",
        summary="Shapley values of patches, or of words, by weighted least squares",
        source="Lundberg & Lee, NeurIPS 2017, arXiv 1705.07874; captum's KernelShap",
        reads="scores of inputs with coalitions of tokens left in them",
        changes="the input",
        values="signed; all key tokens add up to S(x) - S(x with all of them taken away)",
        signs=CONTRIBUTES,
        cost="25 forward passes per image by default (`samples`); any number of prompts",
        notes="captum's defaults: 25 samples, fill zero. So few leave most of an image's patches "
        "undetermined: the solution of least norm is taken, as captum's does; take some thousand "
        "for reliable ones. captum weighs the two ends by a million, here they are "
        "exact. Where all coalitions fit in (four words), all are scored.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        drawn = [self._coalitions(len(p), read.seed) for p in players(read)]
        scores = self.scores_of(read, [keep for keep, _ in drawn])
        empty = self.empty_scores(read)
        gain = read.scores.detach().cpu().double() - empty
        return placed(
            read,
            [
                solve(keep, weight, own - empty[item], gain[item])
                for item, ((keep, weight), own) in enumerate(zip(drawn, scores, strict=True))
            ],
        )

    def total(self, read: ReadPass) -> Float[Tensor, "item target"]:
        some = torch.tensor([[float(len(p) > 0)] for p in players(read)])
        return (read.scores.detach().cpu().double() - self.empty_scores(read)) * some

    def _coalitions(self, count: int, seed: int) -> tuple[Coalitions, Float[Tensor, " coalition"]]:
        """Return coalitions other than the empty and the full one, with their weights."""
        if count <= math.log2(self.samples):
            keep = all_coalitions(count)[1:-1]
            return keep, torch.tensor([_kernel(count, int(z.sum())) for z in keep]).double()
        # Sizes are drawn by the kernel's own mass, so that each draw weighs the same.
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.arange(1, count, dtype=torch.float64)
        mass = 1 / (sizes * (count - sizes))
        drawn = torch.multinomial(mass, self.samples - 2, True, generator=generator) + 1
        noise = torch.rand(self.samples - 2, count, generator=generator, dtype=torch.float64)
        return noise.argsort(1).argsort(1) < drawn[:, None], torch.ones(len(drawn)).double()


def _kernel(count: int, size: int) -> float:
    return (count - 1) / (math.comb(count, size) * size * (count - size))


def solve(
    keep: Coalitions,
    weight: Float[Tensor, " coalition"],
    gains: Float[Tensor, "coalition target"],
    total: Float[Tensor, " target"],
) -> Float[Tensor, "player target"]:
    """Solve weighted least squares under the constraint that the values add up to `total`."""
    # The constraint is projected out: values are `even` plus what adds up to zero.
    count = keep.shape[1]
    if not count:
        return gains.new_zeros(0, len(total))
    even = total.expand(count, -1) / count
    design = keep.double()
    centred = design - design.mean(1, keepdim=True)
    root = weight.sqrt()[:, None]
    return even + torch.linalg.pinv(root * centred) @ (root * (gains - design @ even))
