"""(d) "Misaligned with the model's performance": graded models, and right against wrong answers."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heatproof.evaluation.store import Part
from heatproof.recipes.grad_eclip_paper.catalogue import CONTROLS, compared
from heatproof.recipes.grad_eclip_paper.context import Study
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.localisation import QUALITIES, chances, qualities, views
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired, share, stratified, tensor
from heatproof.statistics import SHARE, bootstrap, spearman


def measure(study: Study) -> Part | None:
    """Measure every method's maps on every model of the family, and on the model by its answers."""
    if study.material.located is None:
        return None
    located = study.material.located
    grades: list[Part] = []
    known: dict[str, Part] = {}
    for grade in study.material.family:
        with grade.make() as model:
            items = _items(study.on(model), located, grade.name, model.weights_hash)
            known[model.weights_hash] = items
        grades.append({"name": grade.name, "items": items})
    # The last model of the family may be the model itself: it is measured once.
    own = study.model.weights_hash
    items = known[own] if own in known else _items(study, located, study.model.spec, own)
    return {
        "pictures": len(located.photos),
        "family is": study.material.family_is,
        "chance": {q: mean(items["chance"][q], SHARE) for q in QUALITIES},
        "family": _family(grades, study.seed) if grades else None,
        "split": _split(items),
    }


def _items(study: Study, located: Located, name: str, weights: str) -> Part:
    """Return, by image: is the model right, and how good is each map?"""
    whole: Part = {}
    for start, stop in study.parts(f"maps of {name}", len(located.photos), 2 * study.chunk):
        part = study.store.part(
            f"d-{name.replace(' ', '-').replace('/', '-').replace(':', '-')}-{start}",
            lambda a=start, b=stop: _measured(study, located, a, b),
            weights=weights,
            stop=stop,
        )
        whole = joined(whole, part)
    return whole


def _measured(study: Study, located: Located, start: int, stop: int) -> Part:
    found: Part = {}
    for view in views(study.model, located, start, stop, "native"):
        maps = {
            name: qualities(view, located, method, study.seed + start)[0]
            for name, method in compared().items()
        }
        found = joined(
            found,
            {
                "right": view.right.tolist(),
                "margin": view.margin.tolist(),
                "objects": [int(located.objects[place]) for place in view.places],
                "area": chances(view, located)["pointing"].tolist(),
                "chance": listed(chances(view, located)),
                "maps": {name: listed(quality) for name, quality in maps.items()},
            },
        )
    return found


def listed(values: Part) -> Part:
    """Convert tensors to lists."""
    return {key: tensor.tolist() for key, tensor in values.items()}


def joined(one: Part, other: Part) -> Part:
    """Concatenate the lists of two parts of one shape."""
    if not one:
        return other
    return {
        key: joined(value, other[key]) if isinstance(value, dict) else [*value, *other[key]]
        for key, value in one.items()
    }


# --- the graded family ------------------------------------------------------------------------


def _family(grades: Sequence[Part], seed: int) -> Part:
    accuracy = [share(torch.tensor(g["items"]["right"])) for g in grades]
    # Phantom localisation is asked of the least accurate model, which has least left to find.
    worst = min(range(len(grades)), key=lambda n: accuracy[n]["value"])
    rows: dict[str, Part] = {}
    for name in compared():
        rows[name] = {
            quality: _following(grades, name, quality, worst, seed) for quality in QUALITIES
        }
    return {
        "names": [g["name"] for g in grades],
        "accuracy": accuracy,
        "worst": grades[worst]["name"],
        "methods": rows,
    }


def _following(grades: Sequence[Part], name: str, quality: str, worst: int, seed: int) -> Part:
    """Does the quality of maps rise with accuracy, and what is left of it at the worst model?"""
    values = torch.stack([tensor(g["items"]["maps"][name][quality]) for g in grades])
    right = torch.stack([torch.tensor(g["items"]["right"]).double() for g in grades])
    bottom = grades[worst]["items"]
    return {
        "by grade": [mean(row, SHARE) for row in values],
        "rank correlation": _rank_correlation(right, values, seed),
        "phantom": {
            "over chance": paired(bottom["maps"][name][quality], bottom["chance"][quality], SHARE),
            **{
                f"over {control}": paired(
                    bottom["maps"][name][quality], bottom["maps"][control][quality], SHARE
                )
                for control in CONTROLS
            },
        },
    }


def _rank_correlation(right: Tensor, values: Tensor, seed: int) -> Part:
    """Correlate over models, images resampled: the interval is over images, not over models."""

    def statistic(rows: Int[Tensor, "draw item"]) -> Float[Tensor, " draw"]:
        accuracy = right[:, rows].mean(-1).T
        quality = values[:, rows].nanmean(-1).T
        # A constant follows nothing: 0, where the correlation has no value.
        return spearman(accuracy, quality).nan_to_num(0)

    return bootstrap(statistic, right.shape[1], seed=seed).plain


# --- right and wrong --------------------------------------------------------------------------


def _split(items: Part) -> Part:
    """Compare each map's quality where the model is right and where it is wrong.

    The difference is within strata of equally many objects of similar size, which move both.
    """
    right = torch.tensor(items["right"])
    strata = _strata(items)
    rows: dict[str, Any] = {}
    for name in compared():
        rows[name] = {}
        for quality in QUALITIES:
            values = tensor(items["maps"][name][quality])
            rows[name][quality] = {
                "right": mean(values[right], SHARE),
                "wrong": mean(values[~right], SHARE),
                "difference": stratified(values, right, strata).plain,
            }
    return {"accuracy": share(right), "strata": int(strata.max()) + 1, "methods": rows}


def _strata(items: Part) -> Int[Tensor, " item"]:
    """Number the strata: objects in the image x tercile of the named object's area."""
    area = torch.tensor(items["area"]).double()
    edges = torch.quantile(area, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    size = (area.unsqueeze(1) > edges).sum(1)
    objects = torch.tensor(items["objects"])
    # Numbers of objects need not be consecutive.
    kinds = sorted(set(objects.tolist()))
    return torch.tensor([kinds.index(n) for n in objects.tolist()]) * 3 + size
