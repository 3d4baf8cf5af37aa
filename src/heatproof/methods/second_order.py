"""exCLIP's interactions (Möller et al., TMLR 2025, arXiv 2408.14153), summed over the words.

A_ij = (x_i - r_i)' (int J_image)' (int J_text) (y_j - r_j). With the prompt's reference at the
origin and embeddings of unit length, the sum over j is (x_i - r_i) . int dS/dx_i: that is the map
here. Which word goes with which region: `heatproof.interactions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import CONTRIBUTES, Factors, Method, MethodCard, Plan, ReadPass, Side
from heatproof.methods.blocks import blocks, by_token, check_tokens, outputs, plan_of_all
from heatproof.methods.registry import register
from heatproof.reading import AttentionLayer
from heatproof.reading.attention_call import at_least_float32
from heatproof.registry import number


@register
@dataclass(frozen=True)
class SecondOrder(Method):
    """E_i = (x_i - r_i) . 1/N sum_k dS/dx_i at r + k/N (x - r), at the last block's input.

    r is the same block's input for a picture of zeros. steps: N.
    """

    steps: int = number(10, least=1)

    card: ClassVar[MethodCard] = MethodCard(
        name="second-order",
        summary="exCLIP's interactions of regions and words, summed over the words",
        source="Möller et al., TMLR 2025, arXiv 2408.14153; authors' exclip/explanation.py",
        reads="the last block's input, and gradients between it and a blank picture's",
        changes="the input: block states between the picture's and a blank one's",
        values="signed; all key tokens come close to S(x) - S(blank picture) as steps grow; no "
        "exact sum",
        signs=CONTRIBUTES,
        cost="12 forward passes a picture by default (2 + `steps`), 1 backward pass of the last "
        "block through them a prompt",
        sides=("image",),
        notes="Authors' defaults: layer 11 of both towers, 10 steps (k = 1 to N), zeros of the "
        "preprocessed picture as reference. They integrate before the embeddings are normalised "
        "and divide by the pair's norms afterwards, which their code marks as to be done; here "
        "normalisation is integrated, so that the sum is the score's own. The words' reference is "
        "the origin, which needs no tokenizer; `heatproof.interactions` does as the authors do.",
    )

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        return plan_of_all(sites)

    def factors(self, side: Side) -> Factors:
        del side
        return Factors(("the last block's input", "gradients of the score with respect to it"))

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        assert read.batch.pixels is not None
        path = blocks(read, 2, "second-order")[-2]
        states = outputs(read, path)
        check_tokens(read, by_token(states), "second-order")
        blank = outputs(read, path, torch.zeros_like(read.batch.pixels))
        return torch.stack(
            [
                self._integrated(read, path, item, here, there)
                for item, (here, there) in enumerate(zip(states, blank, strict=True))
            ]
        )

    def _integrated(
        self, read: ReadPass, path: str, item: int, state: Tensor, blank: Tensor
    ) -> Float[Tensor, "target token"]:
        assert read.batch.pixels is not None
        way = at_least_float32(state) - at_least_float32(blank)
        at = torch.arange(1, self.steps + 1).to(way) / self.steps
        between = at_least_float32(blank) + at.view(-1, *[1] * way.dim()) * way
        points = between.to(state.dtype).requires_grad_()

        def edit(output: Tensor) -> Tensor:
            torch.set_grad_enabled(True)  # until the surroundings end
            del output
            return points

        with torch.no_grad():
            pixels = read.batch.pixels[item].expand(self.steps, -1, -1, -1)
            scores = read.rerun(pixels, edits={path: edit})
        maps: list[Tensor] = []
        for target in range(read.targets):  # in groups it is slower: the steps are one already
            one = torch.zeros_like(scores)
            one[:, target] = 1
            (grad,) = torch.autograd.grad(scores, [points], one, retain_graph=True)
            read.has_gradient[path] = read.has_gradient.get(path, False) or bool(
                grad.count_nonzero()
            )
            share = way * at_least_float32(grad).mean(0)
            maps.append(by_token(share[None]).sum(2)[0])
        return torch.stack(maps)
