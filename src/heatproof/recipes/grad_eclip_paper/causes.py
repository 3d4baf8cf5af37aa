"""(c) The causes, one by one and together: heads, spatial weight, projection, input.

Three questions for each setting of Grad-ECLIP's options and each input: how far is the explained
score from the model's own; how often are the explained pass and the model that the map implies
right; and how good is the map.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from heatproof import methods
from heatproof.auditing.checks.implied_model import tower_of
from heatproof.evaluation.presence import margin
from heatproof.evaluation.store import Part
from heatproof.reading import Intervention
from heatproof.reading.interventions import one_head
from heatproof.recipes.grad_eclip_paper.alignment import joined, listed
from heatproof.recipes.grad_eclip_paper.context import Input, Study
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.localisation import (
    QUALITIES,
    AnsweredImages,
    chances,
    qualities,
    views,
)
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, encode_texts
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired, share, tensor
from heatproof.statistics import SHARE, of_differences

CHANGE = of_differences(SHARE)
INPUTS: tuple[Input, ...] = ("native", "keep")
WEIGHTS = (
    ("loosened", "output"),
    ("loosened", "none"),
    ("attention", "output"),
    ("none", "output"),
)
PUBLISHED = "one head, loosened (output), keep"
NONE = "model heads, attention, native"


def measure(study: Study) -> Part | None:
    """Measure every cell of heads x weight x input, each cause alone and all together."""
    located = study.material.located
    if located is None:
        return None
    items: Part = {}
    for start, stop in study.parts("causes, one by one", len(located.photos)):
        part = study.store.part(
            f"c-{start}", lambda a=start, b=stop: _measured(study, located, a, b), stop=stop
        )
        items = joined(items, part)
    cells = {name: _cell(each, items["cells"][NONE]) for name, each in items["cells"].items()}
    return {
        "pictures": len(located.photos),
        "chance": {q: mean(items["chance"][q], SHARE) for q in QUALITIES},
        "cells": cells,
        "moved": [_moved(items["cells"], spatial, projection) for spatial, projection in WEIGHTS],
        "alone": {
            "nothing": NONE,
            "one head": "one head, attention, native",
            "loosened weight": "model heads, loosened (output), native",
            "input at its own aspect ratio": "model heads, attention, keep",
            "all three, as published": PUBLISHED,
        },
    }


def _moved(cells: Part, spatial: str, projection: str) -> Part:
    """One head moves the model: does the map with this weight move with it, and by how much less
    than the map with the model's own attention does? Native input."""
    name = _weight(spatial, projection)
    one, model = (cells[f"{heads}, {name}, native"] for heads in ("one head", "model heads"))
    own = [cells[f"{heads}, attention, native"] for heads in ("one head", "model heads")]
    moves = {
        quality: (tensor(one[quality]) - tensor(model[quality])).tolist() for quality in QUALITIES
    }
    with_attention = {
        quality: (tensor(own[0][quality]) - tensor(own[1][quality])).tolist()
        for quality in QUALITIES
    }
    return {
        "weight": name,
        "accuracy": _lost(one, model, "explained right"),
        **{quality: mean(moves[quality], CHANGE) for quality in QUALITIES},
        **{
            f"{quality}, less than attention": paired(
                moves[quality], with_attention[quality], CHANGE
            )
            for quality in QUALITIES
        },
    }


def _weight(spatial: str, projection: str) -> str:
    return f"{spatial} ({projection})" if spatial == "loosened" else spatial


def cells() -> Iterator[tuple[str, dict[str, Any], Input]]:
    """Yield name, options and input of every cell."""
    for heads, (spatial, projection), how in product(("model", "one"), WEIGHTS, INPUTS):
        weight = _weight(spatial, projection)
        head = "one head" if heads == "one" else "model heads"
        options = {"heads": heads, "spatial": spatial, "projection": projection}
        yield f"{head}, {weight}, {how}", options, how


def _measured(study: Study, located: Located, start: int, stop: int) -> Part:
    texts = encode_texts(study.model, located.prompts)
    # The score of the untouched model on its native input, the reference for every cell.
    own: Tensor = torch.cat(
        [encode_pictures(study.model, view.images.pixels) @ texts.T
         for view in views(study.model, located, start, stop, "native")]
    )  # fmt: skip
    found: Part = {}
    chance: Part = {}
    for how in INPUTS:
        # Inputs of different size come in groups, so rows are put back in order afterwards.
        for view in views(study.model, located, start, stop, how):
            places = torch.tensor(view.places) - start
            for name, options, of in cells():
                if of == how:
                    row = _row(study, located, view, texts, own[places], options, start)
                    found[name] = joined(found.get(name, {}), {"place": view.places, **row})
            if how == "native":
                chance = listed(chances(view, located))
    ordered = {name: _in_order(each) for name, each in found.items()}
    return {"chance": chance, "cells": ordered}


def _in_order(cell: Part) -> Part:
    order = sorted(range(len(cell["place"])), key=lambda n: cell["place"][n])
    return {key: [values[n] for n in order] for key, values in cell.items()}


def _row(
    study: Study,
    located: Located,
    view: AnsweredImages,
    texts: Tensor,
    own: Tensor,
    options: Mapping[str, Any],
    seed: int,
) -> Part:
    model = view.images.model
    tower = tower_of(model, view.images.pixels)
    path = tower.layers[-1].path
    method = methods.create("grad-eclip", **options)
    values, scores = qualities(view, located, method, study.seed + seed)
    named, absent = located.named[view.places], located.absent[view.places]
    # The pass that was differentiated, as far as it differs from the model.
    explained = encode_pictures(
        model, view.images.pixels, {path: one_head()} if options["heads"] == "one" else {}
    )
    # The model for which the map would be right.
    used = encode_pictures(model, view.images.pixels, _whole(method.implied(tower)))
    native = own.gather(1, named.unsqueeze(1))[:, 0]
    return {
        "gap": (scores - native).abs().tolist(),
        "explained right": (margin(explained @ texts.T, named, ~absent) > 0).tolist(),
        "implied right": (margin(used @ texts.T, named, ~absent) > 0).tolist(),
        **listed(values),
    }


def _whole(implied: Mapping[str, dict[str, Intervention]]) -> dict[str, Intervention]:
    """Return all interventions that the method implies, as the audit applies them."""
    return list(implied.values())[-1] if implied else {}


def _cell(cell: Part, baseline: Part) -> Part:
    return {
        "gap": mean(cell["gap"]),
        "explained right": share(torch.tensor(cell["explained right"])),
        "implied right": share(torch.tensor(cell["implied right"])),
        "lost, explained": _lost(cell, baseline, "explained right"),
        "lost, implied": _lost(cell, baseline, "implied right"),
        **{quality: mean(cell[quality], SHARE) for quality in QUALITIES},
        **{
            f"{quality}, against none": paired(cell[quality], baseline[quality], SHARE)
            for quality in QUALITIES
        },
    }


def _lost(cell: Part, baseline: Part, what: str) -> Part:
    """Return the paired change in accuracy, image by image."""
    here, there = (tensor([float(x) for x in row[what]]) for row in (cell, baseline))
    return paired(here, there, SHARE)
