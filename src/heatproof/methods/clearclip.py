"""ClearCLIP (Lan et al., ECCV 2024, arXiv 2407.12442): the last block's attention output alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from heatproof.methods.base import LIKENESS, Factors, MethodCard, Plan, ReadPass, Side
from heatproof.methods.dense import SURROGATE, IntervenedDense
from heatproof.methods.registry import register
from heatproof.methods.residual import branch_of, layer_scale
from heatproof.reading import AttentionLayer, Intervention, TokenStates, block_of
from heatproof.reading.interventions import self_attention


@register
@dataclass(frozen=True)
class ClearCLIP(IntervenedDense):
    """E_i = cos(W_p LN(W_O sum_j softmax(q q' s)_ij v_j + b_O), t): no residual, no MLP.

    residual: `dropped`, as published, or `kept`: the whole last block, MLP included (the authors'
        ignore_residual=False).
    """

    residual: Literal["dropped", "kept"] = "dropped"

    card: ClassVar[MethodCard] = MethodCard(
        name="clearclip",
        summary="every token's likeness to the prompt, from query-query attention alone",
        source="Lan et al., ECCV 2024, arXiv 2407.12442; authors' open_clip/transformer.py",
        reads="what the last attention adds to the residual stream (residual=kept: last tokens)",
        changes="forward pass: softmax(qq') in place of the last attention's weights, the last "
        "block's residual and MLP dropped (residual=dropped); readout: every token in place of the "
        "class token",
        values="signed, the score of each token; no promised sum",
        signs=LIKENESS,
        cost="1 forward pass for any number of prompts",
        sides=("image",),
        notes="Authors' defaults: last_n_layers=1, ignore_residual=True. The final norm is put on "
        "the bare attention output, as in their code. Sliding window (crop 448, stride 224) and "
        "softmax over classes at scale 50 are segmentation, not the map.",
    )

    def intervention(self) -> Intervention:
        return self_attention("query")

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(layers, side)
        (block,) = plan.states
        branch = branch_of(block, plan.paths[-1])
        return replace(plan, states=(block, branch))

    def tokens(self, read: ReadPass) -> TokenStates:
        path = block_of(read.last)
        if self.residual == "kept":
            return read.states[path].output
        added = read.states[branch_of(path, read.last.path)].output
        return added * layer_scale(read.root, path, added[0, 0]).to(added.dtype)

    def factors(self, side: Side) -> Factors:
        del side
        substituted = ["query-query attention in place of the last attention's weights", SURROGATE]
        if self.residual == "dropped":
            substituted.insert(1, "a last block without residual and MLP")
        native = ("queries, values and output projection of the last call",)
        return Factors(native, tuple(substituted), "forward pass")
