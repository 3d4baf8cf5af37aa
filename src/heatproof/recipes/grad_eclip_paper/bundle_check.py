"""Check a bundle without its weights and images: hashes, identities, and maps from their parts.

Tolerances were written before any bundle was checked. Values are float32, of sums of up to 768
products: a relative difference of 1e-4 of the largest value is allowed (2e-2 where the run was in
half precision). Statistics that are stored rounded may differ by 2e-6.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from heatproof.errors import HeatproofError, InputError
from heatproof.evaluation.store import Part, plain
from heatproof.methods.eclip import min_max
from heatproof.models import Model
from heatproof.models import load as load_model
from heatproof.recipes.grad_eclip_paper.bundle import FORMAT, METHODS, Tensors, images_of, maps_of
from heatproof.recipes.grad_eclip_paper.conclusions import conclude

TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 2e-2}
ROUNDED = 2e-6
LARGEST = 2 * 2**30
"""Bytes of a member, unpacked: more is refused before it is read."""
REPLAYED = 4
Verdict = Literal["holds", "fails", "not possible here"]


@dataclass(frozen=True)
class BundleCheck:
    """One check of a bundle, its verdict and its evidence."""

    name: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: JSON and tensors by member."""

    about: Part
    result: Part
    maps: Tensors
    parts: Tensors
    ladder: Tensors
    hashes: dict[str, str]

    @property
    def tolerance(self) -> float:
        """Return the relative difference that is allowed, by the run's dtype."""
        return TOLERANCE.get(str(self.about["environment"].get("dtype")), TOLERANCE["float32"])


