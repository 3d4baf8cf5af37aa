"""Counterexamples as files: a JSON text and, on a model, the tensors in safetensors beside it.

An exact one holds the network's integers and both maps as fractions; one on a model holds the
model's name and weights hash, the input, both maps and their difference. `replay` computes all of
it again and trusts no number in the file.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heatproof import methods
from heatproof.errors import HeatproofError, InputError
from heatproof.methods import Method
from heatproof.proofs import models
from heatproof.proofs.algebra.exact import ExactDifference, exact_map
from heatproof.proofs.algebra.forms import form_of
from heatproof.proofs.algebra.rational import Network, Weights

FORMAT = "heatproof counterexample 1"
EXACT, MODEL = "counterexample-exact.json", "counterexample.json"
REPLAYED = 1e-6
"""Of the largest value: another machine's float64 may sum in another order."""
MOST_NUMBERS = 64
"""The largest width and number of tokens of an exact network that is replayed."""


@dataclass(frozen=True)
class Replay:
    """The result of a replay: was the recorded difference reproduced, and what came out."""

    reproduced: bool
    difference: str
    reason: str


def save_exact(difference: ExactDifference, folder: Path) -> Path:
    """Write a difference over the rationals."""
    text: dict[str, Any] = {
        "format": FORMAT,
        "kind": "exact",
        "methods": [_described(method) for method in difference.methods],
        "network": difference.network.description(),
        "token": difference.token,
        "maps": [[str(x) for x in values] for values in difference.maps],
        "difference": str(difference.difference),
    }
    return _written(text, folder / EXACT)


def save_on_model(difference: models.ModelDifference, folder: Path) -> Path:
    """Write a difference on a model: one image and one prompt, recomputed alone."""
    side, place = difference.place.side, difference.place
    case = difference.case.single(side, place.item, place.target)
    maps = [case.values(method, side)[0, 0].double() for method in difference.methods]
    tensors = {"map_a": maps[0], "map_b": maps[1], "difference": maps[0] - maps[1]}
    tensors |= {"pixels": case.pixels, **_prompts(case, side)}
    path = folder / MODEL
    save_file(
        {k: v.cpu().contiguous() for k, v in tensors.items()}, path.with_suffix(".safetensors")
    )
    token = int((maps[0] - maps[1]).abs().argmax())
    text: dict[str, Any] = {
        "format": FORMAT,
        "kind": "model",
        "methods": [_described(method) for method in difference.methods],
        "model": case.name,
        "weights_hash": case.model.weights_hash,
        "side": side,
        "classes": case.targets if isinstance(case.targets, list) else None,
        "token": token,
        "values": [float(values[token]) for values in maps],
        "difference": float(maps[0][token] - maps[1][token]),
        "tensors": path.with_suffix(".safetensors").name,
    }
    return _written(text, path)


def _prompts(case: models.ModelCase, side: str) -> dict[str, Tensor]:
    if side == "text":
        return {"words": case.words}
    return {} if isinstance(case.targets, list) else {"targets": case.targets}


def _described(method: Method) -> dict[str, Any]:
    return {"name": method.card.name, "settings": method.settings()}


def _written(text: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(text, indent=1) + "\n")
    return path


# --- replaying -------------------------------------------------------------------------------


def replay(path: Path) -> Replay:
    """Compute a counterexample again, and compare with what was recorded.

    Raises:
        InputError: the file is no counterexample, or its model or tensors cannot be had here.
    """
    text = _read(path)
    run: Callable[..., Replay] = _replay_exact if text["kind"] == "exact" else _replay_model
    try:
        pair = [methods.create(each["name"], **each["settings"]) for each in text["methods"]]
        # The JSON may have been edited: it is data, not a promise.
        if len(pair) != 2:
            raise ValueError(f"{len(pair)} methods")
        return run(text, pair, path)
    except HeatproofError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is damaged ({why}); expected a file of prove -o") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}; expected a counterexample of prove -o"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    known = isinstance(text, dict) and text.get("format") == FORMAT
    if not known or text.get("kind") not in ("exact", "model"):
        raise InputError(f"{path} is no counterexample; expected the format {FORMAT!r}")
    return text


