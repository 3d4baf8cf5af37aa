"""SCLIP (Wang et al., ECCV 2024, arXiv 2312.01597): correlative self-attention at the end."""

from dataclasses import dataclass
from typing import ClassVar

from heatproof.methods.base import LIKENESS, Factors, MethodCard
from heatproof.methods.dense import SURROGATE, IntervenedDense
from heatproof.methods.registry import register
from heatproof.reading import Intervention
from heatproof.reading.interventions import self_attention


@register
@dataclass(frozen=True)
class SCLIP(IntervenedDense):
    """The last attention's weights become softmax(q q' s) + softmax(k k' s); rows add up to 2."""

    card: ClassVar[MethodCard] = MethodCard(
        name="sclip",
        summary="every token's likeness to the prompt, after query-query plus key-key attention",
        source="Wang et al., ECCV 2024, arXiv 2312.01597; authors' clip/model.py (csa)",
        reads="tokens of the last block",
        changes="forward pass: softmax(qq') + softmax(kk') in place of the last attention's "
        "weights; readout: every token in place of the class token",
        values="signed, the score of each token; no promised sum",
        signs=LIKENESS,
        cost="1 forward pass for any number of prompts",
        sides=("image",),
        notes="As in the authors' code the residual and the MLP of the last block are kept and the "
        "two softmaxes added, not averaged. Their sliding window (crop 224, stride 112), softmax "
        "over classes at scale 40 and PAMR refinement are segmentation, not the map.",
    )

    made_of = Factors(
        ("queries, keys, values and MLP of the last block",),
        ("query-query plus key-key attention in place of the last attention's weights", SURROGATE),
        "forward pass",
    )

    def intervention(self) -> Intervention:
        return self_attention("query", "key")
