"""Bundles: what a run on real weights and images found, in one file that others can check.

A bundle is a zip of JSON and safetensors, without pickles and without pixels:

- `bundle.json`: command, environment, hashes of the weights, of every image and of every member;
- `reproduce.json`: all numbers and conclusions of the run;
- `maps.safetensors`: up to 50 maps of each of three methods, as users get them, and the scores;
- `parts.safetensors`: what these maps are made of at the readout's row (attention weights, their
  gradients, gradients and values of the outputs), queries, keys and values for the first few;
- `ladder.safetensors`: scores and both maps of the same images with one head in the last 0 to n
  layers.

`bundle_check` holds it to identities that hold for any model, and computes the maps again from
their parts. A bundle that holds is consistent; only weights and images show that it is true.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from heatproof import methods
from heatproof.data.lazy import Files
from heatproof.errors import InputError
from heatproof.evaluation.store import Part, write_whole
from heatproof.models import Model
from heatproof.reading import Intervention
from heatproof.reading.interventions import one_head
from heatproof.recipes.grad_eclip_paper import gap
from heatproof.recipes.grad_eclip_paper.context import Study, native_pixels
from heatproof.recipes.grad_eclip_paper.implied_model import one_headed
from heatproof.recipes.grad_eclip_paper.inputs import Located, Material, Task
from heatproof.recipes.grad_eclip_paper.last_calls import ReadCall, image_calls
from heatproof.recipes.grad_eclip_paper.maps import (
    encode_pictures,
    encode_texts,
    image_maps,
    image_sites,
)
from heatproof.recipes.grad_eclip_paper.scenes_material import scenes_material

FORMAT = "heatproof bundle 1"
MAPS, WITH_VALUES = 50, 8
"""Images with maps, and how many of them come with queries, keys and values too."""
METHODS = ("attention-x-gradient", "grad-eclip", "attention-eclip")
PUBLISHED = frozenset({gap.WEIGHT, gap.PROJECTED, gap.RANGE, gap.QUERY})
"""The causes that make a recorded call's map the published one, its heads being what they are."""
Tensors = dict[str, Tensor]


def write(study: Study, result: Part, path: Path) -> None:
    """Write the bundle of a finished run; the file appears whole or not at all.

    Raises:
        InputError: the data hold no image with a prompt of its own.
    """
    chosen = _chosen(study.material)
    study.watch("bundle", 0, 3)
    pixels = native_pixels(study.model, chosen.photos)
    targets = encode_texts(study.model, chosen.prompts)
    members: dict[str, bytes] = {"reproduce.json": _json(result)}
    members["maps.safetensors"] = _saved(_maps(study.model, pixels, targets, study.seed))
    study.watch("bundle", 1, 3)
    members["parts.safetensors"] = _saved(_parts(study, pixels, targets))
    study.watch("bundle", 2, 3)
    members["ladder.safetensors"] = _saved(_ladder(study, pixels, targets))
    about = {
        "format": FORMAT,
        "command": result["command"],
        "environment": result["environment"],
        "data": result["data"],
        "weights_sha256": study.model.weights_hash,
        "rendered": not isinstance(chosen.photos, Files),
        "settings": result["settings"],
        "seed": study.seed,
        "images": [
            {"prompt": prompt, "sha256": _file_hash(chosen.photos, n), "pixels": _hash(one)}
            for n, (prompt, one) in enumerate(zip(chosen.prompts, pixels, strict=True))
        ],
        "members": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
    }
    members = {"bundle.json": _json(about), **members}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda unfinished: _zip(members, unfinished))
    study.watch("bundle", 3, 3)