def _replay_exact(text: dict[str, Any], pair: list[Method], path: Path) -> Replay:
    del path
    network, token = _network(text["network"]), int(text["token"])
    forms = [form_of(method) for method in pair]
    maps = [None if form is None else exact_map(network, form) for form in forms]
    if maps[0] is None or maps[1] is None:
        raise InputError("the methods of this counterexample have no map on its network")
    difference = maps[0][token] - maps[1][token]
    both = (maps[0], maps[1])
    for method, found, recorded in zip(pair, both, text["maps"], strict=True):
        for place, (new, old) in enumerate(zip(found, recorded, strict=True)):
            if new != Fraction(old):
                name = method.card.name
                return _failed(difference, f"{name} at token {place} is {new}, recorded was {old}")
    if difference != Fraction(text["difference"]):
        return _failed(difference, f"the difference is not the recorded {text['difference']}")
    return _compared(difference)


def _network(given: dict[str, Any]) -> Network:
    layers = tuple(
        Weights(
            _integers(each["query"]),
            _integers(each["key"]),
            _integers(each["value"]),
            _integers(each["output"]),
            tuple(map(int, each["bias"])),
        )
        for each in given["layers"]
    )
    linear, square, below = _integers(given["score"])
    network = Network(
        heads=int(given["heads"]),
        channels=int(given["channels"]),
        side=given["side"],
        row=None if given["row"] is None else int(given["row"]),
        tokens=_integers(given["tokens"]),
        layers=layers,
        score=(linear, square, below),
    )
    if max(len(network.tokens), *(len(token) for token in network.tokens)) > MOST_NUMBERS:
        raise InputError(f"the network of this counterexample is larger than {MOST_NUMBERS}")
    return network


def _integers(rows: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(x) for x in row) for row in rows)


def _replay_model(text: dict[str, Any], pair: list[Method], path: Path) -> Replay:
    tensors = _tensors(path.with_name(Path(text["tensors"]).name))
    # What a file names is never downloaded.
    # A file may come from anywhere: what it names is never downloaded.
    model = models.loaded(text["model"], allow_download=False).model
    if model.weights_hash != text["weights_hash"]:
        return _failed(
            0.0, f"{text['model']} has other weights here than those of the counterexample"
        )
    side, token = text["side"], int(text["token"])
    targets = tensors.get("targets") if text["classes"] is None else list(text["classes"])
    case = models.ModelCase(text["model"], model, tensors["pixels"], targets, tensors.get("words"))
    maps = [case.values(method, side)[0, 0].double() for method in pair]
    difference = float(maps[0][token] - maps[1][token])
    # Relative, since another machine may sum in another order.
    scale = max(float(each.abs().max()) for each in maps)
    recorded = [tensors["map_a"], tensors["map_b"]]
    for method, found, old in zip(pair, maps, recorded, strict=True):
        if found.shape != old.shape:
            return _failed(difference, f"the map of {method.card.name} has another size")
        gap = (found - old).abs()
        if not float(gap.max()) <= REPLAYED * scale:
            place, name = int(gap.argmax()), method.card.name
            new, was = float(found[place]), float(old[place])
            return _failed(
                difference, f"{name} at token {place} is {new:.9g}, recorded was {was:.9g}"
            )
    if not abs(difference - float(text["difference"])) <= REPLAYED * scale:
        return _failed(difference, f"the difference is not the recorded {text['difference']:.9g}")
    if abs(difference) <= models.TOLERANCE * scale:
        return _failed(difference, "the maps do not differ beyond the tolerance")
    return _compared(difference)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None


def _failed(difference: Fraction | float, reason: str) -> Replay:
    return Replay(False, _short(difference), reason)


def _compared(difference: Fraction | float) -> Replay:
    if difference == 0:
        return _failed(difference, "the maps do not differ")
    return Replay(True, _short(difference), "both maps and their difference came out again")


def _short(number: Fraction | float) -> str:
    """A fraction of many digits is for the file, not for a line."""
    exact = str(number)
    return exact if len(exact) <= 24 else f"{float(number):.9g}"
