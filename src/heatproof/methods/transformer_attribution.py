"""Transformer attribution (Chefer et al., CVPR 2021, arXiv 2012.09838): relevance of attention."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.methods.base import (
    NEVER,
    Factors,
    Layers,
    Method,
    MethodCard,
    Plan,
    ReadPass,
    Side,
    last_paths,
)
from heatproof.methods.registry import register
from heatproof.methods.relevance import carried, check_same_tokens, readout_of
from heatproof.reading import (
    AttentionCall,
    AttentionLayer,
    Intervention,
    block_path,
    record_activations,
)
from heatproof.reading.lrp_rules import RelevanceRules


@register
@dataclass(frozen=True)
class TransformerAttribution(Method):
    """Row r of the product over layers of 1 + mean over heads of (dS/dA * R^A)+.

    R^A is the relevance of the attention weights, propagated from the score. An attention pool is
    carried through without the identity.

    layers: the last n calls only, or `all` (default: all but the first, the authors'
        start_layer=1).
    """

    layers: Layers = None

    card: ClassVar[MethodCard] = MethodCard(
        name="transformer-attribution",
        summary="relevance of attention times its gradient, carried through the layers",
        source="Chefer et al., CVPR 2021, arXiv 2012.09838; authors' ViT_LRP.py",
        reads="attention weights' gradients and their layer-wise relevance",
        changes="gradients only, in a second pass: relevance takes their place",
        values="not negative; no promised sum",
        signs=(NEVER, "relevance"),
        cost="2 forward passes, 2 backward passes through the layers read per prompt",
        notes="As in the authors' code: start_layer=1, and rows of 1 + (dS/dA * R)+ are not "
        "normalised (their code has that commented out). Relevance starts as 1: at a classifier's "
        "class, whatever the sign of its logit, as theirs; else at the score, whose cosine is a "
        "linear map (z+) of the normalised embedding. "
        "As in gae, 1 is added to a product with the score's gradient in every layer: over several "
        "layers the map depends on the unit of the score (cosine or logit). "
        "Quotients by 0 give no relevance, where the authors add 1e-9. Means over tokens and "
        "convolutions, which they do not meet, are linear maps too. A sum's shares a / (a + b) "
        "have poles: in half precision a map can differ by a fifth; prefer float32.",
    )

    made_of = Factors(
        ("gradients of the score with respect to attention weights",),
        ("layer-wise relevance of attention weights in place of a derivative",),
        "backward rule",
    )

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        paths = last_paths(layers, self.layers, max(1, len(layers) - 1))
        return Plan(paths=paths, weights=True, start=paths[0])

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        _refuse_adapters(read.root)
        layers = read.trace.layers
        # Their product is over token by token matrices.
        check_same_tokens(layers)
        gradients = read.gradients(layers, ("weights",))
        relevances = _relevances(read, [layer.path for layer in layers])
        maps: list[Tensor] = []
        for grads, relevance in zip(gradients, relevances, strict=True):
            steps = [
                # As published: what speaks against the score is dropped before heads are averaged.
                (grad * r.to(grad)).clamp(min=0).mean(1)
                for grad, r in zip(grads["weights"], relevance, strict=True)
            ]
            maps.append(readout_of(read, carried(layers, steps)))
        return torch.stack(maps, dim=1)


def _refuse_adapters(root: nn.Module) -> None:
    """Raise a `ReadingError` where an adapter (LoRA) stands beside a layer."""
    # Unmerged it is a layer of its own: z+ gives both other shares than it gives their sum.
    for path, part in root.named_modules():
        if "base_layer" in dict(part.named_children()) and getattr(part, "merged", None) is False:
            raise ReadingError(
                f"the relevance of {path!r} depends on whether its adapter (LoRA) is merged; merge "
                "it first: model.merge_and_unload()"
            )


def _relevances(read: ReadPass, paths: Sequence[str]) -> Iterator[tuple[Tensor, ...]]:
    """Yield for each target the relevance of the weights of each call, from one more pass."""
    weights: dict[str, Tensor] = {}
    changes = {path: _recording(weights, path) for path in paths}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        # The rules change the backward pass only; the scores are the model's.
        stack.enter_context(RelevanceRules(len(read.scores)))
        stack.enter_context(_starting(read, paths[0]))
        scores = read.rerun(interventions=changes)
    return read.gradients_of([weights[path] for path in paths], scores)


def _starting(read: ReadPass, path: str) -> AbstractContextManager[object]:
    """Return a context that starts the graph at the input of the first call's block.

    What passes the call by has its share of relevance, too. A pool belongs to no block and has
    nothing that passes it by: its own operands are the start.
    """
    block = block_path(read.root, path)
    return nullcontext() if block is None else record_activations(read.root, (), leaf=block)


def _recording(weights: dict[str, Tensor], path: str) -> Intervention:
    """Return an intervention that changes nothing and records a call's weights, in the graph."""

    def intervene(call: AttentionCall) -> AttentionCall:
        if not torch.is_grad_enabled():  # a pool is the first call: see `_starting`
            torch.set_grad_enabled(True)
            names = ("query", "key", "value")
            call = call.change(**{n: getattr(call, n).detach().requires_grad_() for n in names})
        weights[path] = call.softmax()
        # The call's own weights now, so that the backward pass goes through them.
        return call.change(weights=weights[path])

    return intervene
