"""Explain batches of items: the part of a run that holds the model."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from heatproof import scores
from heatproof.engine import inputs
from heatproof.engine.forward import is_linear
from heatproof.engine.inputs import ImageInputs
from heatproof.engine.pipeline import ExplainOptions, ExplainRun
from heatproof.engine.streaming import ImageLoader, LoadedBatch, load_batches
from heatproof.errors import ModelError
from heatproof.methods.registry import create
from heatproof.models import load
from heatproof.models.model import Model
from heatproof.parallel.processes import Stopped
from heatproof.runs.job import Job, PartWritten
from heatproof.runs.prompts import Group, PromptBook
from heatproof.runs.rows import RowSource, table_of_failures, table_of_rows
from heatproof.store.files import StoreFiles
from heatproof.store.items import Items, open_item
from heatproof.store.ranges import Range
from heatproof.store.schema import Table, maps_schema
from heatproof.store.store import Store
from heatproof.store.writer import write_part


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What was computed of a range of items.

    Attributes:
        rows: rows of the store; `failures`: images that could not be read, and why.
        seconds: what computing took, without loading.
    """

    part: Range
    rows: Table
    failures: Table
    seconds: float


class Worker:
    """Holds the model, the prompts' embeddings and the methods of a job."""

    def __init__(
        self, job: Job, device: str, *, model: Model | None = None, items: Items | None = None
    ) -> None:
        """Load what is not handed in.

        Raises:
            ModelError: the weights are not those that the store was begun with.
        """
        self.job = job
        self.model = load(job.model, device=device) if model is None else model
        if model is None and self.model.weights_hash != job.weights_sha256:
            raise ModelError(
                f"{job.model} has other weights here than the store was begun with "
                f"({self.model.weights_hash[:12]}, not {job.weights_sha256[:12]}); "
                "every machine needs the same files"
            )
        self.items = Store(job.store).items if items is None else items
        self.files = StoreFiles(job.store)
        extras = [self.items.table.schema.field(name) for name in self.items.extras]
        self.schema: Any = maps_schema(job.grid, job.map_type, extras)
        self.book = PromptBook(self.model, job.prompts, self.items[:1])
        self.sized = inputs.at_size(self.model, inputs.wanted_size(self.model, (), job.image_size))
        self._methods = [self._runs(name, settings) for name, settings in job.methods]
        certified = any(certifying.certifies for certifying, _ in self._methods)
        self.loader = ImageLoader(
            self.sized,
            self.items,
            job.batch_size,
            strict=False,
            compared=job.certified if certified else 0,
            opener=open_item,
        )

    def _runs(self, name: str, settings: dict[str, Any]) -> tuple[ExplainRun, ExplainRun]:
        """Return how a method explains batches that are certified, and those that are not."""
        job = self.job
        options = ExplainOptions(
            method=create(name, **settings),
            score=job.score,
            image_size=job.image_size,
            certify=bool(job.certified),
            batch_size=job.batch_size,
            seed=job.seed,
        )
        texts = list(self.book.first.labels)
        certifying = ExplainRun(self.model, texts, options)
        return certifying, ExplainRun(self.model, texts, replace(options, certify=False))

    def numbers(self, ranges: Sequence[Range]) -> list[int]:
        """Return the numbers of the batches that make up these ranges."""
        size = self.job.batch_size
        return [n for own in ranges for n in range(own.first // size, -(-own.stop // size))]

    def load(self, numbers: Sequence[int], processes: int) -> Generator[LoadedBatch]:
        """Yield these batches, read by so many processes, or by a thread if 0."""
        return load_batches(self.loader, self.sized, processes, numbers)

    def explain(self, batch: LoadedBatch) -> Explained:
        """Explain a batch: by its own content alone, whatever came before it."""
        began, first = time.perf_counter(), batch.number * self.job.batch_size
        every: list[Any] = self.items[first : first + self.job.batch_size]
        sources: list[RowSource] = []
        start = 0
        for shown in batch.inputs(self.sized):
            places = batch.places[start : start + len(shown.pixels)]
            start += len(places)
            some = [every[place] for place in places]
            for order, runs in enumerate(self._methods):
                certified = self.job.certified and batch.number % self.job.certified == 0
                sources += self._by_method(runs[0 if certified else 1], order, shown, some, first)
        failures = [
            (every[place], str(error))
            for place, error in zip(batch.faulty, batch.errors, strict=True)
        ]
        rows = table_of_rows(sources, self.items, self.schema, self.job.map_type)
        return Explained(
            part=Range(first, first + len(every)),
            rows=rows,
            failures=table_of_failures(failures),
            seconds=time.perf_counter() - began,
        )

    def _by_method(
        self, run: ExplainRun, order: int, shown: ImageInputs, items: Sequence[Any], first: int
    ) -> Iterator[RowSource]:
        # A margin or a contrast is between prompts: other prompts beside them would change it.
        relative = isinstance(run.score, scores.Margin) or bool(run.score.against)
        together = is_linear(run.method) and not relative
        for group in self.book.groups(shown, items, run.score, together=together):
            began = time.perf_counter()
            some = _select(shown, group)
            explanation = run.asking(group.prompts, first=first).explain(some, None)
            yield RowSource(
                explanation=explanation,
                group=group,
                items=[items[place] for place in group.places],
                order=order,
                seconds=(time.perf_counter() - began) / len(group.places),
            )

    def write(self, parts: Sequence[Explained]) -> PartWritten:
        """Write neighbouring batches as one part of the store."""
        part = Range(parts[0].part.first, parts[-1].part.stop)
        rows = pa.concat_tables([own.rows for own in parts])
        failures = pa.concat_tables([own.failures for own in parts])
        seconds = sum(own.seconds for own in parts)
        images = part.stop - part.first - failures.num_rows
        facts = {"images": images, "failures": failures.num_rows, "seconds": round(seconds, 3),
                 "environment": self.job.environment}  # fmt: skip
        written = write_part(self.files, part, rows, failures, facts)
        counts: Any = rows.column("verdict").value_counts().to_pylist()
        return PartWritten(
            part=part,
            images=images,
            rows=rows.num_rows,
            failures=tuple(
                zip(
                    failures.column("path").to_pylist(),
                    failures.column("reason").to_pylist(),
                    strict=True,
                )
            ),
            written_bytes=written,
            seconds=seconds,
            verdicts={own["values"]: own["counts"] for own in counts},
        )

    def run(
        self, ranges: Sequence[Range], processes: int, stopped: Stopped | None = None
    ) -> Iterator[PartWritten]:
        """Load, explain and write these ranges part by part; end after a batch when `stopped`."""
        waiting: list[Explained] = []
        began = time.monotonic()
        with closing(self.load(self.numbers(ranges), processes)) as batches:
            for batch in batches:
                explained = self.explain(batch)
                if waiting and waiting[-1].part.stop != explained.part.first:
                    yield self.write(waiting)
                    waiting, began = [], time.monotonic()
                waiting.append(explained)
                count = explained.part.stop - waiting[0].part.first
                late = time.monotonic() - began > self.job.part_seconds
                ending = stopped is not None and stopped.is_set()
                if count >= self.job.part_items or late or ending:
                    yield self.write(waiting)
                    waiting, began = [], time.monotonic()
                if ending:
                    return
        if waiting:
            yield self.write(waiting)


def _select(shown: ImageInputs, group: Group) -> ImageInputs:
    places = list(group.places)
    if len(places) == len(shown.pixels):
        return shown
    return replace(
        shown,
        pixels=shown.pixels[places],
        photos=tuple(shown.photos[place] for place in places),
        views=tuple(shown.views[place] for place in places),
        own=tuple(shown.own[place] for place in places) if shown.own else (),
    )
