"""TextSpan (Gandelsman et al., ICLR 2024, arXiv 2310.05916): texts that span what a head adds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import checking
from heatproof.engine import inputs
from heatproof.errors import InputError, ReadingError
from heatproof.methods.base import last_paths
from heatproof.methods.residual import read_blocks, states_wanted, tail_of
from heatproof.models.model import Model
from heatproof.reading import reading, record_activations


@dataclass(frozen=True)
class TextSpan:
    """Texts that span what a head adds to embeddings.

    chosen: indices of the texts in the order in which they were chosen.
    explained: the share of the data's variance that the first, the first two, ... explain.
    """

    chosen: tuple[int, ...]
    explained: tuple[float, ...]


def text_span(
    data: Float[Tensor, "image dim"],
    texts: Float[Tensor, "text dim"],
    *,
    count: int = 20,
    rank: int | None = 80,
) -> TextSpan:
    """Find the texts along which `data` varies most, one after the other, each projected out.

    Texts are first projected on the `rank` leading right-singular directions of `data` (None: on
    none), as in the authors' code; `count` and `rank` are their defaults, cut to what there is.

    Raises:
        InputError: fewer than two images, no text, or widths that differ.
    """
    inputs.numbers("data", data, "image dim")
    inputs.numbers("texts", texts, "text dim")
    checking.whole("count", count, least=1)
    if rank is not None:
        checking.whole("rank", rank, least=1)
    if len(data) < 2 or not len(texts) or data.shape[1] != texts.shape[1]:
        raise InputError(
            f"got {tuple(data.shape)} head outputs and {tuple(texts.shape)} texts, expected two "
            "images at least, a text at least, and the same width"
        )
    left, candidates = data.double(), texts.double()
    if rank is not None:
        directions = torch.linalg.svd(left, full_matrices=False).Vh[:rank]
        candidates = candidates @ directions.T @ directions
    left = left - left.mean(0)
    variance = float((left**2).sum())
    chosen: list[int] = []
    explained: list[float] = []
    for _ in range(min(count, len(candidates))):
        spread = (left @ candidates.T).std(0)
        # What is left is rounding.
        if not float(spread.max()) > 1e-9 * variance**0.5:
            break
        best = int(spread.argmax())
        unit = candidates[best] / candidates[best].norm()
        left = left - (left @ unit)[:, None] * unit
        candidates = candidates - (candidates @ unit)[:, None] * unit
        chosen.append(best)
        explained.append(1 - float((left**2).sum()) / variance)
    return TextSpan(tuple(chosen), tuple(explained))


def head_outputs(
    model: Model, pixels: Float[Tensor, "image 3 height width"], *, layers: int | None = 4
) -> Float[Tensor, "image layer head dim"]:
    """Compute what each head of the last layers adds to the image embedding.

    That is the data which `text_span` takes. Biases belong to no head and are left out.

    Raises:
        ReadingError: the embedding is not one token's (see `token-decomposition`).
    """
    model = inputs.model_of(model)
    inputs.numbers("pixels", pixels, "image 3 height width")
    if layers is not None:
        checking.whole("layers", layers, least=1)
    tower, module = model.image, model.module
    size = model.image.preprocess
    if tuple(pixels.shape[1:]) != (3, size.height, size.width) or not len(pixels):
        raise InputError(
            f"got pixels of shape {tuple(pixels.shape)}, expected images of 3 x {size.height} x "
            f"{size.width}"
        )
    row = tower.readout.row
    if tower.project is None or row is None:
        raise ReadingError(
            f"the embedding of {model.spec} is not one token put through a final norm and a linear "
            "map: what a head adds to it cannot be told"
        )
    every = model.attention_layers("image", pixels.shape[-2:])
    paths = last_paths(every, layers, len(every))
    with (
        torch.no_grad(),
        reading(module, paths) as trace,
        record_activations(module, states_wanted(every[-len(paths) :])) as states,
    ):
        tower.encode(pixels)
    blocks = read_blocks(module, trace.layers, states)
    # The final norm's deviation is held fixed: with it, the map to the embedding is linear.
    tail = tail_of(tower.project, blocks[-1].after[:, row])
    parts: Sequence[Tensor] = [
        torch.einsum(
            "ihc,hwc,idw->ihd", block.layer.output[:, :, row], block.by_head(), tail.matrix
        )
        for block in blocks
    ]
    return torch.stack(parts, dim=1)
