"""Name the models that can be loaded or wrapped, and check a name without importing torch."""

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from heatproof import checking
from heatproof.errors import ModelError, UnknownName, nearest

MODELS_FOLDER = Path(__file__).parent / "models"
SCENES_CHECKPOINTS = MODELS_FOLDER / "scenes" / "family"
SCENES_SIBLINGS = MODELS_FOLDER / "scenes" / "siblings"
"""Earlier states of the embedded model, one file each."""
WEIGHTS_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A library whose models can be loaded by name, wrapped as objects, or both.

    `package` lies in `heatproof`. Where models have names, its module `loading` has
    `load(name, allow_download=...)`, `prefix` stands before the colon of a name, `pattern` is the
    whole name, `forms` says what each form of it means, and `check` raises where nothing has the
    name; `bare` says that the prefix alone is a name, too. Where objects can be wrapped, the
    package has `recognises` and `wrap`, and `objects` names the classes.
    """

    package: str
    prefix: str = ""
    pattern: str = ""
    forms: dict[str, str] = field(default_factory=dict[str, str])
    check: Callable[[str], object] = str
    bare: bool = False
    objects: str = ""


def check(spec: object) -> tuple[Family, str]:
    """Return the family that a name asks for, and the rest of the name.

    Raises:
        ModelError, UnknownName: no model has this name, or its file or folder is missing. Tags of
            open_clip, names of timm and ids on the hub are left to those libraries.
    """
    if not isinstance(spec, str):
        raise ModelError(
            f"got {checking.shown(spec)} as a model, expected {_expected()}{_object(spec)}"
        )
    prefix, _, name = spec.partition(":")
    family = next((family for family in NAMED if family.prefix == prefix), None)
    if family is None or not (name or family.bare):
        raise ModelError(
            f"got the model {checking.shown(spec)}, expected {_expected()}{_guess(spec)}"
        )
    family.check(name)
    return family, name


def _expected() -> str:
    *patterns, last = (family.pattern for family in NAMED)
    return f"{', '.join(patterns)} or {last}"


def checkpoints() -> list[str]:
    """Return the embedded model's states from untrained to final; the last is the default."""
    return [*sorted(path.stem for path in SCENES_CHECKPOINTS.glob("*.safetensors")), "final"]


def siblings() -> list[str]:
    """Return the models of the embedded one's architecture with other seeds or known shortcuts."""
    return sorted(path.stem for path in SCENES_SIBLINGS.glob("*.safetensors"))


def open_clip_models() -> list[str]:
    """Return the architectures that open_clip knows, from its files' names if not imported."""
    library = sys.modules.get("open_clip")
    if library is not None:
        return list(library.list_models())  # the user may have added some
    # Importing open_clip takes seconds; its files name the models as well.
    package = importlib.util.find_spec("open_clip")
    folders = (package and package.submodule_search_locations) or ()
    return [
        config.stem for folder in folders for config in Path(folder, "model_configs").glob("*.json")
    ]


def hugging_face_models() -> list[str]:
    """Return the `model_type`s of transformers that have an adapter: the adapters' file names."""
    folder = MODELS_FOLDER / "hugging_face" / "families"
    return sorted(path.stem for path in folder.glob("[a-z]*.py"))


def _check_scenes(name: str) -> None:
    known = [*checkpoints(), *siblings()]
    if name not in ("", *known):
        raise UnknownName("checkpoint of scenes", name, known)


def _check_open_clip(name: str) -> None:
    # open_clip resolves these itself, from a folder or over the network.
    if name.startswith(("local-dir:", "hf-hub:")):
        return
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip_models():
        raise UnknownName("open_clip model", architecture, open_clip_models())
    if is_file_name(pretrained):
        weights_file(pretrained)


def _check_timm(name: str) -> None:
    if "/" in name:
        weights_file(name.partition("/")[2])


