"""MaskCLIP (Zhou et al., ECCV 2022, arXiv 2112.01071): no mixing in the last attention."""

from dataclasses import dataclass
from typing import ClassVar

from heatproof.methods.base import LIKENESS, Factors, MethodCard
from heatproof.methods.dense import SURROGATE, IntervenedDense
from heatproof.methods.registry import register
from heatproof.reading import Intervention
from heatproof.reading.interventions import identity


@register
@dataclass(frozen=True)
class MaskCLIP(IntervenedDense):
    """E_i = cos(W_p LN(block(x_i + W_O v_i + b_O)), t): the last block without attention."""

    card: ClassVar[MethodCard] = MethodCard(
        name="maskclip",
        summary="every token's likeness to the prompt, without the last attention",
        source="Zhou et al., ECCV 2022, arXiv 2112.01071; authors' mmseg vit.py (return_qkv)",
        reads="tokens of the last block",
        changes="forward pass: the identity in place of the last attention's weights; readout: "
        "every token in place of the class token",
        values="signed, the score of each token; no promised sum",
        signs=LIKENESS,
        cost="1 forward pass for any number of prompts",
        sides=("image",),
        notes="The paper speaks of value and output layers alone; the authors' code adds them to "
        "the residual stream and runs the block's MLP, and so is done here. Key smoothing and "
        "prompt denoising compare classes and are off (ks_thresh = pd_thresh = 0, the code's own "
        "default). Their 85 prompt templates are left to the user. Their configuration runs "
        "OpenAI's weights with the exact GELU and norms with eps 1e-6 (OpenAI: QuickGELU, 1e-5), "
        "which is another model; here the model is as it was trained.",
    )

    made_of = Factors(
        ("values and MLP of the last block",),
        ("the identity in place of the last attention's weights", SURROGATE),
        "forward pass",
    )

    def intervention(self) -> Intervention:
        return identity()