def read(path: Path) -> Bundle:
    """Read a bundle; nothing in it is executed or unpickled.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: _member(archive, info) for info in archive.infolist()}
        about = json.loads(members["bundle.json"])
        if about.get("format") != FORMAT:
            raise InputError(f"{path} is no bundle; expected the format {FORMAT!r}")
        maps, parts, ladder = (
            load(members[f"{name}.safetensors"]) for name in ("maps", "parts", "ladder")
        )
        hashes = {n: hashlib.sha256(c).hexdigest() for n, c in members.items()}
        result = json.loads(members["reproduce.json"])
        return Bundle(about, result, maps, parts, ladder, hashes)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; expected one of reproduce --bundle") from None
    except (OSError, zipfile.BadZipFile, SafetensorError, ValueError, KeyError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} cannot be read as a bundle ({why})") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # The sizes of a zip are promises: what is read is cut off there as well.
    if info.file_size > LARGEST:
        raise ValueError(f"{info.filename} unpacks to more than {LARGEST >> 30} GiB")
    with archive.open(info) as file:
        return file.read(LARGEST + 1)


def check(path: Path) -> list[BundleCheck]:
    """Run every check on the bundle.

    Raises:
        InputError: no bundle, or one that lacks what a check needs.
    """
    bundle = read(path)
    try:
        return [check for run in _CHECKS for check in run(bundle)]
    except HeatproofError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} is damaged ({why}); expected a file of reproduce") from None


# --- files and numbers ---------------------------------------------------------------------------


def _hashes(bundle: Bundle) -> Iterator[BundleCheck]:
    said: dict[str, str] = bundle.about["members"]
    found = {name: hash for name, hash in bundle.hashes.items() if name != "bundle.json"}
    wrong = [n for n in sorted({*said, *found}) if said.get(n) != found.get(n)]
    evidence = f"differ: {', '.join(wrong)}" if wrong else f"{len(found)} files are as written"
    yield BundleCheck("hashes of the members", "fails" if wrong else "holds", evidence)


def _weights(bundle: Bundle) -> Iterator[BundleCheck]:
    said = {bundle.about["weights_sha256"], bundle.result["environment"]["weights_sha256"]}
    yield _made("one hash of the weights", len(said) == 1, f"{sorted(said)[0][:16]}...")


def _conclusions(bundle: Bundle) -> Iterator[BundleCheck]:
    again = plain({"x": conclude(bundle.result["sections"])})["x"]
    stored = bundle.result["conclusions"]
    count = sum(one != other for one, other in zip(again, stored, strict=False))
    same = count == 0 and len(again) == len(stored)
    yield _made("verdicts follow from the numbers", same, f"{len(stored)} verdicts, {count} differ")


def _numbers(bundle: Bundle) -> Iterator[BundleCheck]:
    """Check identities of the statistics that hold whatever the model."""
    sections: Part = bundle.result["sections"]
    for task in (sections.get("b") or {"tasks": []})["tasks"]:
        forward, name = task["forward"], task["name"]
        change = forward["wrong to right"]["value"] - forward["right to wrong"]["value"]
        yield _close(
            f"accuracy change is what turned right less what turned wrong ({name})",
            change - forward["accuracy change"]["value"],
        )
        first = [side[0]["embedding cosine"]["value"] for side in task["sides"].values()]
        yield _close(f"the untouched rung is the model ({name})", max(abs(x - 1) for x in first))
    for section in ("c gap", "c gap text"):
        for name, gap in ((sections.get(section) or {}).get("gaps") or {}).items():
            total = sum(share["value"] for share in gap["shares"].values())
            yield _close(
                f"shares add up to the gap ({section}, {name})",
                (total - gap["published"]["value"]) / len(gap["shares"]),
            )


def _close(name: str, difference: float) -> BundleCheck:
    return _made(name, abs(difference) <= ROUNDED, f"difference {difference:.1e}")


def _made(name: str, holds: bool, evidence: str) -> BundleCheck:
    return BundleCheck(name, "holds" if holds else "fails", evidence)


# --- maps and their parts ------------------------------------------------------------------------


def _compare(bundle: Bundle, name: str, left: Tensor, right: Tensor) -> BundleCheck:
    if left.shape != right.shape:
        return BundleCheck(name, "fails", f"shapes {tuple(left.shape)} and {tuple(right.shape)}")
    scale = float(right.abs().max())
    gap = float((left.double() - right.double()).abs().max())
    # NaN compares false: it is a failure, and so is a map that is zero everywhere.
    holds = scale > 0 and gap <= bundle.tolerance * scale
    return _made(
        name, holds, f"largest difference {gap / scale if scale else gap:.1e} of the largest value"
    )


def _equal_maps(bundle: Bundle) -> Iterator[BundleCheck]:
    maps = bundle.maps
    yield _compare(
        bundle,
        "grad-eclip and attention-eclip are one map",
        maps["attention-eclip"],
        maps["grad-eclip"],
    )


def _parts(bundle: Bundle) -> Iterator[BundleCheck]:
    parts = bundle.parts
    for kind in ("own", "published"):
        weights, slope = parts[f"{kind} weights"], parts[f"{kind} slope"]
        gradient, output = parts[f"{kind} gradient"], parts[f"{kind} output"]
        value = parts[f"{kind} value"]
        some = len(value)
        ones = weights.sum(-1)
        yield _compare(bundle, f"{kind}: attention adds up to one", ones, torch.ones_like(ones))
        yield _compare(
            bundle,
            f"{kind}: dS/dA is g . v ({some} images)",
            torch.einsum("ihc,ihkc->ihk", gradient[:some], value),
            slope[:some],
        )
        yield _compare(
            bundle,
            f"{kind}: the output is A v ({some} images)",
            torch.einsum("ihk,ihkc->ihc", weights[:some], value),
            output[:some],
        )
        yield _compare(
            bundle,
            f"{kind}: attention times gradient adds up to g . o",
            (weights * slope).sum((1, 2)),
            (gradient * output).sum((1, 2)),
        )
    one = parts["published value"]
    merged = parts["own value"].transpose(1, 2).flatten(2).unsqueeze(1)
    yield _compare(bundle, "the one-headed layer has the model's own values", merged, one)


def _replayed(bundle: Bundle) -> Iterator[BundleCheck]:
    """Compute the maps again from their parts."""
    parts, maps = bundle.parts, bundle.maps
    start, stop = parts["content"].tolist()
    own = (parts["own weights"] * parts["own slope"]).sum(1)[:, start:stop]
    published = parts["published spatial"] * parts["published slope"].sum(1)
    for name, values in ((METHODS[0], own), (METHODS[1], published[:, start:stop])):
        wanted = maps[name].flatten(1)
        yield _compare(bundle, f"replay of {name} from its parts", values, wanted)
    yield _compare(
        bundle, "replay of the loosened weight", _spatial(parts, slice(start, stop)),
        parts["published spatial"][: len(parts["published key"])],
    )  # fmt: skip


def _spatial(parts: Tensors, content: slice) -> Tensor:
    matrix, bias = parts["projection"], parts.get("projection bias")
    rows = parts["published query"].unsqueeze(2)
    query, key = (
        F.linear(t.transpose(1, 2).flatten(2), matrix, bias) for t in (rows, parts["published key"])
    )
    cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(1, 2)
    return min_max(cosine, content)[:, 0]


def _rungs(bundle: Bundle) -> Iterator[BundleCheck]:
    ladder, maps = bundle.ladder, bundle.maps
    yield _compare(
        bundle, "the first rung of the ladder is the model", ladder["own"][0],
        maps[METHODS[0]].flatten(1),
    )  # fmt: skip
    yield _compare(
        bundle, "its second rung is the published pass", ladder["published"][1],
        maps[METHODS[1]].flatten(1),
    )  # fmt: skip
    for rung, name in ((0, METHODS[0]), (1, METHODS[1])):
        yield _compare(
            bundle, f"scores of rung {rung} are those that {name} explains",
            ladder["scores"][rung], maps[f"{name} scores"],
        )  # fmt: skip


# --- the whole again, where that is possible -----------------------------------------------------


def _whole(bundle: Bundle) -> Iterator[BundleCheck]:
    """Run the first maps again where the weights and images are at hand: embedded, rendered."""
    name = f"the first {REPLAYED} maps, from the model itself"
    spec = bundle.about["environment"]["model"]
    if not bundle.about["rendered"]:
        yield BundleCheck(
            name, "not possible here", f"needs {spec} and its images; run the command"
        )
        return
    model = _loaded(spec, bundle.about["weights_sha256"])
    if model is None:
        yield BundleCheck(
            name, "not possible here", f"needs the weights of {spec} with the same hash"
        )
        return
    chosen = images_of(bundle.about["settings"], bundle.about["seed"], REPLAYED)
    maps = maps_of(model, chosen, bundle.about["seed"])
    for method in METHODS:
        yield _compare(bundle, f"{name}: {method}", maps[method], bundle.maps[method][:REPLAYED])


def _loaded(spec: str, weights: str) -> Model | None:
    try:
        # A file may come from anywhere: what it names is never downloaded.
        model = load_model(spec, allow_download=False)
    except HeatproofError:
        return None
    return model if model.weights_hash == weights else None


_CHECKS: tuple[Callable[[Bundle], Iterator[BundleCheck]], ...] = (
    _hashes,
    _weights,
    _conclusions,
    _numbers,
    _equal_maps,
    _parts,
    _replayed,
    _rungs,
    _whole,
)


def lines(checks: list[BundleCheck]) -> list[str]:
    """Return one line per check, and what the result means."""
    counts: dict[str, int] = {}
    for each in checks:
        counts[each.verdict] = counts.get(each.verdict, 0) + 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return [
        *(f"{each.verdict:<17} {each.name}: {each.evidence}" for each in checks),
        f"{len(checks)} checks: {told}",
        "A bundle that holds is consistent: its maps are what its parts make of them. That they "
        "come from these weights and images, only a run with both shows.",
    ]
