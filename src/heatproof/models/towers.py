"""The two sides of a model: tokens, readout, preprocessing and prompts. Descriptions only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.models.geometry import Preprocess
from heatproof.models.projection import EmbeddingHead

Side = Literal["image", "text"]


@dataclass(frozen=True)
class TokenLayout:
    """Key tokens of an image tower: named tokens, then patches row by row, then named tokens."""

    rows: int
    cols: int
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Return the number of tokens."""
        return len(self.prefix) + self.rows * self.cols + len(self.suffix)

    def grid(self, values: Float[Tensor, "*batch token"]) -> Float[Tensor, "*batch row col"]:
        """Return the values of the patches, one per token, on the grid."""
        # Named tokens, such as CLS, have no place on the grid.
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
class Piece:
    """One token of a prompt: its position in the context and the characters it stands for."""

    position: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class ImageTower:
    """The side that sees.

    `encode` is the model's own public method: preprocessed pixels -> unnormalised embedding
    (or the logits of a classifier). `path` is the name in the module tree under which all of this
    tower's attention lies ("" for the whole module). `layout(height, width)` lays out key tokens.
    `project` is what one token of the last block goes through, where that makes an embedding.
    """

    encode: Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image dim"]]
    path: str
    layout: Callable[[int, int], TokenLayout]
    readout: Readout
    preprocess: Preprocess
    project: EmbeddingHead | None = None


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """The side that reads: the model's own text encoder and its tokenizer.

    `context` is the most tokens that a prompt may have.
    """

    encode: Callable[[Tokens], Float[Tensor, "prompt dim"]]
    path: str
    context: int
    tokenize: Callable[[Sequence[str]], Tokens]
    from_ids: Callable[[Int[Tensor, "prompt context"]], Tokens]
    readout: Readout
    project: EmbeddingHead | None = None
