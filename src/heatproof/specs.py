"""What a model may be called, as far as it can be checked without torch."""

import importlib.util
import re
import sys
from pathlib import Path

from heatproof import checking
from heatproof.errors import ModelError, UnknownName, nearest

MODELS = {
    "scenes": "the embedded reference model: small, offline, knows rendered scenes only",
    "open_clip:NAME": "an open_clip architecture with random weights, to try things out",
    "open_clip:NAME/PRETRAINED": "with open_clip's weights (downloaded once) or a local file",
    "hf:ID": "Hugging Face id or local folder: CLIP, SigLIP, SigLIP 2, BLIP, ViT classifiers",
    "timm:NAME": "a timm classifier: prompts are class names or indices",
}
KINDS = ("open_clip", "hf", "timm", "scenes")
EXPECTED = "open_clip:NAME[/PRETRAINED], hf:ID_OR_FOLDER, timm:NAME or scenes[:CHECKPOINT]"
FAMILY = Path(__file__).parent / "models" / "scenes" / "family"
"""Earlier states of the embedded model, one file each."""
SPECIMEN = "specimen:"
"""Names of the tiny random models that `heatproof prove` compares on begin so."""
WEIGHTS_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def check(spec: object) -> tuple[str, str]:
    """The kind of model that a name asks for, and the rest of the name.

    Raises:
        ModelError, UnknownName: no model is called so, or its file or folder is not there. Tags of
            open_clip, names of timm and ids on the hub are left to those libraries.
    """
    if not isinstance(spec, str):
        raise ModelError(
            f"got {checking.shown(spec)} as a model, expected {EXPECTED}{_object(spec)}"
        )
    kind, _, name = spec.partition(":")
    if kind not in KINDS or (kind != "scenes" and not name):
        raise ModelError(f"got the model {checking.shown(spec)}, expected {EXPECTED}{_guess(spec)}")
    if kind == "scenes" and name not in ("", *checkpoints()):
        raise UnknownName("checkpoint of scenes", name, checkpoints())
    if kind == "open_clip":
        _check_open_clip(name)
    elif kind == "hf":
        hugging_face_folder(name)
    elif "/" in name:
        weights_file(name.partition("/")[2])
    return kind, name


def checkpoints() -> list[str]:
    """The embedded model's states from untrained to final; the last is the default."""
    return [*sorted(path.stem for path in FAMILY.glob("*.safetensors")), "final"]


def open_clip_models() -> list[str]:
    """The architectures that open_clip knows; where it is not imported, by its files' names."""
    library = sys.modules.get("open_clip")
    if library is not None:
        return list(library.list_models())  # the user may have added some
    found = importlib.util.find_spec("open_clip")
    folders = (found and found.submodule_search_locations) or ()
    return [
        each.stem for folder in folders for each in Path(folder, "model_configs").glob("*.json")
    ]


def _check_open_clip(name: str) -> None:
    if name.startswith(("local-dir:", "hf-hub:")):
        return
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip_models():
        raise UnknownName("open_clip model", architecture, open_clip_models())
    if is_file_name(pretrained):
        weights_file(pretrained)


def is_file_name(pretrained: str) -> bool:
    """Whether the end of a model's name is a file of weights, not a tag."""
    file = Path(pretrained)
    return bool(pretrained) and (
        "/" in pretrained or file.suffix in WEIGHTS_ENDINGS or checking.exists(file)
    )


def weights_file(name: str) -> Path:
    """A file of weights that is there.

    Raises:
        ModelError: it is not.
    """
    path = checking.path("weights", name)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ModelError(
            f"got {checking.shown(path)} as weights, which is {what}; expected a weights file"
        )
    return path


def hugging_face_folder(name: str) -> Path | None:
    """The local folder of a model; None where the name is an id on the hub.

    Raises:
        ModelError: it is neither.
    """
    path = checking.path("model", name).expanduser()
    if checking.exists(path) and path.is_dir():
        return path
    if checking.exists(path):
        raise ModelError(f"got the file {path}, expected the folder that holds config.json")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name, re.ASCII):
        raise ModelError(
            f"there is no folder {checking.shown(path)}; expected a folder with config.json and "
            "model.safetensors, or an id on the hub such as openai/clip-vit-base-patch16"
        )
    return None


def _guess(spec: str) -> str:
    """What was probably meant, as the end of an error's line."""
    kind, colon, name = spec.partition(":")
    if colon and (near := nearest(kind, KINDS)):
        return f"; did you mean {near[0]}:{checking.shortened(name)}?"
    if colon:
        return ""
    if checking.exists(Path(spec)) and Path(spec).is_dir():
        return f"; did you mean hf:{spec}?"
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
