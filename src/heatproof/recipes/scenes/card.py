"""The card of the embedded reference model: measured, kept as JSON, shown as Markdown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from heatproof.data.scenes import COLOURS, HELD_OUT, SHAPES, render, sample
from heatproof.models.scenes import CARD, build, checkpoint_file, checkpoints
from heatproof.pages import render as pages
from heatproof.plots.style import LIMIT, OURS, RIVAL, chart_style
from heatproof.recipes.scenes.scoring import Judge, graded, plain, scores
from heatproof.recipes.scenes.siblings import cues_table, measure_siblings, seeds_table

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
        "sibling_figures": measure_siblings(count),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": {name: checkpoint_file(name).stat().st_size for name in checkpoints()},
        "pictures_per_second": round(rendering_speed()),
    }


def rendering_speed(count: int = 256, rounds: int = 3) -> float:
    """Return images drawn per second with masks, at full difficulty, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = 0.0
    for k in range(rounds):
        started = time.perf_counter()
        render(sample(torch.arange(k * count, (k + 1) * count)))
        # The best round: another process can only slow a round down.
        best = max(best, count / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return best


def update(path: Path = CARD, *, count: int = 2000, family_count: int = 1000) -> dict[str, Any]:
    """Measure and write the card, keeping what it says about training."""
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    unmeasured = {name: old[name] for name in ("training", "siblings") if name in old}
    card = {**unmeasured, **measure(count, family_count=family_count)}
    path.write_text(json.dumps(card, indent=1) + "\n")
    return card


def _share(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} | {figure['low']:.1%} to {figure['high']:.1%}"


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return shares with their intervals, a row per kind of question."""
    lines = ["| | right | 95 % interval | chance | scenes |", "|---|---|---|---|---|"]
    lines += [f"| {k} | {_share(f)} | {f['chance']:.1%} | {f['count']} |" for k, f in rows.items()]
    return "\n".join(lines)


def family_table(family: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return what each checkpoint of the family has learnt."""
    lines = [f"| checkpoint | {' | '.join(_RISING)} |", "|---" * (len(_RISING) + 1) + "|"]
    for name, figures in family.items():
        cells = [
            f"{f['value']:.1%} ({f['low']:.1%} to {f['high']:.1%})"
            for f in (figures[k] for k in _RISING)
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def stages_table(stages: list[dict[str, Any]]) -> str:
    """Return the settings that differ between stages, a row per stage."""
    usual = {"until", "batch", "workers", "seed"}
    free = {"steps", "save", "snapshots"}
    names = [k for k in stages[-1] if k not in usual | free]
    differing = [k for k in names if len({str(stage.get(k)) for stage in stages}) > 1]
    lines = [f"| until step | scenes a step | seed | {' | '.join(differing)} |"]
    lines.append("|---" * (3 + len(differing)) + "|")
    for stage in stages:
        scenes = stage["batch"] * stage["workers"]
        values = [str(stage.get(k)).lower() for k in differing]
        lines.append(f"| {stage['until']} | {scenes} | {stage['seed']} | {' | '.join(values)} |")
    return "\n".join(lines)


def markdown(card: dict[str, Any]) -> str:
    """Return the card's page, from its JSON alone."""
    return pages.page(
        "scenes_card.md",
        card=card,
        held_out=", ".join(f"{COLOURS[c]} {SHAPES[s]}" for s, c in HELD_OUT),
        stages=stages_table(card["training"]["stages"]),
        tables={name: table(rows) for name, rows in card["figures"].items()},
        seeds=seeds_table(card),
        cues=cues_table(card),
        not_learnt=[
            f"{name}, {row}"
            for name, rows in card["figures"].items()
            for row, figure in rows.items()
            if figure["low"] < figure["chance"] + 0.05
        ],
        family=family_table(card["family"]),
    )


# The logarithmic axis writes its powers of ten as formulas.
@chart_style(svg__hashsalt="scenes", text__parse_math=True)
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
    points: list[tuple[int, float]] = []
    for name, figures in card.get("family", {}).items():
        step = final if name == "final" else int(name.removeprefix("step-"))
        points.append((step, figures["shape"]["value"]))
    return points
