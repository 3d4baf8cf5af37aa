"""From a training run's folder to the files that the package ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from heatproof.models.scenes import CARD, FAMILY, WEIGHTS


def training_facts(folder: Path) -> dict[str, Any]:
    """What the run's own state says of how the weights came about."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    settings, progress = state["settings"], state["progress"]
    return {
        "settings": settings,
        "steps": progress["step"],
        "pairs": progress["step"] * settings["batch"] * settings["workers"],
        "seconds": round(progress["seconds"]),
        "difficulty": round(progress["difficulty"], 4),
        "curve": progress["curve"],
    }


def release(folder: Path, steps: list[int], hardware: str) -> None:
    """Copy the run's average weights (float16) and those of the named steps into the package."""
    snapshots = folder / "snapshots"
    facts = training_facts(folder)
    _copy(snapshots / f"step-{facts['steps']:06d}.safetensors", WEIGHTS)
    FAMILY.mkdir(exist_ok=True)
    for old in FAMILY.glob("*.safetensors"):
        old.unlink()
    for step in steps:
        _copy(snapshots / f"step-{step:06d}.safetensors", FAMILY / f"step-{step:05d}.safetensors")
    card: dict[str, Any] = json.loads(CARD.read_text()) if CARD.exists() else {}
    card["training"] = {**facts, "hardware": hardware}
    CARD.write_text(json.dumps(card, indent=1) + "\n")


def _copy(source: Path, target: Path) -> None:
    tensors = {k: v.half().contiguous() for k, v in load_file(source).items()}
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors leaves it readable by its owner alone
