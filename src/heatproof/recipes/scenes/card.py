"""The card of the embedded reference model: measured, kept as JSON, told as Markdown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from heatproof.data.scenes import COLOURS, HELD_OUT, SHAPES, render, sample
from heatproof.models.scenes import CARD, build, checkpoint_file, checkpoints
from heatproof.plots.style import LIMIT, OURS, RIVAL, chart_style
from heatproof.recipes.scenes.scoring import Judge, graded, plain, scores
from heatproof.recipes.scenes.seeds import seeds_table

_RISING = ("shape", "colour", "colour and shape", "present against absent, shape, 3 objects")


def measure(count: int = 2000, *, family_count: int = 1000) -> dict[str, Any]:
    """Score the shipped model and its family, and take their sizes and the renderer's speed."""
    model = build()
    figures = {name: plain(part) for name, part in scores(Judge(model), count).items()}
    family = {name: plain(graded(Judge(build(name)), family_count)) for name in checkpoints()}
    return {
        "count": count,
        "figures": figures,
        "family": family,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": {name: checkpoint_file(name).stat().st_size for name in checkpoints()},
        "pictures_per_second": round(rendering_speed()),
    }


def rendering_speed(count: int = 256, rounds: int = 3) -> float:
    """ImageInputs a second with masks, at full difficulty, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = 0.0
    for k in range(rounds):
        started = time.perf_counter()
        render(sample(torch.arange(k * count, (k + 1) * count)))
        best = max(best, count / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return best


def update(path: Path = CARD, *, count: int = 2000, family_count: int = 1000) -> dict[str, Any]:
    """Measure and write the card, keeping what it says about training and other seeds."""
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    measured = measure(count, family_count=family_count)
    kept = {name: old[name] for name in ("training", "seeds") if name in old}
    card = {**kept, **measured}
    path.write_text(json.dumps(card, indent=1) + "\n")
    return card


def _told(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} | {figure['low']:.1%} to {figure['high']:.1%}"


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| | right | 95 % interval | chance | scenes |", "|---|---|---|---|---|"]
    lines += [f"| {k} | {_told(f)} | {f['chance']:.1%} | {f['count']} |" for k, f in rows.items()]
    return "\n".join(lines)


def family_table(family: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"| checkpoint | {' | '.join(_RISING)} |", "|---" * (len(_RISING) + 1) + "|"]
    for name, figures in family.items():
        cells = [
            f"{f['value']:.1%} ({f['low']:.1%} to {f['high']:.1%})"
            for f in (figures[k] for k in _RISING)
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def stages_table(stages: list[dict[str, Any]]) -> str:
    """The settings that differ between stages, a line each; how they end comes first."""
    usual = {"until", "batch", "workers", "seed"}
    free = {"steps", "save", "snapshots"}
    names = [k for k in stages[-1] if k not in usual | free]
    told = [k for k in names if len({str(stage.get(k)) for stage in stages}) > 1]
    lines = [f"| until step | scenes a step | seed | {' | '.join(told)} |"]
    lines.append("|---" * (3 + len(told)) + "|")
    for stage in stages:
        scenes = stage["batch"] * stage["workers"]
        values = [str(stage.get(k)).lower() for k in told]
        lines.append(f"| {stage['until']} | {scenes} | {stage['seed']} | {' | '.join(values)} |")
    return "\n".join(lines)


def _stages(stages: list[dict[str, Any]]) -> str:
    if len(stages) == 1:
        seed = stages[0]["seed"]
        return f"One run from start to end with the command's own settings, seed {seed}.\n\n"
    told = "One run in the stages below, each begun from the one before (`--start`).\n\n"
    return f"{told}{stages_table(stages)}\n\n"


def markdown(card: dict[str, Any]) -> str:
    """The card's page, from its JSON alone."""
    figures, training = card["figures"], card["training"]
    held = ", ".join(f"{COLOURS[c]} {SHAPES[s]}" for s, c in HELD_OUT)
    sizes = sum(card["bytes"].values()) / 1e6
    parts = [
        _HEAD.format(
            parameters=card["parameters"] / 1e6,
            megabytes=card["bytes"]["final"] / 1e6,
            family=len(card["family"]),
            sizes=sizes,
            held=held,
            speed=card["pictures_per_second"],
        ),
        _TRAINING.format(
            pictures=training["pictures"],
            steps=training["steps"],
            minutes=training["seconds"] / 60,
            hardware=training["hardware"],
            stages=_stages(training["stages"]),
            notes="".join(f"{note}\n\n" for note in training.get("notes", [])),
        ),
        _SCORES.format(count=card["count"]),
    ]
    for name, rows in figures.items():
        if not name.startswith("shape by"):
            note = f"{_NOTES[name]}\n\n" if name in _NOTES else ""
            parts.append(f"### {name[0].upper()}{name[1:]}\n\n{note}{table(rows)}\n")
    if "seeds" in card:
        parts.append(f"{_SEEDS}{seeds_table(card['seeds'])}\n")
    parts.append("## Where it fails\n\n" + _failures(figures))
    parts.append(_FAMILY + family_table(card["family"]) + "\n")
    parts.append(_USE)
    return "\n".join(parts)


