"""Check that a map is constant where the model's readout sees nothing of the image."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import statistics
from heatproof.auditing.base import (
    AuditCheck,
    CheckCard,
    CheckContext,
    Finding,
    Numbers,
    Verdict,
    register_check,
)
from heatproof.auditing.drawing import reference
from heatproof.auditing.task import QUALITY
from heatproof.errors import ReadingError
from heatproof.evaluation.blindness import blind
from heatproof.evaluation.subject import Subject
from heatproof.evaluation.variants import UNTOUCHED, Variant
from heatproof.methods import Foreign
from heatproof.methods.readout import as_readout_method
from heatproof.plots import chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDINGS = 2**10
"""A map is constant where its spread is below this many roundings of the intact map's spread."""
NOISE = 0.5
"""Two draws of a map whose correlation is below this hold more chance than anything else."""
CHECKED = 16
"""How many images are encoded one by one, to compare them to the bit."""


@register_check
@dataclass(frozen=True)
class BlindModelCheck(AuditCheck):
    """Keep the readout from all patches, by an intervention that no method's changes can undo.

    The model then gives every image the same embedding, to the bit, which is verified first: all
    scores are equal, and nothing is there to be explained. Rules, written down before the run:

    - violated: a map is not constant over its patches. Constant is a spread (largest less smallest
      value) of at most `ROUNDINGS` = 1024 roundings of the spread on the intact model;
    - a method of the last layer alone is also asked with the readout blind in that layer only:
      earlier layers still see, and no patch of the layer that it reads moves the score;
    - cannot tell: the readout is a mean over patches (no intervention makes it blind), the
      embeddings are not equal (the image reaches them another way), the method's code does not
      pass the model's attention calls, or two draws of a sampled map agree less than
      `NOISE` = 0.5, so that what is left may be its own sampling.

    Where objects are known, the choice above chance of these maps is *phantom localisation*: an
    object-shaped map of a model that sees no object.
    """

    card = CheckCard(
        name="blind-model",
        title="blind model",
        principle=2,
        place=7,
        question="Is the map constant where the model's readout sees nothing of the image?",
        labels=False,
    )

    def measure(self, subject: Subject, context: CheckContext) -> Finding:
        """Measure the map's spread on the blind model, against that on the model as it is."""
        layers = context.attention_layers()
        asked: list[tuple[str, int | None]] = [("every layer", None)]
        try:
            if len(layers) > 1 and _only_last(subject, context):
                asked.append(("the last layer", 1))
            _check_reached(subject, context)
            parts = {name: self._part(subject, context, last) for name, last in asked}
        except ReadingError as error:
            return self.finding("cannot tell", f"{error}.")
        verdict, evidence = _verdict(parts)
        return self.finding(verdict, evidence, {"blind in": parts, "roundings": ROUNDINGS})

    def _part(self, subject: Subject, context: CheckContext, last: int | None) -> dict[str, Any]:
        variant = blind(context.model, context.attention_layers(), last=last)
        before, after = _maps(subject, context, UNTOUCHED), _maps(subject, context, variant)
        spread, intact = _spread(after), _spread(before)
        limit = ROUNDINGS * torch.finfo(context.model.precision).eps
        moved = spread > limit * intact
        numbers: dict[str, Any] = {
            "embeddings differ by": _embeddings_differ(context, variant) if last is None else None,
            "spread": float(spread.max()),
            "spread, intact": float(intact.max()),
            "share of the intact spread": float((spread / intact.clamp(min=1e-300)).median()),
            "maps that are not constant": int(moved.sum()),
            "maps": len(moved),
            "limit": limit,
        }
        if moved.any():
            again = _maps(subject, context, variant, draw=1)
            numbers["agreement of two draws"] = _agreement(after[moved], again[moved])
        if context.labelled is not None:
            numbers["phantom localisation"] = (
                _phantom(subject, context, variant, moved) if moved.any() else None
            )
        return numbers

    def figure(self, numbers: Numbers) -> "Figure | None":
        """Draw the spread that is left, as a share of the intact one, and phantom localisation."""
        parts: dict[str, Any] = numbers["blind in"]
        if not parts:
            return None
        phantoms = {name: part for name, part in parts.items() if part.get("phantom localisation")}
        figure, axes = chart.new_chart(len(parts) * 1.5, 2 if phantoms else 1)
        chart.label_rows(axes[0], [f"blind in {name}" for name in parts])
        for row, part in enumerate(parts.values()):
            share = min(part["share of the intact spread"], 10.0)
            point = chart.point({"value": share, "low": share, "high": share})
            assert point is not None
            chart.bar(axes[0], row, point)
        axes[0].set_xlabel("spread left, as a share of the intact map's")
        if phantoms:
            chart.label_rows(axes[1], [""] * len(phantoms))
            for row, part in enumerate(phantoms.values()):
                for key, colour in (("before", chart.RIVAL), ("value", chart.OURS)):
                    point = chart.point(part["phantom localisation"][key])
                    if point is not None:
                        chart.dot(axes[1], point, row, colour, "o", key)
            reference(axes[1], "chance", x=0)
            axes[1].set_xlabel("choice above chance")
            kinds = [("blind", chart.OURS, "o"), ("intact", chart.RIVAL, "o")]
            chart.legend(axes[1], kinds)
        return figure


