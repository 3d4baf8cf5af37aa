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

__all__ = [
    "CARD",
    "CONFIG",
    "FAMILY",
    "FOLDER",
    "NAME",
    "WEIGHTS",
    "SceneTokenizer",
    "build",
    "checkpoint_file",
    "checkpoints",
    "state_dict",
]


def checkpoints() -> list[str]:
    """Return the checkpoints from untrained to final; the last is the default model."""
    return specs.checkpoints()


def checkpoint_file(name: str = "final") -> Path:
    """Return the file of a named checkpoint. Raises `KeyError` with the names that exist."""
    known = checkpoints()
    if name not in known:
        raise KeyError(f"got checkpoint {name!r} of scenes; there are {', '.join(known)}")
    return WEIGHTS if name == "final" else FAMILY / f"{name}.safetensors"


def state_dict(name: str = "final") -> dict[str, Tensor]:
    """Return the weights of a named checkpoint, float32, as open_clip's `CLIP` takes them."""
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
