"""(c) The causes, one by one and together: heads, spatial weight, projection, input.

For each setting of Grad-ECLIP's switches and each input three questions: how far is the score that
was explained from the model's own; how often would the explained pass, and how often the model that
the map implies, be right; and how good is the map.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from heatproof import methods
from heatproof.auditing.checks.implied_model import tower_of
from heatproof.evaluation.presence import margin
from heatproof.reading import Intervention
from heatproof.reading.interventions import one_head
from heatproof.recipes.grad_eclip_paper.alignment import joined, listed
from heatproof.recipes.grad_eclip_paper.context import Input, Study
from heatproof.recipes.grad_eclip_paper.inputs import Located
from heatproof.recipes.grad_eclip_paper.localisation import (
    QUALITIES,
    View,
    chances,
    qualities,
    views,
)
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures, encode_texts
from heatproof.recipes.grad_eclip_paper.numbers import mean, paired, share, tensor
from heatproof.recipes.grad_eclip_paper.store import Part
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
    """A row for every cell of heads x weight x input, and each cause alone and all together."""
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


def _moved(found: Part, spatial: str, projection: str) -> Part:
    """One head moves the model: does the map with this weight move with it, and by how much less
    than the map with the model's own attention does? Native input."""
    name = _weight(spatial, projection)
    one, model = (found[f"{heads}, {name}, native"] for heads in ("one head", "model heads"))
    own = [found[f"{heads}, attention, native"] for heads in ("one head", "model heads")]
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
    """Name, switches and input of every cell."""
    for heads, (spatial, projection), how in product(("model", "one"), WEIGHTS, INPUTS):
        weight = _weight(spatial, projection)
        head = "one head" if heads == "one" else "model heads"
        switches = {"heads": heads, "spatial": spatial, "projection": projection}
        yield f"{head}, {weight}, {how}", switches, how


def _measured(study: Study, located: Located, start: int, stop: int) -> Part:
    texts = encode_texts(study.model, located.prompts)
    own: Tensor = torch.cat(
        [encode_pictures(study.model, view.pictures.pixels) @ texts.T
         for view in views(study.model, located, start, stop, "native")]
    )  # fmt: skip
    found: Part = {}
    chance: Part = {}
    for how in INPUTS:
        for view in views(study.model, located, start, stop, how):
            places = torch.tensor(view.places) - start
            for name, switches, of in cells():
                if of == how:
                    row = _row(study, located, view, texts, own[places], switches, start)
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
    view: View,
    texts: Tensor,
    own: Tensor,
    switches: Mapping[str, Any],
    seed: int,
) -> Part:
    model = view.pictures.model
    tower = tower_of(model, view.pictures.pixels)
    path = tower.sites[-1].path
    method = methods.create("grad-eclip", **switches)
    values, scores = qualities(view, located, method, study.seed + seed)
    named, absent = located.named[view.places], located.absent[view.places]
    explained = encode_pictures(
        model, view.pictures.pixels, {path: one_head()} if switches["heads"] == "one" else {}
    )
    used = encode_pictures(model, view.pictures.pixels, _whole(method.implied(tower)))
    native = own.gather(1, named.unsqueeze(1))[:, 0]
    return {
        "gap": (scores - native).abs().tolist(),
        "explained right": (margin(explained @ texts.T, named, ~absent) > 0).tolist(),
        "implied right": (margin(used @ texts.T, named, ~absent) > 0).tolist(),
        **listed(values),
    }


def _whole(implied: Mapping[str, dict[str, Intervention]]) -> dict[str, Intervention]:
    """All that the method puts in the model's place, as the audit does it; nothing where it is
    the model's own."""
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
    """The change in how often it is right, picture by picture."""
    here, there = (tensor([float(x) for x in each[what]]) for each in (cell, baseline))
    return paired(here, there, SHARE)
