"""Put a benchmark together from plain values, here and in every worker that measures chunks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heatproof.benchmarking.request import MethodEntry, MetricEntry, identity
from heatproof.benchmarking.run import BenchmarkProgress, BenchmarkRun, Watch
from heatproof.benchmarking.store import ResultStore
from heatproof.data import open as opened
from heatproof.data.dataset import LabelledImages
from heatproof.errors import InputError
from heatproof.evaluation.task import EvaluationTask
from heatproof.models import Model
from heatproof.models import load as load_model
from heatproof.parallel.pool import Pool
from heatproof.user_code import method_of

SCENES = 500


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchmarkRequest:
    """What a benchmark is asked for; see `benchmark`."""

    methods: Sequence[MethodEntry]
    metrics: Sequence[MetricEntry]
    data: str | Path | LabelledImages | None
    images: int | None
    seed: int
    batch_size: int

    def on(self, model: Model, folder: Path, watch: Watch) -> BenchmarkRun:
        """Return the run on this model, with its parts in `folder`.

        Raises:
            InputError: the folder holds another benchmark; the data cannot be asked about.
        """
        methods = [replace(own, method=method_of(own.method, model)) for own in self.methods]
        data = _data(model, self.data, self.images, self.seed)
        count = len(data)
        task = _task(model, data, self.seed, self.batch_size)
        order = identity(methods, self.metrics, model, data, count, self.seed, self.batch_size)
        return BenchmarkRun(
            task=task,
            methods=methods,
            metrics=self.metrics,
            count=count,
            store=ResultStore(folder, order),
            watch=watch,
        )

    def spread(self, run: BenchmarkRun, pool: Pool, chunks: Sequence[int]) -> None:
        """Measure these chunks of the run by the pool's workers, which load the same model.

        Raises:
            HeatproofError: a worker failed or died; finished chunks are in the store.
        """
        model = run.task.model
        device = str(model.device)
        # Workers on other machines look for the same folder.
        folder = run.store.folder.resolve()
        opener = _ChunkOpener(request=self, model=model.spec, device=device, folder=folder)
        left = sum(run.images(chunk) for chunk in chunks)
        done, began = run.count - left, time.monotonic()
        before = done
        run.watch(BenchmarkProgress("loading workers", done, run.count))
        for chunk, _ in pool.map(opener, chunks, device):
            done += run.images(chunk)
            rate = (done - before) / (time.monotonic() - began)
            run.watch(BenchmarkProgress("measured", done, run.count, (run.count - done) / rate))


@dataclass(frozen=True, kw_only=True)
class _ChunkOpener:
    """Puts the same run together in a worker; its store refuses another model, data or code."""

    request: BenchmarkRequest
    model: str
    device: str
    folder: Path

    def __call__(self) -> Callable[[int], None]:
        model = load_model(self.model, device=self.device)
        run = self.request.on(model, self.folder, lambda _: None)
        return lambda chunk: run.measure([chunk])


def _task(model: Model, data: LabelledImages, seed: int, batch_size: int) -> EvaluationTask:
    task = EvaluationTask(model, data, seed=seed, batch_size=batch_size)
    if len(data.prompts) < 2:
        raise InputError(
            f"{data.name} has {len(data.prompts)} prompt, expected at least two: whether the model "
            "is right is told by the prompts that name nothing in a picture"
        )
    assert len(task.embeddings)  # refuses unfit prompts before anything is measured
    return task


def _data(
    model: Model, data: str | Path | LabelledImages | None, images: int | None, seed: int
) -> LabelledImages:
    if isinstance(data, LabelledImages):
        return data.first(images)
    if data is None and model.spec.split(":")[0] != "scenes":
        raise InputError(
            "got no data; name pictures with masks that this model could be good or bad at: "
            "--data FOLDER or KIND:PATH (scenes are for the embedded model)"
        )
    spec = "scenes" if data is None else data
    scenes = str(spec).split(":")[0] == "scenes"
    return opened(spec, most=images or (SCENES if scenes else None), seed=seed)
