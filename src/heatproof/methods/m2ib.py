"""M2IB (Wang et al., NeurIPS 2023, arXiv 2312.17174): what a bottleneck lets through.

lambda = sigmoid(alpha) mixes a block's output with noise, lambda x + (1 - lambda) eps; alpha is
fitted to beta mean KL - S. KL = -1/2 (1 + ln (1 - lambda)^2 - (lambda x)^2 - (1 - lambda)^2).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.methods.base import NEVER, Factors, MethodCard, ReadPass
from heatproof.methods.block_method import BlockMethod, check_tokens, module_output, replacing
from heatproof.methods.registry import register
from heatproof.reading import blocks_of, by_token
from heatproof.reading.attention_call import at_least_float32
from heatproof.registry import number


@register
@dataclass(frozen=True, kw_only=True)
class M2IB(BlockMethod):
    """E_i = sum over channels of KL_ic, in nats, of the bottleneck after `steps` steps of Adam.

    layer: the block after which the bottleneck stands, from 0 (default: 9 of 12, in proportion
        elsewhere and never the last one). alpha: where alpha starts. batch: noise samples a step.
    """

    layer: int | None = number(None, least=0)
    beta: float = number(0.1, above=0)
    steps: int = number(10, least=1)
    batch: int = number(10, least=1)
    rate: float = number(1.0, above=0)
    alpha: float = 5.0

    card: ClassVar[MethodCard] = MethodCard(
        name="m2ib",
        summary="information that a bottleneck fitted to the score lets through, in nats",
        source="Wang et al., NeurIPS 2023, arXiv 2312.17174; authors' scripts/iba.py",
        reads="a block's output, and scores with noise mixed into it",
        changes="forward pass: noise stands in for part of a block's output while the bottleneck "
        "is fitted",
        values="not negative; nats; no promised sum",
        signs=(NEVER, "information"),
        cost="100 forward passes, and 100 backward ones from the bottleneck on, per pair (`steps` "
        "x `batch`)",
        notes="Authors' code: block 9 of 12 counted from 0, beta 0.1 (1 and block 7 for chest "
        "X-rays), Adam with rate 1, alpha from 5, 10 steps, 10 samples, unit noise. As there, the "
        "map is that of the last step's forward pass, before alpha's last update. Prompts are "
        "covered up to their end: the authors' have no padding. The noise is the same for all. "
        "Their clip_wrapper.py, for OpenAI's own models, runs the text tower without its causal "
        "mask, reads the last position and multiplies by the text projection twice; here it is "
        "the model's own tower, as in their eval.py with Hugging Face's.",
    )

    made_of = Factors(
        ("a block's output",),
        ("noise in place of part of a block's output, to which scores the map is fitted",),
        "forward pass",
    )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        path = self._block(read)
        states = module_output(read, path)
        check_tokens(read, states)
        covered = _covered(read, states)
        if read.batch.side == "text":  # all prompts at once: `rerun` encodes no others
            groups = [(slice(None), covered)]
        else:
            groups = [(slice(n, n + 1), covered[n : n + 1]) for n in range(len(states))]
        values = torch.zeros(len(states), read.targets, read.last.key.shape[2]).to(covered.device)
        values = values.to(at_least_float32(states).dtype)
        for items, where in groups:
            for target in range(read.targets):
                left = self._fit(read, path, states[items], where, items, target)
                values[items, target] = by_token(left).sum(2)
        return values

    def _block(self, read: ReadPass) -> str:
        """Return the path of the block after which the bottleneck stands."""
        blocks = blocks_of(read.trace.layers)
        if self.layer is None:  # block 9 of 12 is the tenth
            return blocks[max(min(round(10 / 12 * len(blocks)), len(blocks) - 1), 1) - 1]
        if not 0 <= self.layer < len(blocks):
            raise InputError(f"got layer={self.layer} for m2ib, expected 0 to {len(blocks) - 1}")
        return blocks[self.layer]

    def _fit(
        self,
        read: ReadPass,
        path: str,
        states: Tensor,
        covered: Bool[Tensor, "..."],
        items: slice,
        target: int,
    ) -> Tensor:
        """Compute the KL divergence of every entry of the block's output at the last step."""
        x = at_least_float32(states)
        generator = torch.Generator().manual_seed(read.seed)
        with torch.enable_grad():
            alpha = torch.full_like(x, self.alpha).requires_grad_()
            # A fresh one for every pair of image and prompt, as in the authors' code.
            adam = torch.optim.Adam([alpha], lr=self.rate)
            left = torch.zeros_like(x)
            for _ in range(self.steps):
                # One draw for all items: what else is explained changes no map.
                noise = torch.randn(self.batch, *x.shape[1:], generator=generator)
                share = torch.sigmoid(alpha)
                mixed = share * x + (1 - share) * noise.to(x)[:, None]
                # Padding behind the prompt stays as it is.
                mixed = torch.where(covered, mixed, x).to(states.dtype)
                score = _scores(read, path, mixed, items)[:, target]
                left = torch.where(covered, _information(alpha, x), 0)
                axes = tuple(range(1, x.dim()))
                means = left.sum(axes) / covered.expand_as(left).sum(axes).clamp(min=1)
                loss = (self.beta * means - score).sum()
                # By hand: backward() would also fill the gradients of the model's weights.
                (alpha.grad,) = torch.autograd.grad(loss, [alpha])
                adam.step()
        return left.detach()


def _information(alpha: Tensor, x: Tensor) -> Tensor:
    """Compute the KL divergence of N(lambda x, (1 - lambda)^2) from N(0, 1)."""
    share = torch.sigmoid(alpha)
    # ln (1 - lambda) as logsigmoid(-alpha): finite however large alpha is.
    return -0.5 * (1 + 2 * F.logsigmoid(-alpha) - (share * x) ** 2 - (1 - share) ** 2)


def _scores(
    read: ReadPass, path: str, mixed: Float[Tensor, "sample item *state"], items: slice
) -> Float[Tensor, "item target"]:
    """Return mean scores over samples of the block's output, in the graph from the block on."""

    def scores_of(states: Tensor) -> Tensor:
        with torch.no_grad():
            return read.rerun(pixels, edits={path: replacing(states)})

    if read.batch.side == "text":
        pixels = None
        return torch.stack([scores_of(states) for states in mixed]).mean(0)
    assert read.batch.pixels is not None
    # One image with as many noise samples: they are the batch.
    pixels = read.batch.pixels[items].expand(len(mixed), -1, -1, -1)
    return scores_of(mixed[:, 0]).mean(0, keepdim=True)


def _covered(read: ReadPass, states: Tensor) -> Bool[Tensor, "..."]:
    """Return which entries of the states the bottleneck covers.

    Prompts end where their last word or readout row does.
    """
    batch = read.batch
    if batch.side == "image" or batch.words is None or batch.readout is None:
        return torch.ones(len(states), *[1] * (states.dim() - 1)).bool().to(states.device)
    at = torch.arange(states.shape[1])
    last = (batch.words.cpu() * at[: batch.words.shape[1]]).amax(1).maximum(batch.readout.cpu())
    return (at[None, :] <= last[:, None])[:, :, None].to(states.device)
