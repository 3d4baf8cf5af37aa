"""From a training run's folder to the files that the package ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from heatproof.models.scenes import CARD, FAMILY, SIBLINGS, WEIGHTS


def training_facts(folder: Path) -> dict[str, Any]:
    """Read from the run's own state how its weights were trained."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    progress = state["progress"]
    stages = [*progress["stages"], {**state["settings"], "until": progress["step"]}]
    starts = [0, *(stage["until"] for stage in stages)]
    pictures = sum(
        (stage["until"] - start) * stage["batch"] * stage["workers"]
        for start, stage in zip(starts, stages, strict=False)
    )
    return {
        "stages": stages,
        "steps": progress["step"],
        "pictures": pictures,
        "seconds": round(progress["seconds"]),
        "difficulty": round(progress["difficulty"], 4),
        "curve": progress["curve"],
    }


def release(folders: list[Path], steps: list[int], hardware: str) -> None:
    """Copy the last run's average weights (float16) and those of the named steps into the package.

    folders: the run, preceded by those that it started from; a step is searched in the last first.
    """
    folder = folders[-1]

    def snapshot(step: int) -> Path:
        name = f"snapshots/step-{step:06d}.safetensors"
        files = [f / name for f in reversed(folders) if (f / name).exists()]
        if not files:
            raise ValueError(f"got step {step}, of which no run has a snapshot")
        return files[0]

    facts = training_facts(folder)
    _copy(snapshot(facts["steps"]), WEIGHTS)
    FAMILY.mkdir(exist_ok=True)
    for old in FAMILY.glob("*.safetensors"):
        old.unlink()
    for step in steps:
        _copy(snapshot(step), FAMILY / f"step-{step:05d}.safetensors")
    card: dict[str, Any] = json.loads(CARD.read_text()) if CARD.exists() else {}
    card["training"] = {**facts, "hardware": hardware}
    CARD.write_text(json.dumps(card, indent=1) + "\n")


def release_sibling(folder: Path, name: str, hardware: str) -> None:
    """Copy a finished run's average weights (float16) into the package, as `scenes:NAME`."""
    facts = training_facts(folder)
    SIBLINGS.mkdir(exist_ok=True)
    file = folder / "snapshots" / f"step-{facts['steps']:06d}.safetensors"
    _copy(file, SIBLINGS / f"{name}.safetensors")
    # The curve is kept for the embedded model alone: it is most of a card.
    kept = {key: value for key, value in facts.items() if key != "curve"}
    card: dict[str, Any] = json.loads(CARD.read_text())
    card.setdefault("siblings", {})[name] = {**kept, "hardware": hardware}
    CARD.write_text(json.dumps(card, indent=1) + "\n")


def _copy(source: Path, target: Path) -> None:
    tensors = {k: v.half().contiguous() for k, v in load_file(source).items()}
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors leaves it readable by its owner alone
