"""What every ECLIP map is made of: the readout's row of the last attention calls, recorded.

Two routes to one number are recorded apart: `gradient` is dS/do, `slope` dS/dA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import methods
from heatproof.errors import InputError
from heatproof.methods import ReadPass
from heatproof.methods.base import Plan
from heatproof.methods.pass_context import Side
from heatproof.methods.proxy import MethodProxy
from heatproof.models import Model
from heatproof.models.projection import Affine, output_projection_of
from heatproof.models.towers import Tokens
from heatproof.reading import AttentionLayer, Intervention
from heatproof.reading.attention_call import at_least_float32
from heatproof.recipes.grad_eclip_paper.maps import image_maps, text_maps


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadCall:
    """One attention call at the readout's row, on the processor; items are images or captions.

    queries: of all rows. `content` are the tokens that stand for the input; `readout` the row.
    """

    query: Float[Tensor, "item head channel"]
    queries: Float[Tensor, "item head token channel"]
    key: Float[Tensor, "item head token channel"]
    value: Float[Tensor, "item head token channel"]
    weights: Float[Tensor, "item head token"]
    gradient: Float[Tensor, "item head channel"]
    slope: Float[Tensor, "item head token"]
    output: Float[Tensor, "item head channel"]
    projection: Affine
    content: slice
    readout: Tensor

    @classmethod
    def joined(cls, calls: "Sequence[ReadCall]") -> "ReadCall":
        """Return the same call of several batches as one."""
        first = calls[0]
        tensors = {
            f.name: torch.cat([getattr(call, f.name) for call in calls])
            for f in fields(cls)
            if isinstance(getattr(first, f.name), Tensor)
        }
        rest = {f.name: getattr(first, f.name) for f in fields(cls) if f.name not in tensors}
        return cls(**tensors, **rest)


class _Recorder(MethodProxy):
    """Reads the last `count` calls of a pass and keeps them batch by batch.

    change: what is changed in these calls; below: in others, by path.
    """

    def __init__(
        self,
        count: int,
        change: Intervention | None,
        below: Mapping[str, Intervention] | None = None,
    ) -> None:
        super().__init__(methods.create("attention-x-gradient"))
        self.count, self.change, self.below = count, change, dict(below or {})
        self.batches: list[list[ReadCall]] = []

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        """Read outputs, weights and their gradients of the last calls."""
        del side
        paths = tuple(layer.path for layer in layers[-self.count :])
        changes = {} if self.change is None else dict.fromkeys(paths, self.change)
        changes = {**self.below, **changes}
        return Plan(paths=paths, weights=True, start=paths[0], interventions=changes)

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        """Keep the calls; the map itself is not used.

        Raises:
            InputError: the model reads out more than one token.
        """
        if read.batch.readout is None:
            raise InputError(
                "the model reads out a mean over tokens; expected one readout token, for which the "
                "parts of a map are defined"
            )
        layers = read.trace.layers
        grads = next(iter(read.gradients(layers, ("weights", "output"))))
        calls: list[ReadCall] = []
        for layer, slope, gradient in zip(layers, grads["weights"], grads["output"], strict=True):
            assert layer.weights is not None

            def row(tensor: Tensor, at: object = layer) -> Tensor:
                return read.rows(tensor.detach(), at)[:, :, 0].cpu()  # pyright: ignore

            linear = output_projection_of(read.root, layer)
            calls.append(
                ReadCall(
                    query=row(at_least_float32(layer.query)),
                    queries=at_least_float32(layer.query).detach().cpu(),
                    key=at_least_float32(layer.key).detach().cpu(),
                    value=at_least_float32(layer.value).detach().cpu(),
                    weights=row(layer.weights),
                    gradient=row(gradient),
                    slope=row(slope),
                    output=row(layer.output),
                    projection=_on_cpu(linear),
                    content=read.batch.content,
                    readout=read.batch.readout.cpu(),
                )
            )
        self.batches.append(calls)
        return calls[-1].slope.sum(1, keepdim=True).to(read.scores.device)

    def calls(self) -> list[ReadCall]:
        """Return each call over all batches, the last one last."""
        return [ReadCall.joined(batches) for batches in zip(*self.batches, strict=True)]


def _on_cpu(linear: Affine) -> Affine:
    matrix, bias = linear
    moved = None if bias is None else at_least_float32(bias.detach()).cpu()
    return at_least_float32(matrix.detach()).cpu(), moved


def image_calls(
    model: Model,
    pixels: Float[Tensor, "item 3 height width"],
    targets: Float[Tensor, "item dim"],
    change: Intervention | None = None,
    below: Mapping[str, Intervention] | None = None,
) -> ReadCall:
    """Record the last call of the image tower, each image with its own target.

    below: interventions by path, such as one head in several layers.
    """
    recorder = _Recorder(1, change, below)
    image_maps(model, recorder, pixels, targets, seed=0)
    return recorder.calls()[0]


def text_calls(
    model: Model,
    tokens: Tokens,
    targets: Float[Tensor, "item dim"],
    count: int,
    change: Intervention | None = None,
) -> list[ReadCall]:
    """Record the last `count` calls of the text tower, each caption with its own image."""
    recorder = _Recorder(count, change)
    text_maps(model, recorder, tokens, targets, seed=0)
    return recorder.calls()
