"""The files of an explanation, written whole or not at all."""

import json
import math
import re
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save as as_safetensors

from heatproof import __version__
from heatproof.certificate import Certificate
from heatproof.errors import InputError
from heatproof.explanation import Explanation, WordExplanation
from heatproof.pages import explanation_page
from heatproof.pages.folder import check_folder
from heatproof.plots import colour
from heatproof.plots import words as word_view
from heatproof.plots.contact_sheet import Panel, strip
from heatproof.plots.overlay import legend, overlay, pictured, shared_scale

SCHEMA = 1
OURS = re.compile(r"overlay-\d+\.png|words\.png")


def save(
    explanation: Explanation,
    words: WordExplanation | None,
    folder: Path,
    replay: str | None = None,
    controls: Sequence[Panel] = (),
) -> Path:
    """Write the files of the contract into `folder`, in one sub-folder a picture where there are
    several; returns the path of the report.

    Other files in the folder stay. Each picture's files appear all at once or not at all.
    """
    check_folder(folder)
    count = len(explanation.maps)
    if count == 1:
        _save_picture(explanation, words, 0, folder, replay, controls)
        return folder / "report.html"
    names = [f"{n:04d}-{_stem(pictured(explanation, n)[0].source)}" for n in range(count)]
    for number, name in enumerate(names):
        _save_picture(explanation, words, number, folder / name, replay)
    kind = explanation.certificate.kind
    rows = [(name, f"{name}/report.html", kind) for name in names]
    return save_contents(f"{count} pictures", rows, folder)


def save_contents(
    title: str, rows: Sequence[tuple[str, str, str]], folder: Path, sheet: Any = None
) -> Path:
    """The page that leads to several reports: (name, address, certificate's kind) each."""
    with _appearing(folder) as place:
        if sheet is not None:
            sheet.save(place / "sheet.png")
        _write(place / "report.html", explanation_page.contents(title, rows, sheet))
    return folder / "report.html"


def as_json(
    explanation: Explanation,
    words: WordExplanation | None,
    image: int = 0,
    replay: str | None = None,
) -> dict[str, Any]:
    """explanation.json of one picture, in plain values."""
    record = explanation.record
    photo, view = pictured(explanation, image)
    rows, cols = explanation.maps.shape[-2:]
    return {
        "heatproof": __version__,
        "schema": SCHEMA,
        "model": record.model,
        "method": record.method,
        "settings": record.settings,
        "score": record.score,
        "seed": record.seed,
        "image_size": record.image_size,
        "prompts": list(record.prompts),
        "scores": [float(score) for score in explanation.scores[image]],
        "explained_scores": [float(score) for score in explanation.explained_scores[image]],
        "grid": {"rows": rows, "cols": cols},
        "photo": {
            "source": photo.source,
            "width": photo.image.width,
            "height": photo.image.height,
            "pixels_sha256": sha256(photo.image.tobytes()).hexdigest(),
        },
        "view": {**asdict(view), "unseen": view.unseen},
        "certificate": _certificate(explanation.certificate),
        "environment": explanation.certificate.environment,
        "notices": list(explanation_page.notices(explanation, image)),
        "words": _words(words, image) if words else None,
        "display": {
            "scale": shared_scale(explanation, image),
            "legend": dict(zip(("negative", "positive"), legend(record.signs), strict=True)),
            "interpolation": "bilinear, from the centres of the patches",
            "colours": colour.NAME,
        },
        "replay": replay or explanation_page.replay_command(explanation, words, image),
    }


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "holds": certificate.holds,
        "verdict": certificate.kind,
        "sentence": certificate.sentence,
        "lights": [asdict(light) for light in certificate.lights],
        "checks": [asdict(check) for check in certificate.checks],
        "native": list(certificate.native),
        "substituted": list(certificate.substituted),
        "null_prompts": certificate.null_prompts,
        "common_share": certificate.common_share,
        "says_nothing": certificate.says_nothing,
        "weights": certificate.weights,
        "warnings": list(certificate.warnings),
    }


def _words(words: WordExplanation, image: int) -> dict[str, Any]:
    prompts = [
        {"tokens": list(tokens), "words": [asdict(word) for word in each]}
        for tokens, each in zip(words.tokens, words.words[image], strict=True)
    ]
    return {
        "method": words.record.method,
        "scores": [float(score) for score in words.scores[image]],
        "explained_scores": [float(score) for score in words.explained_scores[image]],
        "prompts": prompts,
        "certificate": _certificate(words.certificate),
    }


def _save_picture(
    explanation: Explanation,
    words: WordExplanation | None,
    image: int,
    folder: Path,
    replay: str | None,
    controls: Sequence[Panel] = (),
) -> None:
    with _appearing(folder) as place:
        tensors = as_safetensors(_tensors(explanation, words, image))
        (place / "maps.safetensors").write_bytes(tensors)
        for prompt in range(len(explanation.record.prompts)):
            overlay(explanation, image, prompt).save(place / f"overlay-{prompt}.png")
        strip(explanation, image, controls).save(place / "strip.png")
        if words is not None:
            word_view.picture(words, image).save(place / "words.png")
        html = explanation_page.page(explanation, words, image, replay, controls)
        _write(place / "report.html", html)
        plain = _finite(as_json(explanation, words, image, replay))
        plain["pictures"] = sorted(path.name for path in place.glob("*.png"))
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
        _write(place / "explanation.json", text + "\n")


def _write(path: Path, text: str) -> None:
    """As UTF-8. What a file's name has of other bytes is escaped, in JSON as JSON itself does."""
    path.write_text(text, "utf-8", "backslashreplace")


def _tensors(
    explanation: Explanation, words: WordExplanation | None, image: int
) -> dict[str, torch.Tensor]:
    tensors = {"maps": explanation.maps[image]}
    if words is not None:
        tensors |= {f"words.{number}": each for number, each in enumerate(words.maps[image])}
    return {name: each.detach().cpu().float().contiguous() for name, each in tensors.items()}


@contextmanager
def _appearing(folder: Path) -> Generator[Path, None, None]:
    """A place to write; when all is written it becomes `folder`, or its files move there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder.parent / f".heatproof-{uuid4().hex}"
        place.mkdir()
        try:
            yield place
            if folder.exists():
                _move_into(place, folder)
            else:
                place.rename(folder)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{folder}: cannot be written to ({reason}); try another -o") from error


def _move_into(place: Path, folder: Path) -> None:
    """Replace files of the same name, and overlays of an earlier explanation that had more."""
    for old in _pictures_of(folder / "explanation.json"):
        if (place / "explanation.json").exists() and not (place / old).exists():
            (folder / old).unlink(missing_ok=True)
    for new in sorted(place.iterdir()):
        new.replace(folder / new.name)


def _pictures_of(earlier: Path) -> list[str]:
    """The pictures that an earlier explanation in the same folder wrote, by its own record."""
    try:
        stored = json.loads(earlier.read_text("utf-8"))
        return [name for name in stored["pictures"] if OURS.fullmatch(name)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _stem(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-.")[:60] or "picture"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
