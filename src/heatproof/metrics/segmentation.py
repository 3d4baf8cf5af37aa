"""The map as a segmentation of the object: accuracy, IoU and average precision."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.evaluation import localisation
from heatproof.metrics.base import Metric, MetricCard, Trial, min_max
from heatproof.metrics.registry import register

Threshold = Literal["mean", "fixed"]
_CHEFER = "Chefer et al., CVPR 2021, arXiv 2012.09838; authors' imagenet_seg_eval.py"
_MASK = "no part of the object is to be seen"
_GRID = (
    "Maps stay on the patch grid, masks come down to it by area; the authors enlarge the map "
    "bilinearly to 224 x 224 and squash images to a square."
)
_POOLED = (
    "The authors add up pixels over the whole data set before they divide; here each item has its "
    "value, so that an interval can be given, and large objects do not outweigh small ones."
)
_THRESHOLDS = (
    "threshold=fixed, level=0.5, on maps scaled from 0 to 1: LeGrad",
    "CLIP Surgery searches the threshold on the test data: not offered",
    "Decomposition of CLIP (clip_prs) rectifies the map first",
)


@dataclass(frozen=True)
class _Thresholded(Metric):
    """threshold: the map's own `mean`, or a `fixed` one, `level`, of the map scaled to 0..1."""

    threshold: Threshold = "mean"
    level: float = 0.5

    def counts(self, trial: Trial) -> Float[Tensor, "item predicted true"]:
        """Return areas in patches by prediction and truth, 0 background, 1 object."""
        assert trial.mask is not None
        inside = trial.mask.cpu().double().flatten(1)
        said = _above(trial.maps.cpu(), self.threshold, self.level).flatten(1).double()
        said, there = torch.stack([1 - said, said], 1), torch.stack([1 - inside, inside], 1)
        return torch.einsum("ipc,itc->ipt", said, there)

    @staticmethod
    def where_defined(values: Tensor, trial: Trial) -> Float[Tensor, " item"]:
        """Return the values, NaN where the map or the mask says nothing."""
        assert trial.mask is not None
        empty = trial.mask.cpu().sum((1, 2)) == 0
        return values.masked_fill(trial.broken | empty, torch.nan)


def _above(maps: Float[Tensor, "item row col"], threshold: Threshold, level: float) -> Tensor:
    if threshold == "mean":
        maps = maps.double()
        # In float64: the mean of a constant float32 map may lie below its own values.
        return maps > maps.mean((1, 2), keepdim=True)
    if not 0 <= level <= 1:
        raise InputError(f"got level={level:g}, expected 0 to 1, of maps scaled so")
    return min_max(maps) > level


