"""Ask whether maps show why a model answers as it does, on models with a known reason.

Each sibling of the embedded model takes its shape words from a planted cue
(`data.scenes.cues`). The same image and prompt are put to the sibling and to the embedded model
itself, which goes by the drawn shape. An image is taken only where the two reasons lie apart: the
cue calls one thing by the prompt's word, and another object has that shape.

The contrast of a map is its mean over the region of the cue minus its mean over the object of that
shape, in units of the map's standard deviation over patches; 0 for a constant map. The figure is
the AUC with which the contrast tells the sibling's maps from the embedded model's: the share of
all pairs of images in which the sibling's contrast is the larger, ties counted half. 1: the map
shows each model's own reason; 1/2: it does not depend on the reason; below: it shows the wrong one.
The interval is a bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from heatproof.data.scenes.captions import singles
from heatproof.data.scenes.cues import CUES, Cue, regions_of
from heatproof.data.scenes.dataset import UNSEEN
from heatproof.data.scenes.scene import Scenes, sample
from heatproof.data.scenes.vocabulary import ATTRIBUTES
from heatproof.errors import InputError
from heatproof.evaluation.subject import Subject
from heatproof.models import Model
from heatproof.statistics import Interval, bootstrap

SHORTCUTS: Final = ("colour", "place", "background", "mark", "swapped")
"""The cues of which a sibling is shipped: `sibling_of`."""

# Further off than the seeds of any card, audit or benchmark.
_FIRST = UNSEEN + (3000 << 32)
_OBJECTS = 3
# About one scene in ten has a word whose two reasons lie apart.
_DRAWN = 25


def sibling_of(cue: str) -> str:
    """Return the name of the model that goes by this cue, as `heatproof.load` takes it."""
    return "scenes:swapped" if cue == "swapped" else f"scenes:shortcut-{cue}"


@dataclass(frozen=True, kw_only=True)
class ReasonImages:
    """Images, each with a word whose two reasons lie apart."""

    photos: tuple[Image.Image, ...]
    words: Int64[Tensor, " image"]
    """Index of the shape word that is asked for."""
    cue: Bool[Tensor, "image height width"]
    """Where the cue of that word is."""
    shape: Bool[Tensor, "image height width"]
    """Where the object of that shape is."""

    def __len__(self) -> int:
        return len(self.photos)


def reason_images(cue: str, count: int = 200, *, seed: int = 0) -> ReasonImages:
    """Draw `count` images, and a word for each, for the shortcut named `cue`.

    Raises:
        InputError: the cue is unknown or no shortcut, or `count` is below 1.
    """
    if cue not in SHORTCUTS:
        raise InputError(f"got shortcut {cue!r}, expected {', '.join(SHORTCUTS)}")
    if count < 1:
        raise InputError(f"got {count} images to draw, expected at least 1")
    rule = CUES[cue]
    first = _FIRST + (seed << 24)
    scenes = rule.staged(sample(torch.arange(first, first + _DRAWN * count), objects=_OBJECTS))
    rows, words = _apart(rule, scenes)
    if len(rows) < count:
        raise InputError(f"got {len(rows)} usable scenes of {_DRAWN * count} drawn for {cue}")
    scenes, words = scenes[rows[:count]], words[:count]
    images, visible = rule.draw(scenes)
    at = torch.arange(count)
    drawn = regions_of(scenes.attributes[..., ATTRIBUTES.index("shape")], visible)
    return ReasonImages(
        photos=tuple(Image.fromarray(p.permute(1, 2, 0).numpy()) for p in images),
        words=words,
        cue=rule.regions(scenes, visible)[at, words],
        shape=drawn[at, words],
    )


def _apart(rule: Cue, scenes: Scenes) -> tuple[Int64[Tensor, " row"], Int64[Tensor, " row"]]:
    """Return the scenes that have a word with an object of its shape and its cue elsewhere."""
    by_shape = scenes.attributes[..., ATTRIBUTES.index("shape")]
    by_cue = rule.labelled(scenes).attributes[..., ATTRIBUTES.index("shape")]
    words = torch.arange(len(singles("shape")))
    has_shape = by_shape[..., None] == words
    has_cue = by_cue[..., None] == words
    # A cue of the whole scene names every object; it lies beside all of them.
    mixed = (has_shape & has_cue).any(1) if rule.objects else torch.zeros_like(has_shape[:, 0])
    usable = has_shape.any(1) & has_cue.any(1) & ~mixed
    rows = usable.any(1).nonzero()[:, 0]
    return rows, usable[rows].long().argmax(1)


def contrasts(
    maps: Float[Tensor, "image row col"], images: ReasonImages
) -> Float[Tensor, " image"]:
    """Return how much more a map lies on the cue than on the shape, in its standard deviations.

    NaN where a map holds a value that is no number, or a region is hidden.
    """
    grid = (maps.shape[-2], maps.shape[-1])
    flat = maps.double().flatten(1)
    means = [_mean_within(flat, mask, grid) for mask in (images.cue, images.shape)]
    spread = flat.std(1, correction=0)
    # Rounding leaves a constant map a spread of some units in the last place.
    constant = spread <= 1e-6 * flat.abs().amax(1)
    return ((means[0] - means[1]) / spread.masked_fill(constant, torch.inf)).float()


def _mean_within(
    flat: Float[Tensor, "image patch"],
    mask: Bool[Tensor, "image height width"],
    grid: tuple[int, int],
) -> Float[Tensor, " image"]:
    cover = adaptive_avg_pool2d(mask.double()[:, None], grid)[:, 0].flatten(1)
    return (flat * cover).sum(1) / cover.sum(1)


def auc(
    ours: Float[Tensor, "*batch a"], theirs: Float[Tensor, "*batch b"]
) -> Float[Tensor, "*batch"]:
    """Return the share of pairs in which `ours` is the larger; ties count half."""
    signs = (ours[..., :, None] - theirs[..., None, :]).sign()
    return (signs.double().mean((-2, -1)) + 1) / 2


def shortcut_contrasts(
    subject: Subject, models: Sequence[Model], images: ReasonImages, *, seed: int = 0
) -> Float[Tensor, "image model"]:
    """Return the contrast of the subject's map of each image, on each model."""
    return torch.stack([contrasts(_maps(subject, m, images, seed), images) for m in models], 1)


def _maps(
    subject: Subject, model: Model, images: ReasonImages, seed: int
) -> Float[Tensor, "image row col"]:
    """Compute a map of each image for its own word: by word, so that no other prompt is asked."""
    texts = [caption.text for caption in singles("shape")]
    out: Tensor | None = None
    for word in images.words.unique().tolist():
        rows = (images.words == word).nonzero()[:, 0]
        photos = [images.photos[i] for i in rows.tolist()]
        maps = subject.maps(model, photos, [texts[word]], seed=seed)[:, 0].float().cpu()
        if out is None:
            out = maps.new_zeros(len(images), *maps.shape[1:])
        out[rows] = maps
    assert out is not None
    return out


def shows_shortcut(values: Float[Tensor, "image model"], *, seed: int = 0) -> Interval:
    """Return the AUC of `shortcut_contrasts` of (sibling, embedded model), with its interval.

    Images without a contrast on either model are left out.
    """
    usable = values[~values.isnan().any(1)]
    sibling, embedded = usable.double().unbind(1)
    return bootstrap(lambda rows: auc(sibling[rows], embedded[rows]), len(usable), seed=seed)
