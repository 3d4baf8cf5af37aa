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
from PIL import Image
from safetensors.torch import save as as_safetensors

from heatproof import __version__
from heatproof.certificate import Certificate
from heatproof.errors import InputError
from heatproof.image_maps import ImageMaps, ImageWords, Word
from heatproof.pages import explanation_page
from heatproof.pages.folder import check_folder
from heatproof.plots import colour
from heatproof.plots.contact_sheet import Panel, strip
from heatproof.plots.overlay import legend, overlay
from heatproof.plots.words import draw_words

SCHEMA = 1
OURS = re.compile(r"overlay-\d+\.png|words\.png")


def save(
    images: Sequence[ImageMaps],
    words: Sequence[ImageWords] | None,
    folder: Path,
    controls: Sequence[Panel] = (),
) -> Path:
    """Write the files of the contract into `folder`, in one sub-folder per image where there are
    several; returns the path of the report.

    Other files in the folder stay. Each image's files appear all at once or not at all.
    """
    check_folder(folder)
    if len(images) == 1:
        _save_image(images[0], words[0] if words else None, folder, controls)
        return folder / "report.html"
    # Numbered, for photos of different folders may share a name.
    names = [f"{n:04d}-{stem(maps.photo.source)}" for n, maps in enumerate(images)]
    for number, (name, maps) in enumerate(zip(names, images, strict=True)):
        _save_image(maps, words[number] if words else None, folder / name)
    rows = [
        (name, f"{name}/report.html", maps.certificate.kind)
        for name, maps in zip(names, images, strict=True)
    ]
    return save_contents(f"{len(images)} images", rows, folder)


def save_contents(
    title: str,
    reports: Sequence[tuple[str, str, str]],
    folder: Path,
    sheet: Image.Image | None = None,
) -> Path:
    """Write the page that leads to several reports: (name, address, certificate's kind) each."""
    with _appearing(folder) as place:
        if sheet is not None:
            sheet.save(place / "sheet.png")
        _write(place / "report.html", explanation_page.contents(title, reports, sheet))
    return folder / "report.html"


def as_json(maps: ImageMaps, words: ImageWords | None) -> dict[str, Any]:
    """Return explanation.json of one image, in plain values."""
    record, photo, view = maps.record, maps.photo, maps.view
    rows, cols = maps.maps.shape[-2:]
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
        "scores": [float(score) for score in maps.scores],
        "explained_scores": [float(score) for score in maps.explained_scores],
        **({"readings": [asdict(reading) for reading in maps.readings]} if maps.readings else {}),
        "grid": {"rows": rows, "cols": cols},
        "photo": {
            "source": photo.source,
            "width": photo.image.width,
            "height": photo.image.height,
            # Of the decoded pixels: what the model was given, whatever the file's format.
            "pixels_sha256": sha256(photo.image.tobytes()).hexdigest(),
        },
        "view": {**asdict(view), "unseen": view.unseen},
        "certificate": _certificate(maps.certificate),
        "certificates": [
            {"prompt": prompt, **_certificate(maps.certificate_of(number))}
            for number, prompt in enumerate(record.prompts)
        ],
        "environment": maps.certificate.environment,
        "notices": list(maps.notices),
        "words": _words(words) if words else None,
        "display": {
            "scale": maps.scale,
            "legend": dict(zip(("negative", "positive"), legend(record.signs), strict=True)),
            "interpolation": "bilinear, from the centres of the patches",
            "colours": colour.NAME,
            **asdict(maps.display),
        },
        "replay": explanation_page.replay_command(maps, words),
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


def _words(words: ImageWords) -> dict[str, Any]:
    prompts = [
        {"tokens": list(tokens), "words": [_word(word) for word in own]}
        for tokens, own in zip(words.tokens, words.words, strict=True)
    ]
    return {
        "method": words.record.method,
        "scores": [float(score) for score in words.scores],
        "explained_scores": [float(score) for score in words.explained_scores],
        "prompts": prompts,
        "certificate": _certificate(words.certificate),
    }


def _word(word: Word) -> dict[str, Any]:
    """Return a word in plain values; without an error, where the method has none."""
    return {
        key: value for key, value in asdict(word).items() if key != "error" or value is not None
    }


def _save_image(
    maps: ImageMaps, words: ImageWords | None, folder: Path, controls: Sequence[Panel] = ()
) -> None:
    with _appearing(folder) as place:
        (place / "maps.safetensors").write_bytes(as_safetensors(_tensors(maps, words)))
        for prompt in range(len(maps.record.prompts)):
            overlay(maps, prompt).save(place / f"overlay-{prompt}.png")
        strip(maps, controls).save(place / "strip.png")
        if words is not None:
            draw_words(words).save(place / "words.png")
        _write(place / "report.html", explanation_page.page(maps, words, controls))
        plain = _finite(as_json(maps, words))
        # The next explanation in this folder removes those of these that it does not replace.
        plain["pictures"] = sorted(path.name for path in place.glob("*.png"))
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
        _write(place / "explanation.json", text + "\n")


def _write(path: Path, text: str) -> None:
    """Write UTF-8. Bytes of a file's name that are not UTF-8 are escaped, as JSON escapes them."""
    path.write_text(text, "utf-8", "backslashreplace")


def _tensors(maps: ImageMaps, words: ImageWords | None) -> dict[str, torch.Tensor]:
    tensors = {"maps": maps.maps}
    if maps.errors is not None:
        tensors["errors"] = maps.errors
    if words is not None:
        tensors |= {f"words.{number}": own for number, own in enumerate(words.maps)}
    return {name: own.detach().cpu().float().contiguous() for name, own in tensors.items()}


@contextmanager
def _appearing(folder: Path) -> Generator[Path, None, None]:
    """Give a place to write; when all is written it becomes `folder`, or its files move there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder: a rename is atomic on one file system alone.
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
    for old in _earlier_images(folder / "explanation.json"):
        if (place / "explanation.json").exists() and not (place / old).exists():
            (folder / old).unlink(missing_ok=True)
    for new in sorted(place.iterdir()):
        new.replace(folder / new.name)


def _earlier_images(earlier: Path) -> list[str]:
    """Return the images that an earlier explanation in the folder wrote, by its own record.

    Files that merely have such a name stay: the user may have put them there.
    """
    try:
        stored = json.loads(earlier.read_text("utf-8"))
        return [name for name in stored["pictures"] if OURS.fullmatch(name)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def stem(source: str) -> str:
    """Return a name for files from an image's path or id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-.")[:60] or "picture"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return value
