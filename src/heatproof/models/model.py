"""What a model is: towers, tokens, readout, scale. A description; it holds no forward pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from heatproof.certificate import Weights
from heatproof.errors import ReadingError
from heatproof.models.geometry import Preprocess
from heatproof.models.library import Library, NoLibrary

COARSEST_FIRST = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


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


Affine = tuple[Float[Tensor, "out in"], Float[Tensor, " out"] | None]


def is_linear(part: nn.Module) -> bool:
    """Whether a module says of itself that it is a linear map: torch's, and what replaces them."""
    return all(
        isinstance(getattr(part, name, None), int) for name in ("in_features", "out_features")
    )


def floating_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of its first floating-point parameter; float32 where it has none (quantised)."""
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point())
    return next(dtypes, torch.float32)


def precision_of(module: nn.Module) -> torch.dtype:
    """The coarsest dtype in which a module computes now: see `Model.precision`."""
    dtypes = {each.dtype for each in module.parameters()}
    kind = next((each.device.type for each in module.parameters()), "cpu")
    if torch.is_autocast_enabled(kind) and dtypes != {torch.float64}:
        dtypes.add(torch.get_autocast_dtype(kind))
    return next((each for each in COARSEST_FIRST if each in dtypes), torch.float32)


def affine_of(part: nn.Module) -> Affine:
    """Matrix and bias of a module that is linear (`is_linear`).

    Those of another class than torch's own are read off what the module makes of unit vectors.

    Raises:
        ReadingError: it is not linear.
    """
    if type(part).forward is nn.Linear.forward:
        assert isinstance(part, nn.Linear)
        return part.weight, part.bias
    width: Any = part.in_features
    dtype = floating_dtype(part)
    device = next((each.device for each in part.parameters()), torch.device("cpu"))
    with torch.no_grad():
        bias = part(torch.zeros(1, width, dtype=dtype, device=device))[0]
        matrix = (part(torch.eye(width, dtype=dtype, device=device)) - bias).T
        probe = torch.linspace(-1, 1, width, dtype=dtype, device=device)
        expected, given = matrix @ probe + bias, part(probe[None])[0]
    if (expected - given).abs().max() > LINEAR[dtype] * given.abs().max():
        raise ReadingError(f"a {type(part).__name__} stands where a linear map was expected")
    return matrix, bias


# How far a map may be from linear, relative to its largest value: what rounding explains.
LINEAR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Projection:
    """What stands between one token of the last block and the embedding, of the model's own parts.

    `norm` is the model's final norm, `linear` the map into the embedding: a module (torch's own, or
    one that stands in its place: LoRA's, a quantised one), a matrix (width, dim) that the model
    multiplies by, or None where there is none. Applied to the readout token it gives the embedding;
    a tower that reads out otherwise (a pool, a mean) has none.
    """

    norm: nn.Module
    linear: nn.Module | nn.Parameter | None

    def __call__(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        normed = self.norm(tokens)
        if isinstance(self.linear, nn.Module):
            return self.linear(normed)
        return normed if self.linear is None else normed @ self.linear

    @property
    def dtype(self) -> torch.dtype:
        """What tokens come in: the dtype of `linear`, which a norm returns its input in."""
        if isinstance(self.linear, nn.Parameter):
            return self.linear.dtype
        return floating_dtype(self.norm if self.linear is None else self.linear)

    def affine(self) -> Affine:
        """Matrix and bias of `linear`."""
        assert self.linear is not None
        if isinstance(self.linear, nn.Module):
            return affine_of(self.linear)
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
    """A loaded model, described. `text` is None for a classifier, whose prompts are `classes`, and
    for an image tower on its own, whose prompts are embeddings (no `classes`).

    `logit_scale` is the factor itself (CLIP's exp(logit_scale)); `logit_bias` is SigLIP's.
    `sigmoid` says that pair scores are read through a sigmoid (SigLIP), not a softmax.
    `resized(height, width)` is the same weights at another input size, with the position
    embeddings interpolated by the family's own rule; None where the family allows no other size.
    `weights` says whether they were loaded from a file, are random, or came in with a module
    (unknown). `notices` are lines that the user must see (rendered scenes only, ...).
    `library` is the library's own way from a photo to a score, or why none is known.
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
    library: Library | NoLibrary = field(default=NoLibrary())

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the image tower takes pixels: that of its first convolution or linear
        map. Models in mixed precision keep others elsewhere."""
        tower = self.module.get_submodule(self.image.path)
        weights = (
            part.weight for part in tower.modules() if isinstance(part, nn.Conv2d | nn.Linear)
        )
        dtypes = (weight.dtype for weight in weights if weight.is_floating_point())
        return next(dtypes, floating_dtype(tower))

    @property
    def precision(self) -> torch.dtype:
        """The coarsest dtype in which anything is computed now: of all parameters, and of
        `torch.autocast` where it is on. It decides how exactly two passes must agree."""
        return precision_of(self.module)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            for part in tensor if isinstance(tensor, tuple) else (tensor,):  # packed: with its bias
                _digest_part(digest, name, part)
        return digest.hexdigest()


def _digest_part(digest: Any, name: str, part: Any) -> None:
    if not isinstance(part, Tensor):
        digest.update(f"{name} {part}".encode())
        return
    digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode())
    whole = part.detach().cpu()
    if whole.is_quantized:
        whole = whole.dequantize()
    digest.update(whole.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
