"""Model randomisation: does the map change when the model becomes random?"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof.errors import InputError
from heatproof.metrics.base import Curve, Metric, MetricCard, Trial
from heatproof.metrics.registry import register
from heatproof.statistics import spearman

_REVISITED = "Hedstroem et al., 2023, arXiv 2401.06465"
_ORDER = (
    "Blocks become random from the readout on, as Adebayo et al. do it. Quantus' bottom_up "
    "(its recommendation) goes the other way; with every block random both are the same."
)


@register
@dataclass(frozen=True)
class ModelRandomisation(Curve):
    """order: blocks become random one after the other (`cascade`), or each alone (`independent`).
    absolute: compare |m|, as Quantus does, or the signed maps."""

    order: Literal["cascade", "independent"] = "cascade"
    absolute: bool = True

    card: ClassVar[MetricCard] = MetricCard(
        name="model-randomisation",
        summary="how like itself is the map when the model's blocks are random? (MPRT)",
        formula="mean over n of the Spearman correlation of |m| with |m of the model with n random "
        "blocks|",
        better="lower",
        needs=("explain", "models"),
        source="Adebayo et al., NeurIPS 2018, arXiv 1810.03292",
        bounds=(-1.0, 1.0),
        chance="0 for noise drawn anew, 1 for a map that does not look at the model",
        invariant=("scale", "sign"),
        endpoints="one random block; all of them",
        steps="one block at a time",
        variants=(
            "order=independent",
            "absolute=False: signed maps; a map that only flips its sign then counts as changed",
            "SSIM and HOG similarities of enlarged maps: not offered, they reward blur",
        ),
        differs="Quantus' MPRT at its defaults compares |m| by Spearman too, and returns a value a "
        f"layer; ours is their mean. A constant map correlates with nothing: 0, not NaN. {_ORDER}",
    )

    def fractions(self, trial: Trial) -> Float[Tensor, " point"]:
        """Return the shares of blocks that are random."""
        assert trial.models is not None
        steps = trial.models.steps
        return torch.arange(1, steps + 1, dtype=torch.float64) / steps

    def curves(self, trial: Trial) -> Float[Tensor, "item point"]:
        """Return the rank correlation at every step, NaN where a map holds no number."""
        assert trial.models is not None
        # Before any block is random: all others are compared with these.
        own = self._compared(self.before(trial))
        found: list[Tensor] = []
        for n in range(1, trial.models.steps + 1):
            with trial.models(self.order, n):
                found.append(_likeness(own, self._compared(self.maps(trial))))
        return torch.stack(found, 1)

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the mean of the steps."""
        return self.curves(trial).mean(1)

    def before(self, trial: Trial) -> Float[Tensor, "item cell"]:
        """Return the maps that all others are compared with."""
        return trial.flat_maps

    def maps(self, trial: Trial) -> Float[Tensor, "item cell"]:
        """Return the maps by the model as it now is."""
        return trial.maps_again()

    def _compared(self, maps: Tensor) -> Tensor:
        return maps.abs() if self.absolute else maps


