"""Hash every method's maps and scores on every family, to show that a change moved no bit.

Write the file with the code before a change and compare with the code after it, on one machine:

    python benchmarks/golden_maps.py write golden.json
    python benchmarks/golden_maps.py compare golden.json

Cases: each method of the catalogue on each tiny random model (image and text side); each value of
each of its options on some of them; each method on `scenes`, with the certificate's verdict; other
functions and arguments (`jacobian`, `explain_each`, `memory`, batch and image sizes, scores).
A refusal is recorded as the name of its error class. Under a minute on one core.

Hashes depend on the processor and on torch's version: a file from another machine proves nothing.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
import time
import typing
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import heatproof
from heatproof import methods
from heatproof.errors import HeatproofError
from heatproof.specimens import SPECIMENS, ids_for  # the one line that knows where they are

SEED = 5
WITH_OPTIONS = ("open_clip vit", "open_clip resnet", "open_clip siglip", "hf clip", "timm vit")
PROMPTS = ["a red circle", "a blue square above a green star"]
# Fewer samples for methods of many forward passes.
QUICK: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"steps": 5},
    "kernel-shap": {"samples": 12},
    "m2ib": {"steps": 3, "batch": 2},
    "rise": {"masks": 24},
    "second-order": {"steps": 4},
    "smoothgrad": {"samples": 3},
}

Case = Callable[[], dict[str, Any]]


# --- inputs -----------------------------------------------------------------------------------


@cache
def specimen(family: str) -> Any:
    """Return a tiny model whose tokenizer maps letters to ids, so that null prompts exist."""
    model = SPECIMENS[family]()
    if model.text is None:
        return model
    vocabulary = int(ids_for(family).max()) + 1
    from_ids = model.text.from_ids

    def tokenize(texts: Any) -> Any:
        ids = torch.zeros(len(texts), ids_for(family).shape[1], dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            letters = [ord(letter) % (vocabulary - 4) + 1 for letter in text[:11]]
            row[: len(letters) + 2] = torch.tensor([vocabulary - 2, *letters, vocabulary - 1])
        return from_ids(ids)

    return dataclasses.replace(model, text=dataclasses.replace(model.text, tokenize=tokenize))


@cache
def pixels(family: str) -> Tensor:
    """Return noise (2, 3, height, width) in the model's own input size and dtype."""
    model = specimen(family)
    size = model.image.preprocess
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2, 3, size.height, size.width, generator=generator)
    return noise.to(model.device, model.dtype)


@cache
def targets(family: str) -> Any:
    """Return class names for a classifier, random embeddings (3, dim) for the others."""
    model = specimen(family)
    if model.classes:
        return list(model.classes[:3])
    with torch.no_grad():
        width = model.image.encode(pixels(family)[:1]).shape[1]
    generator = torch.Generator().manual_seed(SEED + 1)
    return torch.randn(3, width, generator=generator, dtype=torch.float64)


@cache
def scenes() -> Any:
    return heatproof.load("scenes")


@cache
def images() -> list[Image.Image]:
    """Draw two images of one size, wider than high, so that cropping and keeping differ."""
    drawn: list[Image.Image] = []
    for red in (200, 90):
        image = Image.new("RGB", (168, 112), (40, 60, 80))
        draw = ImageDraw.Draw(image)
        draw.ellipse((20, 20, 70, 70), fill=(red, 30, 30))
        draw.rectangle((100, 50, 150, 100), fill=(30, 40, 220))
        drawn.append(image)
    return drawn


# --- cases ------------------------------------------------------------------------------------


def sha(value: Any) -> str:
    """Hash a float32 tensor, or nested lists of them, with its shapes."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.detach().cpu().float().contiguous().numpy().tobytes())
        else:
            digest.update(f"[{len(part)}".encode())
            for inner in part:
                add(inner)

    add(value)
    return digest.hexdigest()


def hashes(explanation: Any, *, holds: bool = False) -> dict[str, Any]:
    record: dict[str, Any] = {
        "maps": sha(explanation.maps),
        "scores": sha(explanation.scores),
        "explained scores": sha(explanation.explained_scores),
    }
    if holds:
        record["holds"] = explanation.certificate.holds
    return record


def method_of(name: str, **options: Any) -> Any:
    return methods.create(name, **{**QUICK.get(name, {}), **options})


def options_of(name: str) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Every other value of each option alone: its field's number and value.

    Numbers, not names, so that a renamed option is the same case.
    """
    method = methods.create(name)
    if not dataclasses.is_dataclass(method):
        return
    hints = typing.get_type_hints(type(method))
    for number, field in enumerate(dataclasses.fields(method)):
        # A choice is a Literal, perhaps inside a union; "layers" takes any number.
        inner = [hints[field.name], *typing.get_args(hints[field.name])]
        values = [
            v
            for hint in inner
            if typing.get_origin(hint) is typing.Literal
            for v in typing.get_args(hint)
        ]
        if bool in inner:
            values = [True, False]
        if field.name == "layers":
            values = [*values, 1, 2]
        for value in dict.fromkeys(values):
            if value != field.default:
                yield number, value, {field.name: value}


