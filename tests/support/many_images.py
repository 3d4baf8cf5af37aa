"""Small runs: images on disk, some of them broken, and how a test runs them into a store."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import heatproof
from heatproof.models import Model
from heatproof.runs import run as running
from heatproof.runs.job import PromptPlan
from heatproof.runs.local import LocalEngine
from heatproof.runs.run import RunRequest, RunResult
from heatproof.runs.sources import list_items
from heatproof.store.items import Items
from heatproof.store.store import Store

PROMPTS = ("a red circle", "a blue square")
_models: dict[str, Model] = {}


def model_of(spec: str = "scenes") -> Model:
    """Return a model, loaded once."""
    if spec not in _models:
        _models[spec] = heatproof.load(spec)
    return _models[spec]


def write_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write images of different content and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths: list[Path] = []
    for number in range(count):
        small = generator.integers(0, 256, (4, 5 + number % 3, 3), dtype=np.uint8)
        path = folder / f"{number:03d}.png"
        Image.fromarray(small).resize((64 + number % 5, 64)).save(path)
        paths.append(path)
    return paths


def request_of(store: Path | str, items: Items, **more: Any) -> RunRequest:
    """Return a request with small parts."""
    plain: dict[str, Any] = {
        "store": str(store),
        "items": items,
        "methods": (("attention-x-gradient", {}),),
        "prompts": PromptPlan(shared=PROMPTS),
        "batch_size": 4,
        "part_items": 4,
        "certified": 0,
    }
    return RunRequest(**plain | more)


def run_into(
    store: Path | str,
    sources: Sequence[Path | str] | Items,
    *,
    engine: Any = None,
    spec: str = "scenes",
    tell: Any = None,
    prompt_column: str | None = None,
    **more: Any,
) -> RunResult:
    """Run sources into a store."""
    items = (
        sources
        if isinstance(sources, Items)
        else list_items([str(source) for source in sources], prompt_column=prompt_column)
    )
    model = model_of(spec)
    job, manifest = running.plan(model, request_of(store, items, **more))
    engine = engine or LocalEngine(devices=("cpu",))
    if isinstance(engine, LocalEngine) and len(engine.devices) == 1:
        engine = dataclasses.replace(engine, model=model, items=items)
    return running.run(job, manifest, items, engine, tell=tell or (lambda _: None))


def content(store: Store | Path | str) -> list[dict[str, Any]]:
    """Return all rows but for what they took, to compare bit by bit."""
    store = store if isinstance(store, Store) else heatproof.open_store(store)
    columns = [name for name in store.schema.names if name != "seconds"]
    return store.table(columns).to_pylist()
