"""All experiments on one model, kept as they are done, and the page that they make."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from heatproof import checking
from heatproof.code_hash import code_sha256
from heatproof.engine import certify
from heatproof.errors import InputError, UnknownName
from heatproof.models import Model, load
from heatproof.recipes.grad_eclip_paper import (
    alignment,
    causes,
    equivalence,
    implied_model,
    perturbing,
    text_deletion,
)
from heatproof.recipes.grad_eclip_paper.conclusions import conclude
from heatproof.recipes.grad_eclip_paper.context import Study, Watch
from heatproof.recipes.grad_eclip_paper.folder_material import folder_material
from heatproof.recipes.grad_eclip_paper.inputs import Material
from heatproof.recipes.grad_eclip_paper.scenes_material import scenes_material
from heatproof.recipes.grad_eclip_paper.store import Part, Store, plain

EXPERIMENTS: dict[str, tuple[tuple[str, Callable[[Study], Part | None]], ...]] = {
    "a": (("a", equivalence.measure),),
    "b": (("b", implied_model.measure),),
    "c": (("c", causes.measure),),
    "d": (("d", alignment.measure),),
    "e": (("e captions", text_deletion.measure), ("e pictures", perturbing.measure)),
}
UNUSED = (
    *("benchmarking", "recipes/scenes"),
    *(f"recipes/grad_eclip_paper/{name}.py" for name in ("conclusions", "figures", "page")),
)
"""Code that changes no number of a part."""
IMAGES, QUICK_IMAGES = 1000, 24


@dataclass(frozen=True)
class Order:
    """What was asked for. `images` are perturbed, named and captioned; as many are searched, up to
    600, for that is repeated on every model of the family."""

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
        images = self.images or (QUICK_IMAGES if self.quick else IMAGES)
        return {"images": images, "located": min(images, 600), "captions": images}

    @property
    def command(self) -> str:
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
        progress: called with what is being done, how much of it is done, and of how much.

    Returns:
        What reproduce.json holds.

    Raises:
        InputError: a model without a text side, a folder of another layout, an unknown experiment.
    """
    checking.text("model", model)
    folders = {"imagenet": imagenet, "imagenet_s": imagenet_s, "coco": coco}
    order = Order(
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
    return run(order, checking.path("out", out), checking.progress(progress, "", 0, 1))


def run(order: Order, out: Path, watch: Watch | None = None) -> Part:
    """Run what is not yet in `out`, and write reproduce.html, reproduce.json and figures/*.png.

    Raises `InputError` for a model without a text side, a folder of another layout, an unknown
    experiment.
    """
    chosen = _chosen(order.only)
    model = load(order.model, device=order.device)
    if model.text is None:
        raise InputError(
            f"{order.model} reads no text; the experiments need a model of CLIP's kind"
        )
    material = _material(order, model)
    store = Store(out / "parts", _settings(order, model, material))
    double = partial(load, order.model, device=order.device, dtype="float64")
    study = Study(model, double, material, store, order.seed, order.quick)
    study = study if watch is None else replace(study, watch=watch)
    sections: dict[str, Part | None] = {}
    for letter in chosen:
        for name, measure in EXPERIMENTS[letter]:
            made = store.part(
                f"section-{name.replace(' ', '-')}", lambda m=measure: {"data": m(study)}
            )
            sections[name] = made["data"]
    result = plain(
        {
            "conclusions": conclude(sections),
            "data": material.name,
            "notices": (*model.notices, *material.notices, *_small(order)),
            "command": order.command,
            "environment": {"model": model.spec, **certify.environment(model, order.seed)},
            "settings": {**order.sizes, "quick": order.quick, "code_sha256": code_sha256(*UNUSED)},
            "sections": sections,
        }
    )
    write(result, material, out)
    return result


def write(result: Part, material: Material, out: Path) -> None:
    """The page, its numbers and its figures."""
    from heatproof.recipes.grad_eclip_paper.figures import figures, save, styled
    from heatproof.recipes.grad_eclip_paper.page import page

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


def _material(order: Order, model: Model) -> Material:
    folders = (order.imagenet, order.imagenet_s, order.coco)
    if any(folders):
        return folder_material(
            model,
            imagenet=order.imagenet,
            imagenet_s=order.imagenet_s,
            coco=order.coco,
            seed=order.seed,
            **order.sizes,
        )
    return scenes_material(**order.sizes, seed=order.seed, graded=model.spec == "scenes")


def _settings(order: Order, model: Model, material: Material) -> dict[str, Any]:
    """Everything that a part depends on."""
    asked = {k: str(v) for k, v in asdict(order).items() if k != "only"}
    return {
        **asked,
        "weights": model.weights_hash,
        "data": material.name,
        "code": code_sha256(*UNUSED),
    }


def _small(order: Order) -> tuple[str, ...]:
    if not order.quick:
        return ()
    return (f"--quick: {order.sizes['images']} pictures, to see that everything runs; no evidence",)
