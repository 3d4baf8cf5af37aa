"""(e) Insertion and deletion of pixels, in the authors' protocol and in a corrected one."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heatproof.evaluation.store import Part
from heatproof.metrics.base import area
from heatproof.metrics.ranking import ranked
from heatproof.models import Model
from heatproof.recipes.grad_eclip_paper.alignment import joined
from heatproof.recipes.grad_eclip_paper.catalogue import PUBLISHED, readable
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels, preprocessed
from heatproof.recipes.grad_eclip_paper.inputs import Task
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, image_maps
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired
from heatproof.recipes.grad_eclip_paper.protocols import (
    AUTHORS,
    BETTER,
    CORRECTED,
    FLAWS,
    PatchedView,
    Photograph,
    Protocol,
    curves,
    one_shuffle,
    pixel_order,
    worked_on,
)
from heatproof.statistics import SHARE, Bounds

Maps = Float[Tensor, "method item row col"]
TOPS = (1, 5, 10)
PREDICTED = "predicted class"
LABEL = "label"


def measure(study: Study) -> Part | None:
    """Measure areas with intervals for every method, both protocols, insertion and deletion."""
    task = study.material.perturbed
    if task is None:
        return None
    items: Part = {}
    for start, stop in study.parts("insertion and deletion", len(task.photos)):
        part = study.store.part(
            f"e-pictures-{start}", lambda a=start, b=stop: _measured(study, task, a, b), stop=stop
        )
        items = joined(items, part)
    return {
        "pictures": len(task.photos),
        "classes": len(task.names),
        "flaws": FLAWS,
        "best match is the label": mean(items["right"], SHARE),
        "protocols": [_protocol(name, each, study) for name, each in items["curves"].items()],
    }


def kinds(classes: int) -> list[str]:
    """Name the quantities that are read of every perturbed image."""
    tops = [f"top-{n}" for n in TOPS if n < classes]
    return [*tops, "cosine", "probability"]


def _measured(study: Study, task: Task, start: int, stop: int) -> Part:
    model = study.model
    classifier = task.classifier(model)
    photos = [worked_on(task.photos[n]) for n in range(start, stop)]
    labels = task.labels[start:stop]
    pixels = native_pixels(model, photos)
    predicted = (encode_pictures(model, pixels) @ classifier.T).argmax(1)
    # The authors map at the native aspect ratio and perturb there.
    published = _keep_size_maps(study, photos, classifier[labels], start)
    seen_maps = {
        LABEL: _maps(study, model, pixels, classifier[labels], start),
        PREDICTED: _maps(study, model, pixels, classifier[predicted], start),
    }
    found: Part = {}
    for n, photo in enumerate(photos):
        seed = (study.seed << 24) + start + n
        row: Part = {}
        score = _scorer(model, classifier, int(labels[n]))
        # Ties are broken by a seed of the image, so that they do not depend on the part it is in.
        order = pixel_order(published[n], photo, seed)
        for direction, protocol in AUTHORS.items():
            picture = Photograph(photo, model.image.preprocess, protocol, seed)
            row[f"authors', {direction}, {LABEL}"] = _by_kind(score, picture, order, protocol)
        for of, maps in seen_maps.items():
            target = int(labels[n] if of == LABEL else predicted[n])
            score = _scorer(model, classifier, target)
            values = maps[:, n].flatten(1)
            order = ranked(values, one_shuffle(values, seed))
            for direction, protocol in CORRECTED.items():
                name = f"corrected, {direction}, {of}"
                # Where the prediction is the label both curves are the same: computed once.
                twin = f"corrected, {direction}, {LABEL}"
                if of == PREDICTED and target == int(labels[n]):
                    row[name] = row[twin]
                    continue
                grid = (maps.shape[2], maps.shape[3])
                picture = PatchedView(pixels[n], grid, model.image.preprocess, protocol, seed)
                row[name] = _by_kind(score, picture, order, protocol)
        wrapped = {key: {m: [v] for m, v in each.items()} for key, each in row.items()}
        found = joined(found, wrapped)
    return {"right": (predicted == labels).float().tolist(), "curves": found}


def _maps(study: Study, model: Model, pixels: Tensor, targets: Tensor, seed: int) -> Maps:
    return torch.stack(
        [
            image_maps(model, method, pixels, targets, seed=study.seed + seed)[0].float()
            for method in readable("image").values()
        ]
    )


def _keep_size_maps(
    study: Study, photos: list[Any], targets: Tensor, seed: int
) -> list[Float[Tensor, "method row col"]]:
    """Map at the authors' input size, which keeps the photo's aspect ratio."""
    found: list[Tensor] = [torch.empty(0)] * len(photos)
    for places, pictures in preprocessed(study.model, photos, "keep"):
        maps = _maps(study, pictures.model, pictures.pixels, targets[places], seed)
        for n, place in enumerate(places):
            found[place] = maps[:, n]
    return found


def _scorer(
    model: Model, classifier: Float[Tensor, "class dim"], target: int
) -> Callable[[Tensor], Float[Tensor, "variant kind"]]:
    """Score: is the target among the best 1, 5, 10; its cosine; its softmax probability."""

    def score(pixels: Tensor) -> Tensor:
        cosines = encode_pictures(model, pixels) @ classifier.T
        above = (cosines > cosines[:, target : target + 1]).sum(1)
        tops = [(above < n).float() for n in TOPS if n < len(classifier)]
        share = (model.logit_scale * cosines).softmax(1)[:, target]
        return torch.stack([*tops, cosines[:, target], share], dim=1)

    return score


def _by_kind(
    score: Callable[[Tensor], Tensor],
    picture: Callable[[Tensor], Tensor],
    order: Int[Tensor, "method cell"],
    protocol: Protocol,
) -> Part:
    found = curves(score, picture, order, protocol)
    return dict(zip(readable("image"), _rounded(found), strict=True))


def _rounded(values: Tensor) -> list[Any]:
    """Round to five decimals: a run of 1,000 images then stays below 100 MB."""
    return (values.double() * 1e5).round().div(1e5).tolist()


# --- putting together -------------------------------------------------------------------------


def _protocol(name: str, methods: Part, study: Study) -> Part:
    source, direction, of = name.split(", ", 2)
    protocol = (AUTHORS if source.startswith("authors") else CORRECTED)[direction]  # pyright: ignore[reportArgumentType]
    stacked = {method: torch.tensor(each).double() for method, each in methods.items()}
    task = study.material.perturbed
    assert task is not None
    scored = kinds(len(task.names))
    areas = {m: area(each.transpose(1, 2), protocol.fractions) for m, each in stacked.items()}
    return {
        "name": name,
        "source": source,
        "direction": direction,
        "target": of,
        "better": BETTER[protocol.direction],
        "fill": protocol.fill,
        "fractions": protocol.fractions,
        "kinds": scored,
        "methods": {
            method: {
                kind: {
                    "area": mean(areas[method][:, k], _bounds(kind)),
                    "against random": paired(
                        areas[method][:, k], areas["random"][:, k], _bounds(kind)
                    ),
                    "curve": stacked[method][:, :, k].mean(0).tolist(),
                }
                for k, kind in enumerate(scored)
            }
            for method in stacked
        },
        "pairs": _pairs(areas, scored),
    }


def _bounds(kind: str) -> Bounds | None:
    """Return the smallest and the largest possible area of this kind."""
    return None if kind == "cosine" else SHARE


def _pairs(areas: dict[str, Tensor], scored: list[str]) -> list[Part]:
    """Pair methods: differences of the accuracy and of the probability."""
    wanted = [k for k, kind in enumerate(scored) if kind in ("top-1", "probability")]
    names = [name for name in areas if name not in PUBLISHED[1:]]
    return [
        {
            "one": one,
            "other": other,
            **{scored[k]: paired(areas[one][:, k], areas[other][:, k], SHARE) for k in wanted},
        }
        for one, other in combinations(names, 2)
    ]
