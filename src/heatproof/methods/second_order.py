"""exCLIP's interactions (Möller et al., TMLR 2025, arXiv 2408.14153), summed over the words.

A_ij = (x_i - r_i)' (int J_image)' (int J_text) (y_j - r_j). With the prompt's reference at the
origin and embeddings of unit length, the sum over j is (x_i - r_i) . int dS/dx_i: that is the map
here. Which word goes with which region: `heatproof.interactions`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import CONTRIBUTES, Factors, MethodCard, ReadPass
from heatproof.methods.block_method import BlockMethod, check_tokens, module_output, replacing
from heatproof.methods.registry import register
from heatproof.reading import blocks_of, by_token
from heatproof.reading.attention_call import at_least_float32
from heatproof.registry import number


@register
@dataclass(frozen=True)
class SecondOrder(BlockMethod):
    """E_i = (x_i - r_i) . 1/N sum_k dS/dx_i at r + k/N (x - r), at the last block's input.

    r is the same block's input for an image of zeros. steps: N.
    """

    steps: int = number(10, least=1)

    card: ClassVar[MethodCard] = MethodCard(
        name="second-order",
        summary="exCLIP's interactions of regions and words, summed over the words",
        source="Möller et al., TMLR 2025, arXiv 2408.14153; authors' exclip/explanation.py",
        reads="the last block's input, and gradients between it and a blank image's",
        changes="the input: block states between the image's and a blank one's",
        values="signed; all key tokens come close to S(x) - S(blank image) as steps grow; no "
        "exact sum",
        signs=CONTRIBUTES,
        cost="12 forward passes per image by default (2 + `steps`), 1 backward pass of the last "
        "block through them a prompt",
        sides=("image",),
        notes="Authors' defaults: layer 11 of both towers, 10 steps (k = 1 to N), zeros of the "
        "preprocessed image as reference. They integrate before the embeddings are normalised "
        "and divide by the pair's norms afterwards, which their code marks as to be done; here "
        "normalisation is integrated, so that the sum is the score's own. The words' reference is "
        "the origin, which needs no tokenizer; `heatproof.interactions` does as the authors do.",
    )

    made_of = Factors(("the last block's input", "gradients of the score with respect to it"))

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        assert read.batch.pixels is not None
        path = blocks_of(read.trace.layers, at_least=2)[-2]
        states = module_output(read, path)
        check_tokens(read, states)
        blank = module_output(read, path, torch.zeros_like(read.batch.pixels))
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

        with torch.no_grad():
            pixels = read.batch.pixels[item].expand(self.steps, -1, -1, -1)
            scores = read.rerun(pixels, edits={path: replacing(points)})
        maps: list[Tensor] = []
        # One target at a time: the steps are a batch already, and larger ones are slower.
        for target in range(read.targets):
            one = torch.zeros_like(scores)
            one[:, target] = 1
            (grad,) = torch.autograd.grad(scores, [points], one, retain_graph=True)
            read.note_gradients(path, grad.flatten()[None, None], target, item)
            share = way * at_least_float32(grad).mean(0)
            maps.append(by_token(share[None]).sum(2)[0])
        return torch.stack(maps)
