"""Measure whether a map lies on the object, from maps and masks alone.

| metric | formula, m the map and c the share of each patch that the mask covers | chance |
|---|---|---|
| `pointing` | mean of c over the patches where m is largest | mask's share of the image |
| `choice` | has the named object the largest mean heat, sum mc / sum c, of all? | 1 / objects |
| `energy` | sum m+ c / sum m+ | mask's share of the image |
| `average_precision` | sum over thresholds of precision times the step in recall | likewise |

Higher is better, 0 to 1, for all of them. Maps stay on the patch grid: masks come down to it by
exact area average (`coverage`), so that every pixel of a patch has the patch's heat and no
interpolation of the map enters. All ties are counted at their expected value, so a constant map
gets chance from each metric but `energy` at zero. None of them knows whether the model is right:
that is the caller's part.

Sources: pointing game, Zhang et al., arXiv 1608.00507; energy pointing, Wang et al., arXiv
1910.01279; average precision without thresholds, as in Chefer et al., arXiv 2012.09838, of the
foreground alone. Choice is ours: a prompt-blind map, whatever it finds, has exactly chance in it
if the named object is drawn at random.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof.models.geometry import PhotoView

Maps = Float[Tensor, "image prompt row col"]
Cover = Float[Tensor, "image prompt row col"]
Values = Float[Tensor, "image prompt"]


def coverage(
    mask: Bool[Tensor, "*object height width"], view: PhotoView, grid: tuple[int, int]
) -> Float[Tensor, "*object row col"]:
    """Return the share of each patch that the mask covers, 0 to 1: exact area average.

    `mask` is in pixels of the photo, `view` the part of it that the model saw. Patches that lie
    beyond the photo (padding) are covered by nothing.
    """
    height, width = mask.shape[-2:]
    rows = _overlap(view.top, view.bottom, grid[0], height)
    cols = _overlap(view.left, view.right, grid[1], width)
    return (rows @ mask.double() @ cols.T).float().clamp(0, 1)


def _overlap(start: float, stop: float, cells: int, pixels: int) -> Float[Tensor, "cell pixel"]:
    """Return the share of each cell, of equal parts from `start` to `stop`, in each pixel."""
    edges = torch.linspace(start, stop, cells + 1, dtype=torch.float64)
    left = torch.arange(pixels, dtype=torch.float64)
    ends = torch.stack([edges[:-1], edges[1:]]).sort(0).values  # mirrored ones run backwards
    low = torch.maximum(ends[0, :, None], left)
    high = torch.minimum(ends[1, :, None], left + 1)
    return (high - low).clamp(min=0) * (cells / abs(stop - start))


def pointing(maps: Maps, cover: Cover) -> Values:
    """Return the chance that a pixel drawn from the hottest patches lies in the mask.

    NaN where the mask is empty or the map holds a value that is no number.
    """
    flat, inside = maps.flatten(2), cover.flatten(2)
    hottest = flat == flat.amax(-1, keepdim=True)
    hits = (hottest * inside).sum(-1) / hottest.sum(-1).clamp(min=1)
    return _where_defined(hits, flat, inside)


def energy(maps: Maps, cover: Cover) -> Values:
    """Return the share of the positive heat that lies in the mask; NaN without heat or mask."""
    flat, inside = maps.flatten(2), cover.flatten(2)
    heat = flat.clamp(min=0)
    total = heat.sum(-1)
    share = (heat * inside).sum(-1) / total.masked_fill(total == 0, torch.nan)
    return _where_defined(share, flat, inside)


def average_precision(maps: Maps, cover: Cover) -> Values:
    """Return the area under precision and recall, each pixel with its patch's heat.

    NaN where the mask is empty or the map holds a value that is no number.
    """
    flat, inside = maps.flatten(2).double(), cover.flatten(2).double()
    order = flat.argsort(dim=-1, descending=True)
    heat, true = flat.gather(-1, order), inside.gather(-1, order).cumsum(-1)
    count = torch.arange(1, flat.shape[-1] + 1, dtype=torch.float64, device=flat.device)
    # A threshold falls after a group of equal values, never inside one.
    ends = torch.ones_like(heat, dtype=torch.bool)
    ends[..., :-1] = heat[..., 1:] != heat[..., :-1]
    reached = torch.where(ends, true, 0).cummax(-1).values
    before = torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], -1)
    gain = torch.where(ends, (true - before) * true / count, 0).sum(-1)
    total = inside.sum(-1)
    return _where_defined((gain / total.masked_fill(total == 0, torch.nan)).float(), flat, inside)


def choice(
    maps: Maps,
    objects: Float[Tensor, "image object row col"],
    named: Bool[Tensor, "image prompt object"],
) -> Values:
    """Return 1 where a named object has the highest mean heat of all; a share where objects tie.

    `objects` is the coverage of each object; where it is zero all over there is none. NaN where no
    named object is to be seen or the map holds a value that is no number. `chance_of_choice` is
    what a map gets that knows nothing.
    """
    there = (objects.sum((2, 3)) > 0).unsqueeze(1)
    heat = mean_heat(maps, objects).masked_fill(~there, -torch.inf)
    hottest = (heat == heat.amax(-1, keepdim=True)) & there
    hits = (hottest & named).sum(-1) / hottest.sum(-1).clamp(min=1)
    broken = ~maps.isfinite().all(-1).all(-1) | ~(named & there).any(-1)
    return hits.float().masked_fill(broken, torch.nan)


def mean_heat(
    maps: Maps, objects: Float[Tensor, "image object row col"]
) -> Float[Tensor, "image prompt object"]:
    """Return the mean of the map over each object, patches weighed by how much of them it covers.

    0 where there is no object.
    """
    area = objects.sum((2, 3)).double()
    inside = torch.einsum("iprc,iorc->ipo", maps.double(), objects.double())
    return inside / area.masked_fill(area == 0, 1).unsqueeze(1)


def share_beaten(
    values: Float[Tensor, "image object"],
    named: Bool[Tensor, "image object"],
    there: Bool[Tensor, "image object"],
    equal: Float[Tensor, " image"],
) -> Float[Tensor, " image"]:
    """Return the share of pairs (named object, other object) in which the named one's value is
    higher.

    Values that differ by no more than the image's `equal` are a tie, which counts a half: rounding
    decides nothing. Chance is a half, for any number of objects. NaN without such a pair, or where
    a value is no number.
    """
    gap = (values.unsqueeze(2) - values.unsqueeze(1)).double()
    pairs = (named & there).unsqueeze(2) & (~named & there).unsqueeze(1)
    wins = torch.where(gap.abs() <= equal[:, None, None], 0.5, (gap > 0).double())
    share = wins.masked_fill(~pairs, 0).sum((1, 2)) / pairs.sum((1, 2))
    broken = (values.isnan() & there).any(1) | ~pairs.any(2).any(1)
    return share.masked_fill(broken, torch.nan)


def chance_of_choice(
    objects: Float[Tensor, "image object row col"], named: Bool[Tensor, "image prompt object"]
) -> Values:
    """Return the number of named objects over that of all, visible ones alone; NaN without any."""
    there = (objects.sum((2, 3)) > 0).unsqueeze(1)
    seen = (named & there).sum(-1)
    return (seen / there.sum(-1).clamp(min=1)).float().masked_fill(seen == 0, torch.nan)


def _where_defined(values: Tensor, flat: Tensor, inside: Tensor) -> Tensor:
    broken = ~flat.isfinite().all(-1) | (inside.sum(-1) == 0)
    return values.masked_fill(broken, torch.nan)
