"""(c) The causes, order-free: how much of the gap does each of them explain?

Written before the numbers were looked at:

- *Reference*: the model's own map, attention times gradient at the readout's row, summed over heads
  (`attention-x-gradient`), signed, on the model's own input. *Published*: Grad-ECLIP with every
  cause switched on. A coalition C of causes is the map with these alone switched on.
- *Gap in quality*: the reference's quality less that of C, image by image (`choice` and `pointing`;
  on the text side the rank correlation with what each word's removal costs the score).
- *Gap in distance*: 1 less the rank correlation of the map of C with the reference, over the
  patches (words) of the model's own view. The reference has 0.
- A cause's share is its Shapley value: the mean, over all orders in which causes can be switched
  on, of what it adds. Shares add up to the gap of the published map. All 2^k coalitions are
  computed, so the shares are exact on each image; intervals are over images.
- A share of quality is "explains" where its interval lies above zero, "hides" where it lies below.

Causes that the paper's critics name and that are no switch of this game stand beside it, each in a
line: values before or after W_O (the same number but for a bias, by proof: `all_sizes.one_basis`),
ReLU before or after the sum over layers, the share of the score that never passes the last
attention, and faults of the evaluation, which (e) measures.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import factorial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof.evaluation.localisation import choice, pointing
from heatproof.evaluation.store import Part
from heatproof.methods.eclip import min_max
from heatproof.models.geometry import PhotoView
from heatproof.reading import AttentionCall, Intervention
from heatproof.reading.interventions import one_head
from heatproof.recipes.grad_eclip_paper.alignment import joined
from heatproof.recipes.grad_eclip_paper.context import Input, Study
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.last_calls import ReadCall, image_calls
from heatproof.recipes.grad_eclip_paper.localisation import AnsweredImages, covers, layout, views
from heatproof.recipes.grad_eclip_paper.maps import encode_texts
from heatproof.recipes.grad_eclip_paper.numbers import mean
from heatproof.statistics import spearman

ONE_HEAD, SCALE, WEIGHT = "one head", "softmax scale", "loosened weight"
PROJECTED, RANGE, QUERY = "weight after W_O", "range of the min-max", "readout's query alone"
RELU, INPUT, LAYERS = "ReLU of the sum", "input at its own aspect ratio", "eight layers, one row"
TEXT_CAUSES = (ONE_HEAD, SCALE, WEIGHT, PROJECTED, RANGE, RELU, LAYERS)
IMAGE_CAUSES = (ONE_HEAD, SCALE, WEIGHT, PROJECTED, RANGE, QUERY, RELU, INPUT)
MEANS = {
    ONE_HEAD: "one head over the full width in place of the model's",
    SCALE: "logits divided by the root of the full width in place of a head's",
    WEIGHT: "a min-max normalised cosine in place of each head's attention",
    PROJECTED: "the cosine of queries and keys after the output projection, not before",
    RANGE: "the min-max over patches alone (image), over padding too (text), not over all that "
    "the readout can attend to",
    QUERY: "the cosine with the readout's query, not the mean over all queries",
    RELU: "negative values of the sum cut off",
    INPUT: "the photo at its own aspect ratio, not the model's crop",
    LAYERS: "the last eight layers read at the readout's row, not the last layer",
}
"""The projection, the range and the query belong to the loosened weight: without it they change
nothing."""

Coalition = frozenset[str]
MEAN = "mean of tokens"


def coalitions(causes: Sequence[str]) -> list[Coalition]:
    """Return all sets of causes, the empty one first and all of them last."""
    counts = range(len(causes) + 1)
    return [frozenset(chosen) for n in counts for chosen in itertools.combinations(causes, n)]


def shapley(
    values: Float[Tensor, "coalition item"], causes: Sequence[str]
) -> Float[Tensor, "cause item"]:
    """Return each cause's Shapley value on each item; `values` in the order of `coalitions`.

    They add up to the value of all causes less that of none.
    """
    every = coalitions(causes)
    place = {coalition: n for n, coalition in enumerate(every)}
    count = len(causes)
    rows: list[Tensor] = []
    for cause in causes:
        total = torch.zeros(values.shape[1], dtype=torch.float64)
        for without in every:
            if cause in without:
                continue
            # The share of all orders in which exactly these causes come before.
            before = len(without)
            weight = factorial(before) * factorial(count - before - 1) / factorial(count)
            added = values[place[without | {cause}]] - values[place[without]]
            total += weight * added.double()
        rows.append(total)
    return torch.stack(rows)


def change_of(coalition: Coalition) -> Intervention | None:
    """Return what the coalition changes in the attention calls that are read."""
    wide = SCALE in coalition
    if ONE_HEAD in coalition:
        return one_head("full" if wide else "head")
    return _wide_scale if wide else None


def _wide_scale(call: AttentionCall) -> AttentionCall:
    """Divide the logits by the root of the full width, with the model's own heads."""
    width = call.query.shape[1] * call.query.shape[-1]
    return call.change(scale=width**-0.5)


