"""Run all experiments on one model, store them part by part, and write the page."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from heatproof import checking, extras
from heatproof.code_hash import code_sha256
from heatproof.engine import certify
from heatproof.errors import InputError, UnknownName
from heatproof.evaluation.store import Part, PartStore, plain
from heatproof.models import Model, load
from heatproof.recipes.grad_eclip_paper import (
    alignment,
    causes,
    equivalence,
    following,
    gap,
    gap_text,
    implied_model,
    perturbing,
    simplicity,
    text_deletion,
)
from heatproof.recipes.grad_eclip_paper.bundle import write as write_bundle
from heatproof.recipes.grad_eclip_paper.conclusions import conclude
from heatproof.recipes.grad_eclip_paper.context import Study, Watch
from heatproof.recipes.grad_eclip_paper.figures import figures, save, styled
from heatproof.recipes.grad_eclip_paper.folder_material import folder_material
from heatproof.recipes.grad_eclip_paper.inputs import Material
from heatproof.recipes.grad_eclip_paper.page import page
from heatproof.recipes.grad_eclip_paper.scenes_material import scenes_material

EXPERIMENTS: dict[str, tuple[tuple[str, Callable[[Study], Part | None]], ...]] = {
    "a": (("a", equivalence.measure), ("a simpler", simplicity.measure)),
    "b": (("b", implied_model.measure),),
    "c": (("c", causes.measure), ("c gap", gap.measure), ("c gap text", gap_text.measure)),
    "d": (("d following", following.measure), ("d", alignment.measure)),
    "e": (("e captions", text_deletion.measure), ("e pictures", perturbing.measure)),
}
PRESENTING = ("bundle", "bundle_check", "conclusions", "figures", "gap_figure", "page")
UNUSED = (
    *("benchmarking", "recipes/scenes"),
    *(
        f"recipes/grad_eclip_paper/{name}.py"
        for name in ("conclusions", "figures", "gap_figure", "page")
    ),
)
"""Code that changes no number of a part."""
IMAGES, QUICK_IMAGES = 1000, 24


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest:
    """The arguments of `reproduce`.

    images: how many are perturbed, named and captioned; at most 600 of them are searched, since
        that is repeated on every model of the family.
    """

    model: str = "scenes"
    imagenet: Path | None = None
    imagenet_s: Path | None = None
    coco: Path | None = None
    images: int | None = None
    quick: bool = False
    seed: int = 0
    only: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of images per use."""
        images = self.images or (QUICK_IMAGES if self.quick else IMAGES)
        return {"images": images, "located": min(images, 600), "captions": images}

    @property
    def command(self) -> str:
        """Return the command line that makes the same request."""
        parts = ["heatproof reproduce", f"--model {self.model}", f"--seed {self.seed}"]
        for name in ("imagenet", "imagenet_s", "coco"):
            folder: Path | None = getattr(self, name)
            parts += [] if folder is None else [f"--{name.replace('_', '-')} {folder}"]
        parts += [] if self.images is None else [f"--images {self.images}"]
        parts += ["--quick"] if self.quick else []
        parts += [f"--only {','.join(self.only)}"] if self.only else []
        return " ".join(parts)


def reproduce(
    out: str | Path,
    *,
    model: str = "scenes",
    imagenet: str | Path | None = None,
    imagenet_s: str | Path | None = None,
    coco: str | Path | None = None,
    images: int | None = None,
    quick: bool = False,
    seed: int = 0,
    only: Collection[str] = (),
    device: str = "cpu",
    bundle: str | Path | None = None,
    progress: Watch | None = None,
) -> Part:
    """Run the claims of arXiv 2605.12952 on a model, as `heatproof reproduce` does.

    Args:
        out: folder for reproduce.html, reproduce.json and figures/*.png. A run that was stopped
            continues in it.
        model: what `load` takes; it must read text.
        imagenet, imagenet_s, coco: folders of these data sets; rendered scenes without any.
        images: how many images and captions of each kind, at least 4; by default 1000.
        quick: 24 images, a smoke test and not evidence.
        only: some of the experiments "a" to "e".
        bundle: a file to write numbers, hashes, 50 maps and their parts into, for others to check.
        progress: called with what is being done, the parts done, and the number of parts.

    Returns:
        The contents of reproduce.json.

    Raises:
        InputError: a model without a text side, a folder of another layout, an unknown experiment.
    """
    checking.text("model", model)
    folders = {"imagenet": imagenet, "imagenet_s": imagenet_s, "coco": coco}
    request = ReproduceRequest(
        model=model,
        **{
            name: None if path is None else checking.path(name, path)
            for name, path in folders.items()
        },
        images=None if images is None else checking.whole("images", images, least=4),
        quick=checking.flag("quick", quick),
        seed=checking.seed(seed),
        only=tuple(checking.names("only", only)),
        device=checking.device(device),
    )
    file = None if bundle is None else checking.path("bundle", bundle)
    watch = checking.progress(progress, "", 0, 1)
    return run(request, checking.path("out", out), watch, bundle=file)


