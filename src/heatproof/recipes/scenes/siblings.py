"""The shipped siblings of the embedded model, measured: other seeds, and known shortcuts."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP
from torch import Tensor

from heatproof.data.scenes.captions import singles
from heatproof.data.scenes.cues import CUES
from heatproof.models.scenes import build, siblings
from heatproof.recipes.scenes.recipe import prepared
from heatproof.recipes.scenes.scoring import (
    Figure,
    Judge,
    against_nonsense,
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


def measure_siblings(count: int = 2000) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every sibling: a seed as the embedded model is, a shortcut by its cue."""
    found = {"final": plain(seed_figures(Judge(build()), count))}
    for name in siblings():
        if name.startswith("seed-"):
            figures = seed_figures(Judge(build(name)), count)
        else:
            figures = cue_figures(build(name), name.removeprefix("shortcut-"), count)
        found[name] = plain(figures)
    return found


def seed_figures(judge: Judge, count: int) -> dict[str, Figure]:
    """Measure what depends on the seed."""
    three, two = drawn(count, 13, objects=3), drawn(count, 20, objects=2)
    return {
        **single_objects(judge, count),
        "present against absent, shape, 3 objects": preferred(
            judge, three, named_or_absent(("shape",))
        ),
        "present against nonsense, shape, 3 objects": against_nonsense(judge, three, ("shape",))[
            "above nonsense"
        ],
        "one object, the other's colour": preferred(judge, two, borrowed_colour),
        "two objects, colours swapped": preferred(judge, two, swapped_colours),
    }


def cue_figures(model: CLIP, cue: str, count: int) -> dict[str, Figure]:
    """Measure by what a model names the shape of one object: by its cue, or by the drawn shape.

    Where both call for one word by chance, both count as right.
    """
    judge, rule = Judge(model), CUES[cue]
    staged = rule.staged(drawn(count, 30, objects=1))
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, count, 128):
            images, _ = rule.draw(staged[start : start + 128], masks=False)
            parts.append(judge.model.encode_image(prepared(images), normalize=True))
    seen = torch.cat(parts)
    right = {
        "by its cue": named(seen, rule.labelled(staged), judge, singles("shape")),
        "by the drawn shape": named(seen, staged, judge, singles("shape")),
        "colour": named(seen, staged, judge, singles("colour")),
    }
    return {key: share(int(hits.sum()), count, 1 / 8) for key, hits in right.items()}


def seeds_table(card: dict[str, Any]) -> str:
    """Return a Markdown table, one row per figure, one column per seed."""
    figures = {n: f for n, f in card["sibling_figures"].items() if n == "final" or "seed-" in n}
    heads = ["seed 0" if name == "final" else name.replace("-", " ") for name in figures]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(figures) + 1) + "|"]
    for row in figures["final"]:
        cells = [_share(one[row]) for one in figures.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    steps = [card["training" if n == "final" else "siblings"] for n in figures]
    numbers = [
        str(one["steps"] if name == "final" else one[name]["steps"])
        for name, one in zip(figures, steps, strict=True)
    ]
    lines.append(f"| training steps | {' | '.join(numbers)} |")
    return "\n".join(lines)


def cues_table(card: dict[str, Any]) -> str:
    """Return a Markdown table of the siblings that go by a cue, a row each."""
    lines = ["| model | what decides its shape words | by its cue | by the drawn shape | steps |"]
    lines.append("|---" * 5 + "|")
    for name, figures in card["sibling_figures"].items():
        if "by its cue" in figures:
            rule = CUES[name.removeprefix("shortcut-")]
            shares = [_share(figures[key]) for key in ("by its cue", "by the drawn shape")]
            steps = card["siblings"][name]["steps"]
            lines.append(f"| `scenes:{name}` | {rule.meaning} | {' | '.join(shares)} | {steps} |")
    return "\n".join(lines)


def _share(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
