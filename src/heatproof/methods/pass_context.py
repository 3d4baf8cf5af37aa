"""What a method is given: a batch of inputs, and the forward pass in which it was read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.images import Photo
from heatproof.models.projection import EmbeddingHead
from heatproof.reading import Activation, Attention, Edit, Intervention, Trace

Side = Literal["image", "text"]
Compare = Callable[[Float[Tensor, "item dim"]], Float[Tensor, "item target"]]
"""Scores of embeddings with every target."""

# Bytes that the gradients of several targets may take at once where the user sets no limit. More
# does not fit a processor's cache, and is slower in one go than in several.
GRADIENTS_AT_ONCE = 256 * 2**20
IN_CACHE = 8 * 2**20
# A gradient is alive in several copies while it is computed. On its way there it goes through MLPs:
# their hidden layers are four times as wide as the stream, and a few tensors of that size are
# alive at once.
WORKING_COPIES = 4
HIDDEN_WIDTHS = 16
# Targets whose dS/d(embedding) is computed at once: these gradients are small.
SCORES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of one tower that go through the model together: images, or prompts (text side).

    Items are these inputs; targets are what each of them is scored against.

    Attributes:
        encode: the model's own encoder on these inputs.
        compare: turns its embeddings into scores.
        readout: the readout row of each item; None where all rows of content are read out.
        content: the key tokens that stand for the input itself: patches, or the whole context.
        pooled: whether an attention pool reads out, whose rows no other layer has.
        grid: rows and columns of patches (image side).
        encode_pixels: encodes other images instead (image side).
        labels: the targets' names.
        photos: the images as the user handed them in, if they came as photos.
        asked: how many of the targets are the user's own; null prompts follow them.
        project: what one token of the last block goes through to become an embedding, where the
            tower has such a thing.
        empty: scores embeddings against the empty prompt (image side).
        first: the number of the first item in the whole explanation.
        words: True on the keys that stand for words (text side).
        black: makes what the model's preprocessing turns black into.
        targets: how many targets there are, 0 where that is not known beforehand.
        width: the embedding's number of coordinates, 0 where it is not known beforehand.
        closed_form: computes dS/d(embedding) by a formula; None where there is none.
        gradient_bytes: how much memory the gradients of several targets may take at once.
    """

    side: Side
    encode: Callable[[], Float[Tensor, "item dim"]]
    compare: Compare
    readout: Int[Tensor, " item"] | None
    content: slice
    pooled: bool = False
    grid: tuple[int, int] = (1, 1)
    pixels: Float[Tensor, "item 3 height width"] | None = None
    encode_pixels: Callable[[Tensor], Tensor] | None = None
    labels: tuple[str, ...] = ()
    photos: tuple[Photo, ...] = ()
    asked: int = 0
    project: EmbeddingHead | None = None
    empty: Callable[[Float[Tensor, "item dim"]], Float[Tensor, " item"]] | None = None
    first: int = 0
    words: Bool[Tensor, "item key"] | None = None
    black: Callable[[], Float[Tensor, "3 1 1"]] | None = None
    targets: int = 0
    width: int = 0
    closed_form: Callable[[Float[Tensor, "item dim"]], Tensor | None] | None = None
    gradient_bytes: int = GRADIENTS_AT_ONCE

    def by_coordinate(self) -> "Batch":
        """Return the batch with the embedding's coordinates as targets of their own."""
        return replace(self, compare=_coordinates, closed_form=_unit_vectors, targets=0, width=0)

    def score_gradient(
        self, embedding: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "item target dim"]:
        """Return dS/d(embedding) of every target, the embedding's normalisation included."""
        formula = None if self.closed_form is None else self.closed_form(embedding)
        return score_gradient(self.compare, embedding) if formula is None else formula


@runtime_checkable
class Rerun(Protocol):
    """Scores of the model's own encoder once more: on other pixels, edited, or intervened on."""

    def __call__(
        self,
        pixels: Float[Tensor, "variant 3 height width"] | None = None,
        *,
        interventions: Mapping[str, Intervention] | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "variant target"]:
        """Run the encoder in the caller's grad mode, by default on the batch's own inputs.

        pixels: any number of images (image side only); they need not be those of the batch.
        """
        ...