def is_file_name(pretrained: str) -> bool:
    """Return whether the end of a model's name is a file of weights, not a tag."""
    file = Path(pretrained)
    return bool(pretrained) and (
        "/" in pretrained or file.suffix in WEIGHTS_ENDINGS or checking.exists(file)
    )


def weights_file(name: str) -> Path:
    """Return the path of a file of weights.

    Raises:
        ModelError: there is no such file.
    """
    path = checking.path("weights", name)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ModelError(
            f"got {checking.shown(path)} as weights, which is {what}; expected a weights file"
        )
    return path


def hugging_face_folder(name: str) -> Path | None:
    """Return the local folder of a model; None where the name is an id on the hub.

    Raises:
        ModelError: it is neither.
    """
    path = checking.path("model", name).expanduser()
    if checking.exists(path) and path.is_dir():
        return path
    if checking.exists(path):
        raise ModelError(f"got the file {path}, expected the folder that holds config.json")
    # Neither a folder nor the shape of an id: the hub would be asked in vain.
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name, re.ASCII):
        raise ModelError(
            f"there is no folder {checking.shown(path)}; expected a folder with config.json and "
            "model.safetensors, or an id on the hub such as openai/clip-vit-base-patch16"
        )
    return None


def _guess(spec: str) -> str:
    """Return the end of an error's line: what was probably meant."""
    kind, colon, name = spec.partition(":")
    if colon and (near := nearest(kind, [family.prefix for family in NAMED])):
        return f"; did you mean {near[0]}:{checking.shortened(name)}?"
    if colon:
        return ""
    if checking.exists(Path(spec)) and Path(spec).is_dir():
        return f"; did you mean hf:{spec}?"
    # Two names with a slash are how the hub writes its models.
    if re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", spec, re.ASCII):
        return f"; did you mean hf:{spec}?"
    if near := nearest(spec, ["scenes"]):
        return f"; did you mean {near[0]}?"
    near = nearest(spec, open_clip_models())
    return f"; did you mean open_clip:{near[0]}?" if near else ""


def _object(spec: object) -> str:
    if isinstance(spec, Path):
        return f"; try hf:{checking.shown(spec)[1:-1]} for a Hugging Face folder"
    if callable(spec):
        return "; for a model object: heatproof.wrap(model)"
    return ""


FAMILIES = (
    Family(
        package="models.scenes",
        prefix="scenes",
        pattern="scenes[:CHECKPOINT]",
        forms={
            "scenes": "the embedded reference model: small, offline, knows rendered scenes only"
        },
        check=_check_scenes,
        bare=True,
    ),
    Family(
        package="models.open_clip",
        prefix="open_clip",
        pattern="open_clip:NAME[/PRETRAINED]",
        forms={
            "open_clip:NAME": "an open_clip architecture with random weights, to try things out",
            "open_clip:NAME/PRETRAINED": "with its weights (downloaded once) or a local file",
        },
        check=_check_open_clip,
        objects="open_clip's CLIP, CustomTextCLIP or CoCa",
    ),
    Family(package="models.openai_clip", objects="OpenAI's CLIP"),
    Family(
        package="models.hugging_face",
        prefix="hf",
        pattern="hf:ID_OR_FOLDER",
        forms={"hf:ID": f"Hugging Face id or local folder: {', '.join(hugging_face_models())}"},
        check=hugging_face_folder,
        objects=f"Hugging Face's {', '.join(hugging_face_models())}",
    ),
    Family(
        package="models.classifiers",
        prefix="timm",
        pattern="timm:NAME",
        forms={"timm:NAME": "a timm classifier: prompts are class names or indices"},
        check=_check_timm,
        objects="timm's or torchvision's ViT",
    ),
    Family(
        package="specimens",
        prefix="specimen",
        pattern="specimen:NAME",
        forms={"specimen:NAME": "a tiny random model of one family, to test with"},
    ),
)
"""Every library whose models are known. `load`, `wrap`, the listing of `heatproof models` and the
errors of both are made from this table. Objects are tried in its order."""
NAMED = tuple(family for family in FAMILIES if family.prefix)