def run(
    request: ReproduceRequest,
    out: Path,
    watch: Watch | None = None,
    *,
    bundle: Path | None = None,
) -> Part:
    """Run the parts that `out` does not hold yet; write reproduce.html, .json and figures/*.png.

    Raises `InputError` for a model without a text side, a folder of another layout, an unknown
    experiment, and `MissingExtra` without matplotlib.
    """
    extras.require("report")
    # A wrong name is refused before the model is loaded.
    chosen = _chosen(request.only)
    model = load(request.model, device=request.device)
    if model.text is None:
        raise InputError(
            f"{request.model} reads no text; expected a model like CLIP, of images and texts"
        )
    material = _material(request, model)
    # The key of a part holds everything that it depends on: another setting never reuses it.
    store = PartStore(out / "parts", _settings(request, model, material))
    double = partial(load, request.model, device=request.device, dtype="float64")
    study = Study(
        model=model,
        double=double,
        material=material,
        store=store,
        seed=request.seed,
        quick=request.quick,
    )
    study = study if watch is None else replace(study, watch=watch)
    sections: dict[str, Part | None] = {}
    for letter in chosen:
        for name, measure in EXPERIMENTS[letter]:
            section = store.part(
                f"section-{name.replace(' ', '-')}", lambda m=measure: {"data": m(study)}
            )
            sections[name] = section["data"]
    result = plain(
        {
            "conclusions": conclude(sections),
            "data": material.name,
            "notices": (*model.notices, *material.notices, *_small(request)),
            "command": request.command,
            "environment": {"model": model.spec, **certify.environment(model, request.seed)},
            "settings": {
                **request.sizes,
                "quick": request.quick,
                "code_sha256": code_sha256(*UNUSED),
            },
            "sections": sections,
        }
    )
    write(result, material, out)
    if bundle is not None:
        write_bundle(study, result, bundle)
    return result


def write(result: Part, material: Material, out: Path) -> None:
    """Write the page, its numbers and its figures."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, str, bytes]] = []
    with styled():
        for name, caption, figure in figures(result["sections"], material):
            path = folder / f"{name}.png"
            save(figure, path)
            drawn.append((name, caption, path.read_bytes()))
    (out / "reproduce.json").write_text(
        json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8"
    )
    (out / "reproduce.html").write_text(page(result, drawn), "utf-8")


def _chosen(only: Collection[str]) -> list[str]:
    for letter in only:
        if letter not in EXPERIMENTS:
            raise UnknownName("experiment", letter, EXPERIMENTS)
    return [letter for letter in EXPERIMENTS if not only or letter in only]


def _material(request: ReproduceRequest, model: Model) -> Material:
    folders = (request.imagenet, request.imagenet_s, request.coco)
    if any(folders):
        return folder_material(
            model,
            imagenet=request.imagenet,
            imagenet_s=request.imagenet_s,
            coco=request.coco,
            seed=request.seed,
            **request.sizes,
        )
    return scenes_material(**request.sizes, seed=request.seed, graded=model.spec == "scenes")


def _settings(request: ReproduceRequest, model: Model, material: Material) -> dict[str, Any]:
    """Return everything that a part depends on."""
    arguments = {k: str(v) for k, v in asdict(request).items() if k != "only"}
    return {
        **arguments,
        "weights": model.weights_hash,
        "data": material.name,
        "code": code_sha256(*UNUSED),
    }


def _small(request: ReproduceRequest) -> tuple[str, ...]:
    if not request.quick:
        return ()
    return (f"--quick: {request.sizes['images']} images; a smoke test, not evidence",)
