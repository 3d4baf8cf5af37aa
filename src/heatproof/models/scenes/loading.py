"""The embedded reference model by name."""

import json

from heatproof.models import scenes
from heatproof.models.model import Model
from heatproof.models.open_clip import loading


def load(name: str, *, allow_download: bool = True) -> Model:  # noqa: ARG001 (nothing to download)
    """Load the embedded reference model, or an earlier state of its training."""
    name = name or scenes.checkpoints()[-1]
    config = json.loads(scenes.CONFIG.read_text())
    recipe = loading.Recipe(
        name="scenes",
        config=config,
        weights=scenes.checkpoint_file(name),
        tokenizer=scenes.SceneTokenizer(config["text_cfg"]["context_length"]),
        notices=(
            "scenes knows rendered scenes only; for photos name another model, such as "
            "--model open_clip:ViT-B-16/openai (a download of 0.6 GB)",
        ),
    )
    spec = "scenes" if name == scenes.checkpoints()[-1] else f"scenes:{name}"
    return loading.build(recipe, spec=spec)
