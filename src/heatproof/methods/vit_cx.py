"""ViT-CX (Xie et al., IJCAI 2023, arXiv 2211.03064): a block's own features as masks.

P_m = S(x * M + n) - S(x + n) + S(x) with noise n on what M hides; E = 1/N sum_m P_m M / sum M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.methods.base import Factors, MethodCard, ReadPass
from heatproof.methods.block_method import BlockMethod, check_tokens, module_output
from heatproof.methods.linkage import complete_linkage
from heatproof.methods.perturbing import BATCH, on_patches, placed
from heatproof.methods.registry import register
from heatproof.reading import blocks_of, by_token
from heatproof.registry import number


@register
@dataclass(frozen=True)
class ViTCX(BlockMethod):
    """Channels of the last block's first norm, enlarged to the image, clustered and summed.

    distance: channels whose clusters are nearer (1 - cosine, complete linkage) are one mask.
    noise: standard deviation where a mask is 0, in units of the preprocessed image.
    """

    distance: float = number(0.1, above=0)
    noise: float = number(0.1, least=0)

    card: ClassVar[MethodCard] = MethodCard(
        name="vit-cx",
        summary="clusters of the last block's feature maps as masks, weighed by their scores",
        source="Xie et al., IJCAI 2023, arXiv 2211.03064; authors' ViT_CX.py, causal_score.py",
        reads="outputs of the last block's first norm, and scores of masked, noisy images",
        changes="the input",
        values="signed; no promised sum",
        signs=("low score when seen", "high score when seen"),
        cost="1 forward pass, 2 more per cluster of feature maps (at most as many as channels), a "
        "per image; any number of prompts",
        sides=("image",),
        notes="Authors' code: the last block's norm1, distance 0.1, noise 0.1 (1 - M). As in the "
        "code, which the paper does not say, each pixel's masks are divided by their sum. The "
        "authors score class probabilities, here it is the score asked for. Constant channels, "
        "which they divide by zero, make no mask.",
    )

    made_of = Factors(("a block's normalised features", "scores of masked images"))

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        states = by_token(module_output(read, _first_norm(read))).cpu().double()
        check_tokens(read, states)
        features = states[:, read.batch.content].transpose(1, 2).unflatten(2, read.batch.grid)
        return placed(read, [self._map(read, item, maps) for item, maps in enumerate(features)])

    def _map(
        self, read: ReadPass, item: int, features: Float[Tensor, "channel row col"]
    ) -> Float[Tensor, "patch target"]:
        assert read.batch.pixels is not None
        height, width = read.batch.pixels.shape[-2:]
        axes = _enlarging(features.shape[1], height), _enlarging(features.shape[2], width)
        grids = _mask_grids(features, axes, self.distance)
        cover = torch.zeros(height, width, dtype=torch.float64)
        for _, masks in _enlarged(grids, axes):
            # First the sum of all masks at each pixel: they are divided by it below.
            cover += masks.sum(0)
        base = read.scores[item].detach().cpu().double()
        heat = torch.zeros(read.targets, height, width, dtype=torch.float64)
        # The same noise for every image: what else is explained changes no map.
        generator = torch.Generator().manual_seed(read.seed)
        for count, masks in _enlarged(grids, axes):
            noise = self.noise * torch.randn(count, 3, height, width, generator=generator)
            gained = _gains(read, item, masks, noise.double()) + base
            # In parts, since hundreds of masks at image size would not fit into memory.
            heat += torch.einsum("mt,mhw->thw", gained, masks / cover.masked_fill(cover == 0, 1))
        return on_patches(read, heat / max(len(grids), 1)).T


def _first_norm(read: ReadPass) -> str:
    """Return the path of the norm that the last block's input goes through first."""
    block = blocks_of(read.trace.layers)[-1]
    for name, part in read.root.get_submodule(block).named_children():
        # Children come in the order of their definition: the first norm is the input's.
        if isinstance(part, nn.LayerNorm) or "Norm" in type(part).__name__:
            return f"{block}.{name}"
    raise ReadingError(f"vit-cx reads the first norm of a block, and {block!r} has none")


def _enlarging(size: int, length: int) -> Float[Tensor, "pixel cell"]:
    """Return bilinear interpolation along one axis as a matrix."""
    # torch interpolates rows and columns alike, so two such matrices enlarge a map.
    eye = torch.eye(size, dtype=torch.float64)[None]
    return nn.functional.interpolate(eye, length, mode="linear", align_corners=False)[0].T


def _mask_grids(
    features: Float[Tensor, "channel row col"], axes: tuple[Tensor, Tensor], distance: float
) -> Float[Tensor, "mask row col"]:
    """Return each cluster's mask before it is enlarged; enlarged it ranges from 0 to 1."""
    # What the authors do to enlarged maps (normalise, compare, sum, normalise) is affine and
    # bilinear in the grids, so that no enlarged map has to be kept.
    low, high = _ranges(features, axes)
    moving = high > low
    features, low, span = features[moving], low[moving], (high - low)[moving]
    if not len(features):
        return features
    flat = features.flatten(1)
    gram = torch.kron(axes[0].T @ axes[0], axes[1].T @ axes[1])
    weight = torch.kron(axes[0].sum(0), axes[1].sum(0))
    sums, area = flat @ weight, len(axes[0]) * len(axes[1])
    inner = flat @ gram @ flat.T - low[:, None] * sums - low * sums[:, None]
    inner = inner + low[:, None] * low * area  # of enlarged channels less their minima
    length = inner.diagonal().clamp(min=0).sqrt()
    # 1 - cosine of enlarged channels, from their inner products on the grid.
    member = complete_linkage(1 - inner / (length[:, None] * length), distance)
    joint = torch.zeros(int(member.max()) + 1, *features.shape[1:], dtype=features.dtype)
    joint.index_add_(0, member, features / span[:, None, None])
    low, high = _ranges(joint, axes)
    joint, low, span = joint[high > low], low[high > low], (high - low)[high > low]
    return (joint - low[:, None, None]) / span[:, None, None]


def _ranges(
    grids: Float[Tensor, "mask row col"], axes: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, " mask"], Float[Tensor, " mask"]]:
    low, high = zip(
        *((m.amin((1, 2)), m.amax((1, 2))) for _, m in _enlarged(grids, axes)), strict=True
    )
    return torch.cat(low), torch.cat(high)


def _enlarged(
    grids: Float[Tensor, "mask row col"], axes: tuple[Tensor, Tensor]
) -> Iterator[tuple[int, Float[Tensor, "chunk height width"]]]:
    for part in grids.split(BATCH):
        yield len(part), axes[0] @ part @ axes[1].T


def _gains(
    read: ReadPass, item: int, masks: Float[Tensor, "mask height width"], noise: Tensor
) -> Float[Tensor, "mask target"]:
    """Compute S(x M + n) - S(x + n), with noise n where the mask hides."""
    assert read.batch.pixels is not None
    picture = read.batch.pixels[item].cpu().double()
    shown = masks[:, None]
    hidden = noise * (1 - shown)
    with torch.no_grad():
        masked, noisy = (
            read.rerun(image.to(read.batch.pixels)).cpu().double()
            for image in (picture * shown + hidden, picture + hidden)
        )
    return masked - noisy
