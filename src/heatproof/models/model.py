"""What a model is: towers, tokens, readout, scale. A description; it holds no forward pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from heatproof.certificate import Weights
from heatproof.models.geometry import Preprocess


@dataclass(frozen=True)
class Layout:
    """Key tokens of an image tower: named tokens, then patches row by row, then named tokens."""

    rows: int
    cols: int
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.prefix) + self.rows * self.cols + len(self.suffix)

    def grid(self, values: Float[Tensor, "*batch token"]) -> Float[Tensor, "*batch row col"]:
        """The patches of one value a token, on the grid."""
        patches = values[..., len(self.prefix) : len(self.prefix) + self.rows * self.cols]
        return patches.unflatten(-1, (self.rows, self.cols))


@dataclass(frozen=True)
class Readout:
    """The query rows of the last attention call that feed the embedding.

    `row` is the one row that does, or None where every patch does (a mean over them).
    """

    name: Literal[
        "class token", "pool probe", "mean query", "mean of tokens", "end of text", "last token"
    ]
    row: int | None


@dataclass(frozen=True)
class Projection:
    """What stands between one token of the last block and the embedding, of the model's own parts.

    `norm` is the model's final norm, `linear` the map into the embedding: a module, a matrix
    (width, dim) that the model multiplies by, or None where there is none. Applied to the readout
    token it gives the embedding; a tower that reads out otherwise (a pool, a mean) has none.
    """

    norm: nn.Module
    linear: nn.Linear | nn.Parameter | None

    def __call__(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        normed = self.norm(tokens)
        return normed if self.linear is None else linear(normed, *self.affine())

    def affine(self) -> tuple[Float[Tensor, "dim width"], Float[Tensor, " dim"] | None]:
        """Matrix and bias of `linear`."""
        assert self.linear is not None
        if isinstance(self.linear, nn.Linear):
            return self.linear.weight, self.linear.bias
        return self.linear.T, None


@dataclass(frozen=True)
class Piece:
    """One token of a prompt: its position in the context and the characters it stands for."""

    position: int
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Tokens:
    """Prompts as the text tower takes them.

    `readout` is each prompt's readout row. `pieces` leaves out BOS, EOT and padding.
    `cut` is the text that did not fit into the context ("" where all did). `control` are words of
    the prompt that the tokenizer takes for its own control tokens, `unread` the text behind the
    readout that a literal end of text moved forward ("" where there is none). `unknown` are the
    words that the tokenizer does not know: it gives one id to all of them. These three are empty
    for raw ids. `mask` is True on real tokens; None where the model takes none.
    """

    ids: Int[Tensor, "prompt context"]
    readout: Int[Tensor, " prompt"]
    texts: tuple[str, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    cut: tuple[str, ...]
    mask: Bool[Tensor, "prompt context"] | None = None
    control: tuple[tuple[str, ...], ...] = ()
    unread: tuple[str, ...] = ()
    unknown: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class ImageTower:
    """The side that sees.

    `encode` is the model's own public method: preprocessed pixels -> unnormalised embedding
    (or the logits of a classifier). `path` is the name in the module tree under which all of this
    tower's attention lies ("" for the whole module). `layout(height, width)` lays out key tokens.
    `project` is what one token of the last block goes through, where that makes an embedding.
    """

    encode: Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image dim"]]
    path: str
    layout: Callable[[int, int], Layout]
    readout: Readout
    preprocess: Preprocess
    project: Projection | None = None


@dataclass(frozen=True)
class TextTower:
    """The side that reads: the model's own text encoder and its tokenizer."""

    encode: Callable[[Tokens], Float[Tensor, "prompt dim"]]
    path: str
    tokenize: Callable[[Sequence[str]], Tokens]
    from_ids: Callable[[Int[Tensor, "prompt context"]], Tokens]
    readout: Readout
    project: Projection | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model, described. `text` is None for a classifier, whose prompts are `classes`.

    `logit_scale` is the factor itself (CLIP's exp(logit_scale)); `logit_bias` is SigLIP's.
    `sigmoid` says that pair scores are read through a sigmoid (SigLIP), not a softmax.
    `resized(height, width)` is the same weights at another input size, with the position
    embeddings interpolated by the family's own rule; None where the family allows no other size.
    `weights` says whether they were loaded from a file, are random, or came in with a module
    (unknown). `notices` are lines that the user must see (rendered scenes only, ...).
    """

    spec: str
    family: str
    module: nn.Module
    image: ImageTower
    text: TextTower | None = None
    classes: tuple[str, ...] = ()
    logit_scale: float = 1.0
    logit_bias: float = 0.0
    sigmoid: bool = False
    resized: Callable[[int, int], "Model"] | None = None
    weights: Weights = "unknown"
    notices: tuple[str, ...] = field(default=())

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()