def _verdict(parts: Numbers) -> tuple[Verdict, str]:
    whole = parts["every layer"]
    if whole["embeddings differ by"]:
        return (
            "cannot tell",
            "With the readout kept from all patches the embeddings of two images still differ by "
            f"{whole['embeddings differ by']:.2g}: the image reaches them another way.",
        )
    if not any(part["spread, intact"] > 0 for part in parts.values()):
        return "cannot tell", "The map is constant on the model as it is."
    broken = {name: p for name, p in parts.items() if p["maps that are not constant"]}
    signal = {name: p for name, p in broken.items() if p["agreement of two draws"] >= NOISE}
    seen = "; ".join(_seen(name, part) for name, part in (signal or broken or parts).items())
    if signal:
        return "violated", f"The model sees nothing, and the map shows something: {seen}."
    if broken:
        return "cannot tell", f"What is left may be the method's own sampling: {seen}."
    return "holds", f"The model sees nothing, and so does the map: {seen}."


def _seen(name: str, part: Numbers) -> str:
    same = "all images have one embedding to the bit, "
    scores = same if part["embeddings differ by"] == 0 else ""
    text = (
        f"readout blind in {name}: {scores}{part['maps that are not constant']} of "
        f"{part['maps']} maps are not constant, spread {part['spread']:.2g} (intact "
        f"{part['spread, intact']:.2g})"
    )
    phantom = part.get("phantom localisation")
    if phantom:
        value, before = (chart.point(phantom[key]) for key in ("value", "before"))
        assert value is not None
        assert before is not None
        text += (
            f"; choice above chance {value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}], "
            f"intact {before.value:+.3f}"
        )
    return text


def _maps(
    subject: Subject, context: CheckContext, variant: Variant, draw: int = 0
) -> Float[Tensor, "map row col"]:
    """Return the maps of the labelled images for their prompts, or of all images and prompts."""
    if context.labelled is not None:
        maps = context.labelled.maps(subject, variant, draw=draw)
        return maps[~maps.flatten(1).isnan().any(1)]
    with variant.enter():
        return replace(context, seed=context.seed + draw).maps(subject).flatten(0, 1)


def _spread(maps: Float[Tensor, "map row col"]) -> Float[Tensor, " map"]:
    flat = maps.flatten(1).double()
    return flat.amax(1) - flat.amin(1)


def _agreement(one: Tensor, other: Tensor) -> float:
    """Return the mean correlation of two draws of maps: 1 where chance plays no part."""
    sides = [flat - flat.mean(1, keepdim=True) for flat in (one.flatten(1), other.flatten(1))]
    scale = sides[0].norm(dim=1) * sides[1].norm(dim=1)
    return float(((sides[0] * sides[1]).sum(1) / scale.clamp(min=1e-300)).mean())


def _embeddings_differ(context: CheckContext, variant: Variant) -> float:
    """Return the largest difference between two images' embeddings; 0 where none differs."""
    # One by one: batched products may round the rows of one batch differently.
    pixels = context.pixels() if context.labelled is None else context.labelled.pixels
    with variant.enter(), torch.no_grad():
        images = torch.cat([context.model.image.encode(one) for one in pixels[:CHECKED].split(1)])
    return float((images.amax(0) - images.amin(0)).max())


def _phantom(
    subject: Subject, context: CheckContext, variant: Variant, moved: Tensor
) -> dict[str, Any]:
    """Return choice above chance, blind and intact, and what the blind model knows."""
    task = context.task
    quality = task.quality(subject, variant)
    # Rounding breaks the ties of a constant map: it chooses nothing.
    known = ~task.maps(subject, variant).flatten(1).isnan().any(1)
    constant = torch.zeros_like(known)
    constant[known] = ~moved
    quality = quality.masked_fill(constant & ~quality.isnan(), 0)
    accuracy = statistics.mean(task.outscored(variant), bounds=statistics.SHARE)
    return {
        "value": _estimated(quality),
        "before": _estimated(task.quality(subject)),
        "accuracy": accuracy.plain,
    }


def _estimated(quality: Float[Tensor, " image"]) -> dict[str, Any]:
    return statistics.mean(quality, bounds=QUALITY).plain


def _check_reached(subject: Subject, context: CheckContext) -> None:
    """Raise a `ReadingError` where user code passes by an attention call that is made blind."""
    if not isinstance(subject.method, Foreign):
        return
    # The engine encodes the image for its score as well: what code that does nothing adds to.
    idle = Foreign(_idle, takes=subject.method.takes, name="idle")
    counts: list[Counter[str]] = []
    for one in (Subject(idle), subject):
        calls: Counter[str] = Counter()
        variant = blind(context.model, context.attention_layers(), calls=calls)
        with variant.enter():
            _one_map(one, context)
        counts.append(calls)
    missed = [path for path in counts[0] if counts[1][path] <= counts[0][path]]
    if missed:
        raise ReadingError(
            f"the code does not pass the model's attention at {missed[0]!r}: it runs a copy, or "
            "attention of its own, which this check cannot make blind"
        )


def _idle(image: object, prompt: str) -> Tensor:
    del image, prompt
    return torch.zeros(2, 2)


def _one_map(subject: Subject, context: CheckContext) -> None:
    labelled = context.labelled
    if labelled is None:
        context.first(1, 1).maps(subject)
        return
    rows = torch.tensor([0])
    prompts = labelled.data.prompts[:1]
    subject.maps(labelled.model, labelled.images_for(subject, rows), prompts, seed=labelled.seed)


def _only_last(subject: Subject, context: CheckContext) -> bool:
    """Return whether the method reads nothing but the readout's row of the last attention call."""
    layers = context.attention_layers()
    if as_readout_method(subject.method) is None:
        return False
    return subject.method.plan(layers, "image").paths == (layers[-1].path,)
