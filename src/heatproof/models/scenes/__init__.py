"""The embedded reference model: where its files are, and how open_clip builds it.

Nothing here is special to it but its words: `open_clip.add_model_config(CONFIG)` makes
`open_clip.create_model("scenes")` build open_clip's own `CLIP`, and the weights are its state
dict. The images it takes go through open_clip's default preprocessing (shortest side, bicubic,
centre crop, OpenAI's mean and standard deviation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from heatproof import specs
from heatproof.models.scenes.tokenizer import SceneTokenizer

if TYPE_CHECKING:
    from open_clip import CLIP
    from torch import Tensor

NAME: Final = "scenes"
FOLDER: Final = Path(__file__).parent
CONFIG: Final = FOLDER / "scenes.json"
WEIGHTS: Final = FOLDER / "scenes.safetensors"
CARD: Final = FOLDER / "card.json"
FAMILY: Final = specs.SCENES_CHECKPOINTS
"""Earlier states of the same training run, float16, one file each."""
SIBLINGS: Final = specs.SCENES_SIBLINGS
"""Models of the same architecture: other seeds (`seed-1`), known shortcuts (`shortcut-mark`)."""

__all__ = [
    "CARD",
    "CONFIG",
    "FAMILY",
    "FOLDER",
    "NAME",
    "SIBLINGS",
    "WEIGHTS",
    "SceneTokenizer",
    "build",
    "checkpoint_file",
    "checkpoints",
    "siblings",
    "state_dict",
]


def checkpoints() -> list[str]:
    """Return the checkpoints from untrained to final; the last is the default model."""
    return specs.checkpoints()


def siblings() -> list[str]:
    """Return the other models of this architecture: seeds, and models with known shortcuts."""
    return specs.siblings()


def checkpoint_file(name: str = "final") -> Path:
    """Return the file of a checkpoint or sibling. Raises `KeyError` with the names that exist."""
    known = checkpoints()
    if name in siblings():
        return SIBLINGS / f"{name}.safetensors"
    if name not in known:
        names = ", ".join([*known, *siblings()])
        raise KeyError(f"got checkpoint {name!r} of scenes; there are {names}")
    return WEIGHTS if name == "final" else FAMILY / f"{name}.safetensors"


def state_dict(name: str = "final") -> dict[str, Tensor]:
    """Return the weights of a checkpoint or sibling, float32, as open_clip's `CLIP` takes them."""
    from safetensors.torch import load_file

    return {key: value.float() for key, value in load_file(checkpoint_file(name)).items()}


def build(name: str | None = "final") -> CLIP:
    """Build open_clip's `CLIP` with these weights, for evaluation; `None` keeps the random ones."""
    import open_clip
    from open_clip import CLIP

    if NAME not in open_clip.list_models():
        open_clip.add_model_config(CONFIG)
    model = open_clip.create_model(NAME)
    assert isinstance(model, CLIP)
    if name is not None:
        model.load_state_dict(state_dict(name))
    return model.eval()
