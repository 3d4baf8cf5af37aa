"""SmoothGrad (Smilkov et al., arXiv 1706.03825): gradients averaged over noisy inputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Factors, MethodCard, ReadPass, ScoreMethod, Side
from heatproof.methods.input_leaf import input_leaf
from heatproof.methods.registry import register
from heatproof.registry import number


@register
@dataclass(frozen=True)
class SmoothGrad(ScoreMethod):
    """E_i = sum over a patch of the mean over noise n of dS/dx at x + n, n normal.

    samples: how many noisy copies. sigma: standard deviation of the noise, in the units that the
    model takes (normalised pixels; text: embeddings). All items share the noise.
    """

    samples: int = number(5, least=1)
    sigma: float = number(1.0, least=0)

    card: ClassVar[MethodCard] = MethodCard(
        name="smoothgrad",
        summary="the score's gradient, averaged over noisy copies of the input",
        source="Smilkov et al., arXiv 1706.03825; captum's NoiseTunnel",
        reads="gradients with respect to noisy inputs",
        changes="the input: seeded noise is added",
        values="signed; no promised sum",
        signs=("negative gradient", "positive gradient"),
        cost="1 + samples forward passes, samples backward passes per prompt (6 and 5)",
        notes="Captum's 5 samples of deviation 1.0. The paper scales the noise with the "
        "image's range of values and takes more samples: set samples and sigma for that.",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        leaf = input_leaf(read)
        generator = torch.Generator().manual_seed(read.seed)
        sums: list[Tensor | float] = [0.0] * read.targets
        for _ in range(self.samples):
            # Drawn on the CPU, and for one item: the same noise on every device and in every batch.
            noise = torch.randn(leaf.point.shape[1:], generator=generator) * self.sigma
            grads = leaf.gradients(leaf.point + noise.to(leaf.point))
            sums = [so_far + grad for so_far, grad in zip(sums, grads, strict=True)]
        means = [torch.as_tensor(each) / self.samples for each in sums]
        return torch.stack([leaf.per_token(mean) for mean in means], dim=1)

    def factors(self, side: Side) -> Factors:
        what = "images" if side == "image" else "token embeddings"
        return Factors((f"the model's own gradients at noisy {what}",))
