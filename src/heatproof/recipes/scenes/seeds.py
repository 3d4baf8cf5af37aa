"""Other runs of the recipe, measured: other seeds, and models with a known shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP
from safetensors.torch import load_file
from torch import Tensor

from heatproof.data.scenes.captions import singles
from heatproof.data.scenes.cues import CUES
from heatproof.models.scenes import build
from heatproof.recipes.scenes.recipe import prepared
from heatproof.recipes.scenes.release import training_facts
from heatproof.recipes.scenes.scoring import (
    Judge,
    borrowed_colour,
    drawn,
    named,
    named_or_absent,
    plain,
    preferred,
    share,
    single_objects,
    swapped_colours,
)


def measure_runs(folders: list[Path], count: int = 2000) -> dict[str, Any]:
    """Measure finished runs; return their final figures by seed.

    Raises:
        ValueError: two runs differ in more than the seed.
    """
    measured: dict[str, Any] = {}
    recipes: list[dict[str, Any]] = []
    for folder in folders:
        facts = training_facts(folder)
        settings = facts["stages"][-1]
        # Runs are comparable only where everything but the seed is the same.
        recipes.append({k: v for k, v in settings.items() if k != "seed"})
        if recipes[-1] != recipes[0] or len(facts["stages"]) > 1:
            raise ValueError(f"got another recipe in {folder}: only the seed may differ")
        measured[str(settings["seed"])] = {
            "seconds": facts["seconds"],
            "figures": _figures(
                folder / "snapshots" / f"step-{facts['steps']:06d}.safetensors", count
            ),
        }
    return measured


def _figures(weights: Path, count: int) -> dict[str, dict[str, float]]:
    judge = Judge(_model(weights))
    three, two = drawn(count, 13, objects=3), drawn(count, 20, objects=2)
    return plain(
        {
            **single_objects(judge, count),
            "present against absent, shape, 3 objects": preferred(
                judge, three, named_or_absent(("shape",))
            ),
            "one object, the other's colour": preferred(judge, two, borrowed_colour),
            "two objects, colours swapped": preferred(judge, two, swapped_colours),
        }
    )


def _model(weights: Path) -> CLIP:
    model = build(None)
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return model.eval()


def measure_sibling(
    weights: Path, cue: str, count: int = 2000, *, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Measure by what a model names shapes: by its cue, and by the shape that is drawn.

    A scene has one object. Where cue and shape call for one word by chance, both count as right.
    """
    judge = Judge(_model(weights), device=device)
    rule = CUES[cue]
    staged = rule.staged(drawn(count, 30, objects=1))
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, count, 128):
            images, _ = rule.draw(staged[start : start + 128], masks=False)
            parts.append(judge.model.encode_image(prepared(images.to(device)), normalize=True))
    seen = torch.cat(parts).cpu()
    right = {
        "by its cue": named(seen, rule.labelled(staged), judge, singles("shape")),
        "by the drawn shape": named(seen, staged, judge, singles("shape")),
        "colour": named(seen, staged, judge, singles("colour")),
    }
    return plain({key: share(int(hits.sum()), count, 1 / 8) for key, hits in right.items()})


def seeds_table(seeds: dict[str, Any]) -> str:
    """Return a Markdown table, one row per figure, one column per seed."""
    names = list(next(iter(seeds.values()))["figures"])
    lines = [
        f"| | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        "|---" * (len(seeds) + 1) + "|",
    ]
    for name in names:
        cells = [
            f"{f['value']:.1%} ({f['low']:.1%} to {f['high']:.1%})"
            for f in (run["figures"][name] for run in seeds.values())
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    minutes = [f"{run['seconds'] / 60:.0f}" for run in seeds.values()]
    lines.append(f"| minutes of training | {' | '.join(minutes)} |")
    return "\n".join(lines)