def eclip_map(
    call: ReadCall, coalition: Coalition, visible: Tensor | None = None
) -> Float[Tensor, "item token"]:
    """Return the map of one recorded call, before any ReLU: all key tokens.

    visible: which keys the readout can attend to; all of them by default.
    """
    if WEIGHT not in coalition:
        return (call.weights * call.slope).sum(1)
    return cosine_weight(call, coalition, visible) * call.slope.sum(1)


def cosine_weight(
    call: ReadCall, coalition: Coalition, visible: Tensor | None = None
) -> Float[Tensor, "item token"]:
    """Return the loosened weight, with the causes of it that the coalition switches on."""
    rows = call.query.unsqueeze(2) if QUERY in coalition else call.queries
    queries, keys = (t.transpose(1, 2).flatten(2) for t in (rows, call.key))
    if PROJECTED in coalition:
        queries, keys = (F.linear(t, *call.projection) for t in (queries, keys))
    cosine = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(1, 2)
    cosine = cosine.mean(1, keepdim=True)
    if RANGE in coalition:
        return min_max(cosine, call.content)[:, 0]
    if visible is None:
        return min_max(cosine, slice(None))[:, 0]
    # Keys that the mask hides may lie outside of the range; they have no slope.
    low = cosine.masked_fill(~visible.unsqueeze(1), torch.inf).amin(-1, keepdim=True)
    high = cosine.masked_fill(~visible.unsqueeze(1), -torch.inf).amax(-1, keepdim=True)
    span = (high - low).masked_fill(high == low, 1)
    return ((cosine - low) / span)[:, 0]


# --- images --------------------------------------------------------------------------------------


def measure(study: Study) -> Part | None:
    """Return both gaps and each cause's share of them, on images with objects to find."""
    located = study.material.located
    # Parts of a map are defined for one readout token; a mean over tokens has many rows.
    if located is None or study.model.image.readout.name == MEAN:
        return None
    items: Part = {}
    for start, stop in study.parts("causes, order-free", len(located.photos)):
        part = study.store.part(
            f"c-gap-{start}", lambda a=start, b=stop: _measured(study, located, a, b), stop=stop
        )
        items = joined(items, part)
    return summary(items, IMAGE_CAUSES) | {"pictures": len(located.photos)}


def summary(items: Part, causes: Sequence[str]) -> Part:
    """Return means and intervals over items: each gap, and each cause's share of it."""
    gaps: Part = {}
    for name, values in items.items():
        gaps[name] = {
            "published": mean(values["all"]),
            "shares": {cause: mean(values[cause]) for cause in causes},
        }
    return {"causes": {cause: MEANS[cause] for cause in causes}, "gaps": gaps}


def shares(values: Mapping[str, Tensor], causes: Sequence[str]) -> Part:
    """Return, by gap, its value with all causes and each cause's share, item by item."""
    found: Part = {}
    for name, by_coalition in values.items():
        parts = shapley(by_coalition, causes)
        found[name] = {
            "all": (by_coalition[-1] - by_coalition[0]).tolist(),
            **{cause: row.tolist() for cause, row in zip(causes, parts, strict=True)},
        }
    return found