@register
@dataclass(frozen=True)
class SmoothRandomisation(ModelRandomisation):
    """samples: noisy images whose maps are averaged. noise: its deviation over the image's
    range, from its lowest to its highest preprocessed pixel."""

    samples: int = 50
    noise: float = 0.1

    card: ClassVar[MetricCard] = MetricCard(
        name="smooth-randomisation",
        summary="model randomisation of maps averaged over noisy images (sMPRT)",
        formula="as `model-randomisation`, each map the mean of the maps of noisy images",
        better="lower",
        needs=("explain", "models"),
        source=_REVISITED,
        bounds=(-1.0, 1.0),
        chance="0 for noise drawn anew, 1 for a map that does not look at the model",
        invariant=("scale", "sign"),
        endpoints="one random block; all of them",
        steps="one block at a time; 50 noisy images of deviation 0.1 of the range",
        variants=("order=independent",),
        differs=f"{_ORDER} The noise is the same for all items and models, so that maps differ by "
        "the model alone.",
    )

    def before(self, trial: Trial) -> Float[Tensor, "item cell"]:
        """Return the mean maps over noisy images, by the model itself."""
        if self.samples < 1 or not self.noise > 0:
            raise InputError(
                f"got samples={self.samples}, noise={self.noise:g} for smooth-randomisation, "
                "expected 1 or more samples and noise above 0"
            )
        # Averaging over noise would hide that the map itself held no number.
        finite = trial.flat_maps.isfinite().all(1, keepdim=True)
        return self.maps(trial).masked_fill(~finite, torch.nan)

    def maps(self, trial: Trial) -> Float[Tensor, "item cell"]:
        """Return the mean maps over noisy images, by the model as it now is."""
        # Drawn anew for each model by the same seed: maps differ by the model alone.
        generator = torch.Generator().manual_seed(trial.seed)
        total = torch.zeros_like(trial.flat_maps)
        for _ in range(self.samples):
            drawn = torch.randn(trial.pixels.shape[1:], generator=generator)
            total += trial.maps_again(partial(_noisy, by=self.noise * drawn))
        return total / self.samples


def _noisy(pixels: Tensor, by: Tensor) -> Tensor:
    span = pixels.amax((1, 2, 3), keepdim=True) - pixels.amin((1, 2, 3), keepdim=True)
    return pixels + span * by.to(pixels)


@register
@dataclass(frozen=True)
class EfficientRandomisation(Metric):
    """bins: of the histogram of a map's values, between its lowest and its highest."""

    bins: int = 100

    card: ClassVar[MetricCard] = MetricCard(
        name="efficient-randomisation",
        summary="does the map become more complex when the whole model is random? (eMPRT)",
        formula="(H(m of the random model) - H(m)) / H(m), H the entropy of the histogram of a "
        "map's values",
        better="higher",
        needs=("explain", "models"),
        source=_REVISITED,
        bounds=(-1.0, torch.inf),
        chance="0 for a map that does not look at the model",
        undefined="the map is constant",
        invariant=("scale", "shift", "sign"),
        steps="the model as it is, and with every block random",
        variants=("rules for the number of bins (Sturges, Scott, ...), from 10 to 200",),
        differs="Quantus divides the maps by their second moment first, which a histogram between "
        "lowest and highest does not notice.",
    )

    def values(self, trial: Trial) -> Float[Tensor, " item"]:
        """Return the value of each item, by the formula on the card."""
        if self.bins < 2:
            raise InputError(
                f"got bins={self.bins} for efficient-randomisation, expected 2 or more"
            )
        assert trial.models is not None
        before = _entropy(trial.flat_maps, self.bins)
        with trial.models("cascade", trial.models.steps):
            after = _entropy(trial.maps_again(), self.bins)
        return (after - before) / before.masked_fill(before == 0, torch.nan)


def _likeness(one: Float[Tensor, "item cell"], other: Float[Tensor, "item cell"]) -> Tensor:
    wrong = ~(one.isfinite().all(1) & other.isfinite().all(1))
    # A constant map is like nothing: 0, where the correlation has no value.
    return spearman(one, other).nan_to_num(0).masked_fill(wrong, torch.nan)


def _entropy(maps: Float[Tensor, "item cell"], bins: int) -> Float[Tensor, " item"]:
    """Return the entropy of each map's histogram in nats; NaN where a value is no number."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    share = (maps - low) / (high - low).masked_fill(high == low, 1)
    # The largest value belongs to the last bin.
    place = (share.nan_to_num() * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(len(maps), bins, dtype=torch.float64)
    counts.scatter_add_(1, place, torch.ones_like(maps))
    found = torch.special.entr(counts / maps.shape[1]).sum(1)
    return found.masked_fill(~maps.isfinite().all(1), torch.nan)