def on_specimen(family: str, side: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    model, method = specimen(family), method_of(name, **options)
    if side == "image":
        explanation = heatproof.explain(
            model, pixels(family), targets(family), method=method, certify=False, seed=SEED
        )
    else:
        explanation = heatproof.explain_words(
            model, pixels(family), ids_for(family), method=method, certify=False, seed=SEED
        )
    return hashes(explanation)


def on_scenes(side: str, name: str) -> dict[str, Any]:
    door = heatproof.explain if side == "image" else heatproof.explain_words
    explanation = door(scenes(), images(), PROMPTS, method=method_of(name), seed=SEED)
    return hashes(explanation, holds=True)


def with_arguments(side: str, **arguments: Any) -> dict[str, Any]:
    door = heatproof.explain if side == "image" else heatproof.explain_words
    return hashes(door(scenes(), images(), PROMPTS, seed=SEED, **arguments), holds=True)


def of_jacobian(**arguments: Any) -> dict[str, Any]:
    return hashes_of(heatproof.jacobian(scenes(), images(), seed=SEED, **arguments), PROMPTS)


def hashes_of(jacobian: Any, prompts: Any) -> dict[str, Any]:
    return {
        "maps": sha(jacobian.maps(prompts)),
        "scores": sha(jacobian.scores(prompts)),
        "explained scores": sha(jacobian.explained_scores(prompts)),
        "holds": jacobian.certificate.holds,
    }


def jacobian_of_specimen(family: str) -> dict[str, Any]:
    jacobian = heatproof.jacobian(specimen(family), pixels(family), seed=SEED)
    return hashes_of(jacobian, targets(family))


def one_by_one(**arguments: Any) -> dict[str, Any]:
    stream = list(heatproof.explain_each(scenes(), images(), PROMPTS, seed=SEED, **arguments))
    return {
        "maps": sha([explanation.maps for explanation in stream]),
        "scores": sha([explanation.scores for explanation in stream]),
        "holds": [explanation.certificate.holds for explanation in stream],
    }


def cases() -> Iterator[tuple[str, Case]]:
    names = list(methods.catalogue())
    for family in SPECIMENS:
        for side in ("image", "text"):
            for name in names:
                yield f"{family} | {side} | {name}", partial(on_specimen, family, side, name, {})
    for name in names:
        for number, value, options in options_of(name):
            for family in WITH_OPTIONS:
                for side in ("image", "text"):
                    label = f"{family} | {side} | {name} | option {number} = {value}"
                    yield label, partial(on_specimen, family, side, name, options)
    for side in ("image", "text"):
        for name in names:
            yield f"scenes | {side} | {name}", partial(on_scenes, side, name)
    for side in ("image", "text"):
        for arguments in (
            {"batch_size": 1},
            {"memory": "256MiB"},
            {"image_size": "keep"},
            {"image_size": 96},
            {"score": "cosine"},
            {"score": "logit"},
            {"score": "margin"},
            {"score": "contrast:a green star"},
            {"method": "gae", "batch_size": 1},
        ):
            label = ", ".join(f"{key}={value}" for key, value in arguments.items())
            yield f"scenes | {side} | {label}", partial(with_arguments, side, **arguments)
    for family in SPECIMENS:
        yield f"{family} | jacobian", partial(jacobian_of_specimen, family)
    yield "scenes | jacobian", of_jacobian
    yield "scenes | jacobian | batch_size=1", partial(of_jacobian, batch_size=1)
    yield "scenes | explain_each", one_by_one
    yield "scenes | explain_each | batch_size=1", partial(one_by_one, batch_size=1)


def measured(case: Case) -> dict[str, Any]:
    """Run a case; a refusal is part of the behaviour, any other exception too."""
    try:
        return case()
    except HeatproofError as refusal:
        return {"refused": type(refusal).__name__}
    except Exception as error:  # noqa: BLE001  a crash before and after is equal, and is shown
        return {"crashed": f"{type(error).__name__}: {error}"}


# --- the command ------------------------------------------------------------------------------


def run(selection: str) -> dict[str, dict[str, Any]]:
    """Run the cases whose label contains `selection`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    chosen = [(label, case) for label, case in cases() if selection in label]
    results: dict[str, dict[str, Any]] = {}
    started = told = time.monotonic()
    for label, case in chosen:
        results[label] = measured(case)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{len(results)} of {len(chosen)}, {told - started:.0f} s", file=sys.stderr)
    crashed = [label for label, result in results.items() if "crashed" in result]
    refused = sum("refused" in result for result in results.values())
    print(
        f"{len(results)} cases, {refused} refused, {len(crashed)} crashed, "
        f"{time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )
    for label in crashed[:10]:
        print(f"  crashed: {label}: {results[label]['crashed']}", file=sys.stderr)
    return results


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Name each case that differs, and in what."""
    for label in dict.fromkeys([*before, *after]):
        one, other = before.get(label), after.get(label)
        if one is None or other is None:
            yield f"{label}: only {'after' if one is None else 'before'}"
        elif one != other:
            parts = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
            if {"refused", "crashed"} & set(parts):
                yield f"{label}: {ending(one)} before, {ending(other)} after"
            else:
                yield f"{label}: {', '.join(parts)}"


def ending(result: dict[str, Any]) -> str:
    return str(result.get("refused") or result.get("crashed") or "maps")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="cases whose label contains this text")
    request = parser.parse_args()
    results = run(request.only)
    if request.command == "write":
        request.file.write_text(json.dumps(results, indent=1) + "\n")
        return 0
    golden: dict[str, Any] = json.loads(request.file.read_text())
    before = {label: result for label, result in golden.items() if request.only in label}
    lines = list(differences(before, results))
    for line in lines:
        print(line)
    if lines:
        print(f"{len(lines)} of {len(results)} differ")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