@register
@dataclass(frozen=True)
class PixelAccuracy(_Thresholded):
    """Share of the image that is classified right."""

    card: ClassVar[MetricCard] = MetricCard(
        name="pixel-accuracy",
        summary="what share of the image does the thresholded map call rightly?",
        formula="(sum of c where m > t, and of 1 - c elsewhere) / patches; t the mean of m",
        better="higher",
        needs=("mask",),
        source=_CHEFER,
        bounds=(0.0, 1.0),
        chance="a constant map's: 1 - the mask's share, which is much where objects are small",
        undefined=_MASK,
        invariant=("scale", "shift"),
        variants=_THRESHOLDS,
        differs=f"{_POOLED} {_GRID}",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        counts = self.counts(trial)
        right = counts.diagonal(dim1=1, dim2=2).sum(1)
        return self.where_defined(right / counts.sum((1, 2)), trial)


@register
@dataclass(frozen=True)
class MeanIoU(_Thresholded):
    """Intersection over union."""

    card: ClassVar[MetricCard] = MetricCard(
        name="mean-iou",
        summary="how well do the thresholded map and the mask overlap?",
        formula="mean over object and background of intersection / union, areas in patches, the "
        "object where m > t; t the mean of m",
        better="higher",
        needs=("mask",),
        source=_CHEFER,
        bounds=(0.0, 1.0),
        chance="a constant map's: (1 - the mask's share) / 2",
        undefined=_MASK,
        invariant=("scale", "shift"),
        variants=_THRESHOLDS,
        differs=f"{_POOLED} {_GRID}",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        counts = self.counts(trial)
        both = counts.diagonal(dim1=1, dim2=2)
        union = counts.sum(1) + counts.sum(2) - both
        overlap = both / union.masked_fill(union == 0, torch.nan)
        return self.where_defined(overlap.nanmean(1), trial)


@register
@dataclass(frozen=True)
class SegmentationAP(Metric):
    """Average precision of object and background at once, as Chefer et al. and LeGrad do it."""

    card: ClassVar[MetricCard] = MetricCard(
        name="segmentation-ap",
        summary="average precision of object and background in one ranking (the field's mAP)",
        formula="AP of the scores (E, 1 - E) against the truths (c, 1 - c), every patch twice; E: "
        "the map scaled from 0 to 1",
        better="higher",
        needs=("mask",),
        source=f"{_CHEFER}, utils/metrices.py; LeGrad, arXiv 2404.03214",
        bounds=(0.0, 1.0),
        chance="1/2",
        undefined=_MASK,
        invariant=("scale", "shift"),
        variants=("of the object alone, without scaling: `average-precision`",),
        differs=f"A map that is low everywhere but at one patch gets much for the background: see "
        f"`average-precision` for the object alone. {_GRID}",
        ties="a threshold falls after all cells of equal heat, never between them",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        assert trial.mask is not None
        scaled, inside = min_max(trial.maps.cpu()), trial.mask.cpu().double()
        # E of one patch may equal 1 - E of another: rounding must not part them.
        maps = torch.cat([scaled, 1 - scaled], 1)[:, None].round(decimals=12)
        cover = torch.cat([inside, 1 - inside], 1)[:, None]
        found = localisation.average_precision(maps, cover)[:, 0]
        return _Thresholded.where_defined(found, trial)


@register
@dataclass(frozen=True)
class AveragePrecision(Metric):
    """Average precision of the object, free of thresholds and of scale."""

    card: ClassVar[MetricCard] = MetricCard(
        name="average-precision",
        summary="area under precision and recall of the object, over all thresholds",
        formula="sum over thresholds of precision times the step in recall, every pixel with its "
        "patch's heat, signed",
        better="higher",
        needs=("mask",),
        source="as in Chefer et al., arXiv 2012.09838, and LibraGrad, arXiv 2411.16760, of the "
        "foreground alone",
        bounds=(0.0, 1.0),
        chance="the mask's share of the image",
        undefined=_MASK,
        invariant=("scale", "shift"),
        variants=("with the background in the same ranking: `segmentation-ap`",),
        differs="scikit-learn's average_precision_score on pixels gives the same value; it takes "
        "no masks that cover a patch in part.",
        ties="a threshold falls after all cells of equal heat, never between them",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        assert trial.mask is not None
        maps, mask = trial.maps.cpu().float(), trial.mask.cpu().float()
        return localisation.average_precision(maps[:, None], mask[:, None])[:, 0]


@register
@dataclass(frozen=True)
class PointIoU(Metric):
    """Intersection over union, over judged points.

    classes: of the `object` alone, or the mean of object and background (`both`).
    """

    level: float = 0.5
    classes: Literal["object", "both"] = "object"

    card: ClassVar[MetricCard] = MetricCard(
        name="point-iou",
        summary="how well does the map tell points on the object from points beside it?",
        formula="points that are on the object and called so / points that are on it or called so; "
        "called so: where the map, scaled from 0 to 1, is above `level`",
        better="higher",
        needs=("points",),
        source="p-mIoU on OpenImages V7 points, as LeGrad, arXiv 2404.03214, reports it",
        bounds=(0.0, 1.0),
        chance="a map that is high everywhere: the share of positive points",
        undefined="no point is judged to be on the object",
        invariant=("scale", "shift"),
        variants=(
            "p-mIoU is the mean over items (or over labels, then items): the caller's part",
            "classes=both: mean of object and background",
        ),
        differs="A point has the heat of its patch; LeGrad enlarges the map bilinearly. Its "
        "threshold, 0.5, is as reported, not seen in its code.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        assert trial.points is not None
        points, maps = trial.points.cpu(), trial.maps.cpu()
        said = _above(maps, "fixed", self.level)
        # The patch that holds each pixel; pixels that patches do not divide go to the nearest one.
        size = points.shape[-2:]
        rows, cols = (
            (torch.arange(n) * cells) // n for n, cells in zip(size, maps.shape[1:], strict=True)
        )
        called = said[:, rows][:, :, cols]
        one = _overlap(called, points == 1, points == -1)
        if self.classes == "both":
            other = _overlap(~called, points == -1, points == 1)
            one = torch.stack([one, other]).nanmean(0)
        none = ~(points == 1).flatten(1).any(1)
        return one.masked_fill(trial.broken | none, torch.nan)


def _overlap(called: Tensor, inside: Tensor, outside: Tensor) -> Float[Tensor, " item"]:
    both = (called & inside).flatten(1).sum(1).double()
    union = (inside | (called & outside)).flatten(1).sum(1).double()
    return both / union.masked_fill(union == 0, torch.nan)
