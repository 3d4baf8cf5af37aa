"""A run in plain values: all that a worker needs, in another process or on another machine."""

from dataclasses import dataclass, field
from typing import Any

from heatproof.store.ranges import Range
from heatproof.store.schema import MapType


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """Which prompts each image is explained with.

    Attributes:
        shared: the same for all images; empty where each item has its own, or `classes` are given.
        classes: prompts of which each image gets those `top` that the model scores highest.
    """

    shared: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    top: int = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is explained, how, and into which store.

    Attributes:
        model: the model's name, as `heatproof.load` takes it.
        weights_sha256: of the model that began the store; a worker that loads another refuses.
        methods: name and options of each.
        certified: certificates of every so many batches; 0 means of none.
        batch_size: images that go through the model together. Batches are fixed by the items'
            numbers, so that a run that was resumed computes what an uninterrupted one does.
        grid: rows and columns of patches; None where each image has a grid of its own.
        part_items, part_seconds: a part is written once it holds so many items, or took so long.
    """

    store: str
    model: str
    weights_sha256: str
    methods: tuple[tuple[str, dict[str, Any]], ...]
    prompts: PromptPlan
    score: str | None = None
    image_size: Any = None
    certified: int = 1
    batch_size: int = 8
    seed: int = 0
    map_type: MapType = "float32"
    grid: tuple[int, int] | None = None
    part_items: int = 512
    part_seconds: float = 60.0
    environment: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class PartWritten:
    """A part that is in the store.

    Attributes:
        verdicts: how many rows have each verdict.
        failures: (path, reason) of each image that could not be read.
    """

    part: Range
    images: int
    rows: int
    failures: tuple[tuple[str, str], ...]
    written_bytes: int
    seconds: float
    verdicts: dict[str, int]
