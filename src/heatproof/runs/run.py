"""Explain many images into a store: begin or go on, on any engine, until all is done."""

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from heatproof.code_hash import code_sha256
from heatproof.engine import inputs
from heatproof.engine.certify import environment
from heatproof.engine.pipeline import default_batch_size, resolve_method
from heatproof.errors import InputError, Interrupted
from heatproof.methods.registry import create
from heatproof.models.model import Model
from heatproof.parallel.processes import Stopped
from heatproof.runs.engine import Engine
from heatproof.runs.job import Job, PromptPlan
from heatproof.runs.watching import Metrics, RunLog, Tally
from heatproof.store.files import StoreFiles
from heatproof.store.items import Items
from heatproof.store.lock import locked
from heatproof.store.manifest import SCHEMA, Manifest
from heatproof.store.ranges import Range
from heatproof.store.schema import MapType, maps_schema
from heatproof.store.store import Store
from heatproof.store.writer import begin, settle

LOG = "log.jsonl"
BATCH_COST = 8 * 196 * 90e6
"""Tokens x parameters of a batch on the processor: 8 images of a ViT-B/16 at 224 pixels."""
ROUNDS = 3
"""Rounds without any part after which a run gives up: an engine may lose machines."""
UNRELATED = (
    "auditing", "benchmarking", "data", "interactions", "metrics", "parallel", "proofs", "recipes",
    "runs", "store",
)  # fmt: skip
"""Packages that take no part in what a map is."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What is asked of a run; see `Job`."""

    store: str
    items: Items
    methods: tuple[tuple[str, dict[str, Any]], ...]
    prompts: PromptPlan
    score: str | None = None
    image_size: Any = None
    certified: int = 1
    batch_size: int | None = None
    seed: int = 0
    map_type: MapType = "float32"
    part_items: int = 512
    part_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run has done.

    Attributes:
        tally: counts of this run.
        verdicts: how many rows of the whole store have each verdict.
        failures: images of the whole store that could not be read.
    """

    store: Store
    tally: Tally
    verdicts: dict[str, int]
    failures: int
    notices: tuple[str, ...] = field(default=())


def batch_size_for(sized: Model, cost: float = BATCH_COST) -> int:
    """Return how many images go through the model together where the user sets no number.

    On the processor as many as cost what 8 do on a ViT-B/16 at 224 pixels, 8 to 64, a power of
    two: a batch's fixed costs weigh on small images, and large batches leave the caches. What an
    image costs is taken as tokens x parameters of the image tower; where each image has a grid of
    its own, the model's own size stands for it.

    Args:
        sized: the model at the size of its images.
        cost: of a batch on the processor, in tokens x parameters.
    """
    if sized.device.type != "cpu":
        return default_batch_size(sized)
    size = sized.image.preprocess
    layout = sized.image.layout(size.height, size.width)
    tower = sized.module.get_submodule(sized.image.path)
    parameters = sum(parameter.numel() for parameter in tower.parameters())
    fitting = cost / max(1, layout.rows * layout.cols * parameters)
    return next((count for count in (64, 32, 16) if count <= fitting), 8)


def plan(model: Model, request: RunRequest) -> tuple[Job, Manifest]:
    """Return the job for this model, and the manifest by which it is known again.

    Raises:
        InputError: a method or a setting does not go with the model.
    """
    chosen = [create(name, **settings) for name, settings in request.methods]
    scored = [resolve_method(model, method, request.score, "image") for method in chosen]
    sized = inputs.at_size(model, inputs.wanted_size(model, (), request.image_size))
    process = sized.image.preprocess
    layout = sized.image.layout(process.height, process.width)
    grid = None if process.flexible else (layout.rows, layout.cols)
    weights = model.weights_hash
    about = environment(model, request.seed)
    for name in ("weights_sha256", "seed"):
        del about[name]
    job = Job(
        store=request.store,
        model=model.spec,
        weights_sha256=weights,
        methods=request.methods,
        prompts=request.prompts,
        score=request.score,
        image_size=request.image_size,
        certified=request.certified,
        batch_size=request.batch_size or batch_size_for(sized),
        seed=request.seed,
        map_type=request.map_type,
        grid=grid,
        part_items=request.part_items,
        part_seconds=request.part_seconds,
        environment=about,
    )
    extras = [request.items.table.schema.field(name) for name in request.items.extras]
    maps_schema(grid, request.map_type, extras)  # refuses columns of the store's own names
    own = request.prompts
    run = {
        "model": model.spec,
        "weights_sha256": weights,
        "methods": [
            {"name": method.card.name, "settings": method.settings(), "signs": method.card.signs}
            for method, _ in scored
        ],
        "score": scored[0][1].name,
        "prompts": list(own.shared) or ("each image's own" if not own.classes else []),
        "classes": list(own.classes),
        "top": own.top if own.classes else None,
        "image_size": request.image_size,
        "certified": request.certified,
        "batch_size": job.batch_size,
        "seed": request.seed,
        "map_type": request.map_type,
        "sources": request.items.digest,
        "device": model.device.type,
        "code": code_sha256(*UNRELATED),
    }
    manifest = {
        "schema": SCHEMA,
        "run": run,
        "environment": about,
        "items": len(request.items),
        "grid": grid,
        "weights": model.weights,
    }
    return job, manifest


def run(
    job: Job,
    manifest: Manifest,
    items: Items,
    engine: Engine,
    *,
    tell: Callable[[Tally], None] = lambda _: None,
    metrics: Metrics | None = None,
) -> RunResult:
    """Explain all items that the store does not have yet.

    tell: called with the counts after each part.

    Raises:
        InputError: the store is another run's, or in use; the disk is full.
        Interrupted: Ctrl-C was pressed; what was done is in the store.
    """
    files = StoreFiles(job.store)
    folder = files.folder
    with nullcontext() if folder is None else locked(folder):
        store, notices = begin(job.store, manifest, items)
        settle(store)
        log = RunLog(None if folder is None else folder / LOG)
        left = store.pending()
        total = len(items)
        tally = Tally(total=total, before=total - sum(own.stop - own.first for own in left))
        log.write("start", engine=engine.name, images=total, done=tally.before,
                  environment=manifest["environment"])  # fmt: skip
        tell(tally)
        with _stopping() as stopped:
            fruitless = 0
            while left and not stopped.is_set():
                _round(job, engine, left, stopped, tally, log, tell, metrics)
                settle(store)
                before, left = left, store.pending()
                fruitless = fruitless + 1 if left == before else 0
                if fruitless == ROUNDS:
                    raise InputError(f"{engine.name}: it ended {ROUNDS} times without any part")
        if left:
            log.write("interrupted", done=tally.before + tally.done)
            raise Interrupted(
                f"interrupted: {tally}; all of it is in {job.store}; to go on, run the same "
                "command again"
            )
        verdicts, failures = _whole(store)
        log.write("done", images=total, failures=failures, verdicts=verdicts)
    return RunResult(
        store=store, tally=tally, verdicts=verdicts, failures=failures, notices=tuple(notices)
    )


def _round(
    job: Job,
    engine: Engine,
    left: Sequence[Range],
    stopped: Stopped,
    tally: Tally,
    log: RunLog,
    tell: Callable[[Tally], None],
    metrics: Metrics | None,
) -> None:
    for part in engine.run(job, left, stopped):
        tally.add(part)
        log.write("part", first=part.part.first, stop=part.part.stop, images=part.images,
                  rows=part.rows, bytes=part.written_bytes, seconds=round(part.seconds, 3),
                  rate=round(tally.rate, 3), verdicts=part.verdicts)  # fmt: skip
        for path, reason in part.failures:
            log.write("failure", path=path, reason=reason)
        if metrics is not None:
            metrics.show(tally)
        tell(tally)


def _whole(store: Store) -> tuple[dict[str, int], int]:
    """Return the verdicts of all rows, and the number of failures."""
    verdicts: dict[str, int] = {}
    counts: Any = store.table(["verdict"]).column("verdict").value_counts().to_pylist()
    for own in counts:
        verdicts[own["values"]] = own["counts"]
    return verdicts, store.failures().num_rows


@contextmanager
def _stopping() -> Generator[threading.Event]:
    """Turn the first Ctrl-C into an event; the second ends at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # signals reach the main thread alone
        return

    def stop(_: int, __: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
