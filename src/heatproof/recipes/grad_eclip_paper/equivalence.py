"""(a) Attention-ECLIP and Grad-ECLIP are one function: all options, both sides, two precisions."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

from jaxtyping import Float
from torch import Tensor

from heatproof import methods
from heatproof.evaluation.store import Part
from heatproof.methods import Method
from heatproof.models import Model
from heatproof.proofs import cost as proof
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    image_maps,
    text_maps,
)

Settings = dict[str, Any]
TWO = ("grad-eclip", "attention-eclip")


def measure(study: Study) -> Part:
    """Measure the largest difference of the two methods' maps for every setting, and their cost."""
    settings = [
        setting for setting in all_settings() if setting["rectify"] == "none" or not study.quick
    ]
    photos, texts = _examples(study)
    found: list[Part] = []
    models: dict[str, Callable[[], Model]] = {"float32": lambda: study.model}
    if study.double is not None:
        models["float64"] = study.double
    for dtype, make in models.items():
        model = make()
        pixels = native_pixels(model, photos).to(model.dtype)
        for start, stop in study.parts(f"equivalence, {dtype}", len(settings), 12):
            part = settings[start:stop]
            found += study.store.part(
                f"a-{dtype}-{start}",
                lambda m=model, p=pixels, s=part: {"rows": _compared(m, p, texts, s, study.seed)},
                pictures=len(photos),
            )["rows"]
    cost = study.store.part("a-cost", lambda: _cost(study))
    example = study.store.part("a-example", lambda: _example(study))
    # Maps that hold no numbers have no difference: the store keeps it as None.
    finite = [row for row in found if row["relative"] is not None]
    return {
        "settings": len(settings),
        "pictures": len(photos),
        "rows": found,
        "worst": {
            dtype: max((row["relative"] for row in finite if row["dtype"] == dtype), default=None)
            for dtype in models
        },
        "not finite": len(found) - len(finite),
        "all zero": sum(row["largest value"] == 0 for row in finite),
        "cost": cost,
        "example": example,
    }


def all_settings() -> Iterator[Settings]:
    """Yield all settings of the options; `projection` matters to the loosened weight alone."""
    spatial = [
        ("loosened", "output"),
        ("loosened", "none"),
        ("attention", "output"),
        ("none", "output"),
    ]
    for heads, (weight, projection), rectify, layers in product(
        ("one", "model"), spatial, ("none", "layer", "head"), (1, 2)
    ):
        yield {
            "heads": heads,
            "spatial": weight,
            "projection": projection,
            "rectify": rectify,
            "layers": layers,
        }


def _examples(study: Study) -> tuple[Any, tuple[str, ...]]:
    count = 4 if study.quick else 24
    if study.material.captioned is not None:
        return study.material.captioned.photos[:count], study.material.captioned.texts[:count]
    task = study.material.tasks[0] if study.material.tasks else None
    if task is not None:
        labels = task.labels[:count].tolist()
        return task.photos[:count], tuple(task.prompts[n][0] for n in labels)
    located = study.material.located
    assert located is not None
    return located.photos[:count], tuple(located.prompts[n] for n in located.named[:count].tolist())


def _compared(
    model: Model, pixels: Tensor, texts: tuple[str, ...], settings: list[Settings], seed: int
) -> list[Part]:
    pictures, captions = encode_pictures(model, pixels), encode_texts(model, texts)
    assert model.text is not None
    tokens = model.text.tokenize(list(texts))
    rows: list[Part] = []
    for setting in settings:
        for side in ("image", "text"):
            maps: list[Float[Tensor, "..."]] = []
            for name in TWO:
                method = methods.create(name, **setting)
                if side == "image":
                    maps.append(image_maps(model, method, pixels, captions, seed=seed)[0])
                else:
                    maps.append(text_maps(model, method, tokens, pictures, seed=seed)[0])
            rows.append({**setting, "side": side, "dtype": str(model.dtype)[6:], **_gap(*maps)})
    return rows


def _gap(one: Tensor, other: Tensor) -> Part:
    """Return the largest absolute difference, and the same over the map's largest value."""
    gap, scale = float((one - other).abs().max()), float(one.abs().max())
    return {"absolute": gap, "largest value": scale, "relative": gap / scale if scale else gap}


def _cost(study: Study) -> Part:
    """Measure both methods in turn on one image and one prompt, in this run."""
    pair = methods.create(TWO[0]), methods.create(TWO[1])
    cost = proof.measure(pair, study.model.spec, str(study.model.device))
    quantities = ("passes", "gradients", "saved_tensors", "saved_bytes", "seconds", "peak_bytes")
    return {
        "sides": [asdict(side) for side in cost.sides],
        "ratios": {name: cost.ratio(name) for name in quantities},
        "threads": cost.threads,
        "device": cost.device,
    }


def _example(study: Study) -> Part:
    """Compute both maps as published of one image."""
    photos, texts = _examples(study)
    pixels = native_pixels(study.model, photos[:1]).to(study.model.dtype)
    target = encode_texts(study.model, texts[:1])
    maps = {name: _map(study.model, methods.create(name), pixels, target) for name in TWO}
    return {"prompt": texts[0], "maps": {name: values.tolist() for name, values in maps.items()}}


def _map(model: Model, method: Method, pixels: Tensor, target: Tensor) -> Float[Tensor, "row col"]:
    return image_maps(model, method, pixels, target, seed=0)[0][0]


__all__ = ["all_settings", "measure"]