def _zip(members: dict[str, bytes], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # A fixed date: the same run makes the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


@dataclass(frozen=True)
class Chosen:
    """The images of the bundle, each with its own prompt."""

    photos: Sequence[Any]
    prompts: tuple[str, ...]


def _chosen(material: Material) -> Chosen:
    source: Located | Task | None = material.located
    if source is None and material.tasks:
        source = material.tasks[0]
    if source is None:
        raise InputError(
            "a bundle needs images with a prompt of their own; pass --imagenet-s, --coco or "
            "--imagenet"
        )
    count = min(MAPS, len(source.photos))
    if isinstance(source, Located):
        prompts = [source.prompts[n] for n in source.named[:count].tolist()]
    else:
        prompts = [source.prompts[n][0] for n in source.labels[:count].tolist()]
    return Chosen(source.photos[:count], tuple(prompts))


def images_of(settings: Part, seed: int, count: int) -> Chosen:
    """Render the first images of a bundle again."""
    sizes = {name: settings[name] for name in ("images", "located", "captions")}
    chosen = _chosen(scenes_material(**sizes, seed=seed, graded=False))
    return Chosen(chosen.photos[:count], chosen.prompts[:count])


def maps_of(model: Model, chosen: Chosen, seed: int) -> Tensors:
    """Compute the maps of these images."""
    pixels = native_pixels(model, chosen.photos)
    return _maps(model, pixels, encode_texts(model, chosen.prompts), seed)


# --- tensors -------------------------------------------------------------------------------------


def _maps(model: Model, pixels: Tensor, targets: Tensor, seed: int) -> Tensors:
    """Return maps and explained scores of each method, as the engine makes them."""
    found: Tensors = {}
    for name in METHODS:
        maps, scores = image_maps(model, methods.create(name), pixels, targets, seed=seed)
        found[name], found[f"{name} scores"] = maps, scores
    return found


def _parts(study: Study, pixels: Tensor, targets: Tensor) -> Tensors:
    """Return what both passes' maps are made of at the readout's row."""
    found: Tensors = {}
    for kind, change in (("own", None), ("published", one_head())):
        call = image_calls(study.model, pixels, targets, change)
        for name in ("weights", "slope", "gradient", "output"):
            found[f"{kind} {name}"] = getattr(call, name)
        found[f"{kind} spatial"] = _spatial(call)
        for name in ("query", "key", "value"):
            found[f"{kind} {name}"] = getattr(call, name)[:WITH_VALUES]
        matrix, bias = call.projection
        found["projection"] = matrix
        if bias is not None:
            found["projection bias"] = bias
        found["content"] = torch.tensor([call.content.start, call.content.stop])
    return found


def _spatial(call: ReadCall) -> Float[Tensor, "item token"]:
    return gap.cosine_weight(call, PUBLISHED)


def _ladder(study: Study, pixels: Tensor, targets: Tensor) -> Tensors:
    """Return, for one head in the last 0 to n layers, scores and both maps by rung and image."""
    sites = image_sites(study.model, pixels)
    rungs: dict[str, list[Tensor]] = {"own": [], "published": [], "scores": []}
    for count in range(len(sites) + 1):
        below: dict[str, Intervention] = dict(one_headed(sites, count))
        call = image_calls(study.model, pixels, targets, below=below)
        rungs["own"].append(gap.eclip_map(call, frozenset())[:, call.content])
        rungs["published"].append(gap.eclip_map(call, PUBLISHED)[:, call.content])
        embedding = encode_pictures(study.model, pixels, below)
        rungs["scores"].append((embedding * targets).sum(-1))
    return {name: torch.stack(values).float() for name, values in rungs.items()}


def _saved(tensors: Tensors) -> bytes:
    plain = {
        name: tensor.detach().cpu().contiguous().float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return save(plain)


# --- hashes --------------------------------------------------------------------------------------


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False, default=str) + "\n").encode()


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()


def _file_hash(photos: Sequence[Any], number: int) -> str:
    """Return the hash of an image's file; of its pixels where it was rendered."""
    if isinstance(photos, Files):
        return hashlib.sha256(photos.paths[photos.rows[number]].read_bytes()).hexdigest()
    return hashlib.sha256(photos[number].tobytes()).hexdigest()