@dataclass(kw_only=True)
class ReadPass:
    """One forward pass of one tower that was read, and the scores that it led to.

    Attributes:
        batch: the inputs of the pass.
        root: the model's module.
        trace: the attention calls that `Plan.paths` asked for.
        embedding: what was scored, in the graph.
        scores: the batch's scores, in the graph.
        rerun: runs the encoder again.
        seed: the explanation's.
        states: the activations that `Plan.states` asked for.
        rules: what the plan's rules returned on entering.
        watched: whether `note_gradients` takes notes, which a certificate needs.
        has_gradient: by path, of which items and targets any gradient arrived there.
        errors: standard errors of the values; a method that knows them sets it.
    """

    batch: Batch
    root: nn.Module
    trace: Trace
    embedding: Float[Tensor, "item dim"]
    scores: Float[Tensor, "item target"]
    rerun: Rerun
    seed: int = 0
    states: Mapping[str, Activation] = field(default_factory=dict[str, Activation])
    rules: object = None
    watched: bool = True
    has_gradient: dict[str, Bool[Tensor, "item target"]] = field(default_factory=dict[str, Tensor])
    errors: Float[Tensor, "item target token"] | None = None

    @property
    def targets(self) -> int:
        """The number of targets."""
        return self.scores.shape[1]

    @property
    def last(self) -> Attention:
        """The last attention call that was read."""
        return self.trace.layers[-1]

    def gradients(
        self,
        layers: Sequence[Attention],
        of: Sequence[Literal["weights", "output"]],
        scores: Float[Tensor, "item target"] | None = None,
    ) -> Iterator[dict[str, list[Tensor]]]:
        """Yield for each target its gradient with respect to each layer's `of`.

        Gradients are of the sum over items, each of which depends on its own input alone.
        `scores`: others than the pass's own.
        """
        wanted: list[Tensor] = [getattr(layer, kind) for kind in of for layer in layers]
        for target, grads in enumerate(self.gradients_of(wanted, scores)):
            split = {
                kind: list(grads[n * len(layers) : (n + 1) * len(layers)])
                for n, kind in enumerate(of)
            }
            for layer, grad in zip(layers, split[of[0]], strict=True):
                self.note_gradients(layer.path, grad[None], target)
            yield split

    def note_gradients(
        self, path: str, gradients: Float[Tensor, "some item ..."], target: int, item: int = 0
    ) -> None:
        """Note in which items the gradients of some targets at a call are not zero everywhere.

        target, item: the numbers of the first ones.
        """
        if not self.watched:
            return
        if path not in self.has_gradient:
            size = len(self.embedding), self.targets
            self.has_gradient[path] = gradients.new_zeros(size, dtype=torch.bool)
        # The largest, for this is several times faster than to count them.
        arrived = (gradients.flatten(2).abs().amax(2) != 0).T
        items, targets = arrived.shape
        noted = self.has_gradient[path][item : item + items, target : target + targets]
        noted |= arrived

    def gradients_of(
        self, wanted: Sequence[Tensor], scores: Float[Tensor, "item target"] | None = None
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield for each target the gradient of its score, summed over items, with respect to each
        of `wanted`; zero where it does not depend on it.

        As many targets are computed together as fit `Batch.gradient_bytes`.
        `scores`: others than the pass's own.
        """
        with torch.enable_grad():  # the pass itself may have needed no graph
            sums = (self.scores if scores is None else scores).sum(0)
        step = self._targets_at_once(wanted)
        for some in torch.eye(len(sums), dtype=sums.dtype, device=sums.device).split(step):
            grads = gradients_at_once(sums, wanted, some)
            yield from zip(*(grad.unbind() for grad in grads), strict=True)

    def _targets_at_once(self, wanted: Sequence[Tensor]) -> int:
        """Return how many targets' gradients fit the memory together, and a processor's cache."""
        sizes = [WORKING_COPIES * _size(tensor) for tensor in wanted]
        passing = HIDDEN_WIDTHS * max(_size(layer.query) for layer in self.trace.layers)
        fit = self.batch.gradient_bytes // max(1, sum(sizes) + passing)
        if wanted[0].device.type == "cpu":
            fit = min(fit, IN_CACHE // max(1, *sizes))
        return max(1, fit)

    def rows(
        self, tensor: Float[Tensor, "item head query last"], layer: Attention
    ) -> Float[Tensor, "item head row last"]:
        """Select the readout rows: one per item, or those of all content where a mean reads out."""
        batch = self.batch
        if batch.pooled and layer.path != self.last.path:
            raise ReadingError(
                f"the readout is a row of the pooling call {self.last.path!r} alone; "
                f"{layer.path!r} has no such row; try layers=1"
            )
        if batch.readout is None:
            return tensor[:, :, batch.content]
        if tensor.shape[2] == 1:  # weights, of which these rows alone were read
            return tensor
        index = batch.readout.to(tensor.device).view(-1, 1, 1, 1)
        return tensor.take_along_dim(index, dim=2)


def _coordinates(embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
    return embedding


def _unit_vectors(embedding: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim dim"]:
    eye = torch.eye(embedding.shape[1], dtype=embedding.dtype, device=embedding.device)
    return eye.expand(len(embedding), -1, -1)


def score_gradient(
    compare: Compare, embedding: Float[Tensor, "item dim"]
) -> Float[Tensor, "item target dim"]:
    """Return dS/d(embedding) of any score by autograd.

    An item's scores depend on its own embedding alone, so that one gradient of their sum over
    items holds all of them.
    """
    with torch.enable_grad():
        leaf = embedding.detach().requires_grad_()
        sums = compare(leaf).sum(0)
    every = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
    parts = [gradients_at_once(sums, [leaf], some)[0] for some in every.split(SCORES_AT_ONCE)]
    return torch.cat(parts).transpose(0, 1)


def gradients_at_once(
    outputs: Float[Tensor, "*size"],
    wanted: Sequence[Tensor],
    cotangents: Float[Tensor, "some *size"],
) -> tuple[Tensor, ...]:
    """Return the vector-Jacobian products of all cotangents, stacked in front.

    They are zero where nothing depends on `wanted`. All are computed at once where every function
    of the graph can be batched, else one after the other: the same products, and an error that is
    not one of batching is raised again.
    """
    if len(cotangents) > 1:
        try:
            return _products(outputs, wanted, cotangents, batched=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a function written in Python has no rule of batching
            pass
    rows = [_products(outputs, wanted, one, batched=False) for one in cotangents]
    return tuple(torch.stack(grads) for grads in zip(*rows, strict=True))


def _products(
    outputs: Tensor, wanted: Sequence[Tensor], cotangents: Tensor, *, batched: bool
) -> tuple[Tensor, ...]:
    grads = torch.autograd.grad(
        outputs,
        wanted,
        cotangents,
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
    some = cotangents.shape[:1] if batched else ()
    return tuple(
        tensor.new_zeros(*some, *tensor.shape) if grad is None else grad  # pyright: ignore
        for grad, tensor in zip(grads, wanted, strict=True)
    )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