def _measured(study: Study, located: Located, start: int, stop: int) -> Part:
    count = stop - start
    texts = encode_texts(study.model, located.prompts)
    every = coalitions(IMAGE_CAUSES)
    quality = {
        name: torch.full((len(every), count), torch.nan, dtype=torch.float64)
        for name in ("choice", "pointing")
    }
    distance = torch.full((len(every), count), torch.nan, dtype=torch.float64)
    reference: dict[int, tuple[Tensor, PhotoView]] = {}
    # The reference is on the native input, so that one comes first.
    inputs: tuple[Input, ...] = ("native", "keep")
    for how in inputs:
        for view in views(study.model, located, start, stop, how):
            own = texts[located.named[view.places]]
            grid = layout(view)
            cover = covers(view, located, grid)
            named = torch.zeros(len(cover), 1, cover.shape[1], dtype=torch.bool)
            named[:, :, 0] = True
            places = torch.tensor(view.places) - start
            for changed, call in _passes(view, own):
                for row, coalition in enumerate(every):
                    if (how == "keep") != (INPUT in coalition) or changed != coalition & PASS:
                        continue
                    maps = _on_grid(call, coalition, grid)
                    shaped = maps.unsqueeze(1)
                    quality["choice"][row, places] = choice(shaped, cover, named)[:, 0].double()
                    found = pointing(shaped, cover[:, :1])[:, 0]
                    quality["pointing"][row, places] = found.double()
                    if row == 0:
                        for place, values, geometry in zip(
                            places.tolist(), maps, view.images.views, strict=True
                        ):
                            reference[place] = values, geometry
                    distance[row, places] = _distances(maps, view, places, reference)
    gaps = {name: values[:1] - values for name, values in quality.items()}
    return shares({**gaps, "distance": distance}, IMAGE_CAUSES)


PASS = frozenset({ONE_HEAD, SCALE})
"""The causes that change the forward pass itself."""


def _passes(view: AnsweredImages, own: Tensor) -> Iterator[tuple[Coalition, ReadCall]]:
    for changed in coalitions(sorted(PASS)):
        yield changed, image_calls(view.images.model, view.images.pixels, own, change_of(changed))


def _on_grid(
    call: ReadCall, coalition: Coalition, grid: tuple[int, int]
) -> Float[Tensor, "item row col"]:
    values = eclip_map(call, coalition)[:, call.content]
    if RELU in coalition:
        values = values.clamp(min=0)
    return values.unflatten(1, grid).float()


def _distances(
    maps: Float[Tensor, "item row col"],
    view: AnsweredImages,
    places: Tensor,
    reference: Mapping[int, tuple[Tensor, PhotoView]],
) -> Float[Tensor, " item"]:
    """Return 1 less the rank correlation with the reference, on the reference's own patches."""
    found: list[Tensor] = []
    for values, geometry, place in zip(maps, view.images.views, places.tolist(), strict=True):
        wanted, target = reference[place]
        moved = brought(values, geometry, target, (wanted.shape[0], wanted.shape[1]))
        # A constant map ranks nothing: as far as an unrelated one.
        found.append(1 - spearman(moved.flatten(), wanted.double().flatten()).nan_to_num(0))
    return torch.stack(found).double()


def brought(
    values: Float[Tensor, "row col"],
    seen: PhotoView,
    wanted: PhotoView,
    grid: tuple[int, int],
) -> Float[Tensor, "down across"]:
    """Bring a map of one view of a photo onto another's grid, by exact area average."""
    down = _overlaps((wanted.top, wanted.bottom), grid[0], (seen.top, seen.bottom), len(values))
    across = _overlaps(
        (wanted.left, wanted.right), grid[1], (seen.left, seen.right), values.shape[1]
    )
    return down @ values.double() @ across.T


def _overlaps(
    wanted: tuple[float, float], cells: int, seen: tuple[float, float], parts: int
) -> Float[Tensor, "cell part"]:
    """Return the share of each wanted cell that lies in each part of what was seen."""
    edges = torch.linspace(*wanted, cells + 1, dtype=torch.float64)
    ends = torch.linspace(*seen, parts + 1, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], ends[None, :-1])
    high = torch.minimum(edges[1:, None], ends[None, 1:])
    shared = (high - low).clamp(min=0)
    # A cell beyond what was seen is covered by nothing, and stays zero.
    return shared / shared.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