def _failures(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    not_learnt = [
        f"{name}, {row}"
        for name, rows in figures.items()
        for row, figure in rows.items()
        if figure["low"] < figure["chance"] + 0.05
    ]
    told: list[str] = []
    if not_learnt:
        told.append(
            "Not learnt (the interval starts less than five points above chance):\n"
            + "; ".join(not_learnt)
            + ".\nDo not benchmark anything about these on this model.\n"
        )
    told.append(
        "How often the shape of a single object is named correctly, by what may make it hard:\n"
    )
    for name, rows in figures.items():
        if name.startswith("shape by"):
            told.append(f"### {name[0].upper()}{name[1:]}\n\n{table(rows)}\n")
    return "\n".join(told)


_HEAD = """# `scenes`, the embedded reference model

<!-- Written by `heatproof scenes card` from src/heatproof/models/scenes/card.json. -->

`heatproof.load("scenes")` is a small CLIP model that comes with the package, trained on rendered
scenes. It is for tests and for judging methods: everything runs offline, what each image shows is
known to the pixel, and a family of checkpoints gives models of graded performance. It
knows nothing about photos. This page says how it was trained, how good it is, and where it fails.

## What it is

open_clip's own `CLIP` class: images of 64 x 64 pixels in patches of 8 (a map of 8 x 8), six image
blocks of width 128 with four heads of 32, three text blocks likewise, 20 tokens of a vocabulary of
whole words, embeddings of 128 numbers; {parameters:.2f} M parameters, {megabytes:.2f} MB in
float16, {sizes:.1f} MB with the {family} checkpoints of the family. Words that it does not know
share one token. It is loaded like any other open_clip model, with open_clip's default
preprocessing.

## What it was trained on

One to four objects, each of one of eight shapes (circle, square, triangle, star, cross, ring,
heart, moon), eight colours (red, orange, yellow, green, cyan, blue, purple, pink), two sizes
(radius 15 % to 16 % or 20 % to 23 % of the image's side) and three textures (plain, striped,
dotted), turned by up to 9 degrees, on five families of coloured backgrounds (even, gradient,
waves, checks, clouds), under uneven light, with noise. Two in five of the further objects share
the first one's colour or shape. Objects hardly overlap; masks hold the visible pixels.

A caption names some attributes of one object, or two objects with *and*, *left of*, *right of*,
*above* or *below* (centres at least 8 % of the side apart). Its structure is stored, so that the
truth of every caption about every scene is computed, never guessed.

Eight combinations of colour and shape were held out of all training images and captions:
{held}.

The renderer draws {speed} images with masks per second, on one thread of the CPU named below. The
same seed gives the same bytes, alone or in any batch; `pixels=` draws the same scene at any size.

"""

_TRAINING = """## How it was trained

By `heatproof scenes train`: {steps} steps, {pictures:,} images, each scored against about a
hundred captions, in {minutes:.0f} minutes on {hardware}.
{stages}{notes}The loss is that of CLIP, the cosine times a learnt scale, with two changes. They
are possible because the truth of captions can be computed. First, true captions do not compete
with each other. Second, captions compete not only within the whole batch but also within families
(shapes with shapes, minimal pairs with each other). With `withhold`, a caption that names only a
colour or only a shape does not count as false if only the held-out combinations make it false: no
training image of a colour shows its held-out shape, and counting that as evidence would teach that
the one excludes the other. Masks are not used in training.

The curriculum starts with one large plain object in the middle of clean grey. It gets harder, by
`pace` per step, only while shapes are recognised. The weights are a moving average over steps.

![Training curve](scenes-curve.svg)

"""

_SCORES = """## How good it is

Each row is measured on {count} scenes at full difficulty, with seeds that were used neither in
training nor in developing the recipe. For pairs of captions there are fewer, because scenes without
such a pair are left out.
For colour, shape, texture and size, the model names the word with the highest cosine among all
words of that kind; for colour and shape together, among all 64 pairs. The other rows test whether a
true caption has a higher cosine than a false one (chance one half). Intervals are Wilson's.
"""

_NOTES = {
    "held-out combinations": "Single objects whose colour and shape training never paired.",
    "from 256 pixels": "Single objects at 256 pixels, then resized by open_clip's preprocessing.",
    "binding": "Scenes of two objects; each word of the false caption is true of one object.",
    "relations": "Scenes of two objects; the false caption states the inverse relation.",
}

_SEEDS = """## Another seed

The same training from start to end with another seed. The package ships seed 0, which was chosen
before the others were measured.

"""

_FAMILY = """## The graded family

Earlier states of the same run (also moving averages), loaded by `heatproof.load("scenes:NAME")`
and measured on the same scenes at full difficulty. The steps were chosen on 400 of these scenes, so
that accuracy rises evenly.

"""


_USE = """## Use

```python
import heatproof
from heatproof.data.scenes import Caption, Phrase, SceneDataset, render, sample, truth

model = heatproof.load("scenes")                 # or "scenes:NAME", a checkpoint of the family
item = SceneDataset(2000)[0]                     # scene, picture, masks, captions, absent captions
scenes = sample(item["scene"].seed + torch.arange(8), objects=3)
pictures, masks = render(scenes, pixels=512)     # uint8 (8, 3, 512, 512), bool (8, 4, 512, 512)
truth(Caption(Phrase(colour="red", shape="star")), scenes.described()[0])
```

`heatproof scenes render DIR` writes images, COCO masks and captions. `heatproof scenes train DIR`
trains a model, or resumes a stopped run. `heatproof scenes card` measures everything above again.
"""


@chart_style(svg__hashsalt="scenes")
def draw_curve(card: dict[str, Any], path: Path) -> None:
    """Draw the training curve: difficulty and running accuracy on shapes, over steps."""
    from matplotlib.figure import Figure

    curve = card["training"]["curve"]
    steps = [point["step"] for point in curve]
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(
        steps, [p["shape"] for p in curve], color=OURS, label="shape, training batches (running)"
    )
    upper.plot(steps, [p["difficulty"] for p in curve], color=RIVAL, ls="--", label="difficulty")
    points = _family_points(card)
    if points:
        label = "shape, full difficulty, new scenes"
        upper.plot(*zip(*points, strict=True), "o", color=LIMIT, label=label)
    upper.set(ylim=(0, 1.03), ylabel="share")
    upper.legend(loc="lower right")
    lower.plot(steps, [p["loss"] for p in curve], color=OURS)
    lower.set(ylabel="loss (running)", xlabel="step", yscale="log")
    for axes in (upper, lower):
        axes.grid()
    figure.savefig(path, metadata={"Date": None})


def _family_points(card: dict[str, Any]) -> list[tuple[int, float]]:
    final = card["training"]["steps"]
    found: list[tuple[int, float]] = []
    for name, figures in card.get("family", {}).items():
        step = final if name == "final" else int(name.removeprefix("step-"))
        found.append((step, figures["shape"]["value"]))
    return found
