"""The engine `ray`: Ray Data reads images by tasks, and explains them by actors with the model."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heatproof.engine.streaming import ImageLoader
from heatproof.errors import InputError
from heatproof.models.model import Model
from heatproof.parallel.processes import Stopped
from heatproof.parallel.ray_cluster import connected
from heatproof.runs.job import Job, PartWritten
from heatproof.runs.worker import Worker
from heatproof.store.items import Items
from heatproof.store.ranges import Range, split
from heatproof.store.store import Store

READ_ITEMS = 128
"""Most images that are read, explained and written as one: they wait in Ray's object store."""


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Runs a job on a Ray cluster, or on this machine where no address is given.

    A task that is lost with its worker or its node is run again, by Ray or by the next round of the
    run. What it writes has the same name and the same rows as before.

    Attributes:
        model: the model, on this machine, whose preprocessing the tasks use.
        items: the list of items.
        address: of the cluster: "auto", "ray://HOST:10001"; None starts Ray here.
        least, most: how many actors hold a model; Ray adds them while images wait.
        device: of each actor; one on "cuda" gets a GPU of its own.
    """

    model: Model
    items: Items
    address: str | None = None
    least: int = 1
    most: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Name and size."""
        return f"ray, {self.least} to {self.most} actors on {self.device}"

    def run(self, job: Job, ranges: Sequence[Range], stopped: Stopped) -> Iterator[PartWritten]:
        """Yield each part once it is in the store (see `Engine`)."""
        with connected(self.address):
            for row in self._data(job, ranges).iter_rows():
                yield row["written"]
                if stopped.is_set():
                    return

    def _data(self, job: Job, ranges: Sequence[Range]) -> Any:
        """Return the data set of what is written, which Ray computes while it is iterated."""
        import ray

        loader = Worker(job, self.device, model=self.model, items=self.items).loader
        parts = split(ranges, min(job.part_items, max(job.batch_size, READ_ITEMS)))
        rows = [{"first": own.first, "stop": own.stop} for own in parts]
        # One block per part: what a lost worker costs.
        data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
        if self.device.startswith("cuda"):  # a GPU waits for many cores that decode
            data = data.map(PartReader(job, loader), num_cpus=1)
            device, need = "cuda", {"num_gpus": 1}
        else:  # one of each shares a core, so that a machine full of actors still reads
            readers = ray.data.TaskPoolStrategy(size=self.most)
            data = data.map(PartReader(job, loader), compute=readers, num_cpus=0.25)
            device, need = self.device, {"num_cpus": 0.75}
        return data.map(
            PartExplainer,
            fn_constructor_args=(job, device),
            compute=ray.data.ActorPoolStrategy(min_size=self.least, max_size=self.most),
            **need,
        )


def actors_from(text: str) -> tuple[int, int]:
    """Return the least and the most actors of "4" or "1:8".

    Raises:
        InputError: it is something else.
    """
    low, colon, high = text.partition(":")
    high = high if colon else low
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise InputError(f"got --actors {text!r}, expected a number, or MIN:MAX such as 1:8")
    return int(low), int(high)


def _range(row: dict[str, Any]) -> Range:
    return Range(int(row["first"]), int(row["stop"]))


class PartReader:
    """A task: reads and preprocesses the images of one range."""

    def __init__(self, job: Job, loader: ImageLoader) -> None:
        self.job, self.loader = job, loader
        loader.images = ()  # every process reads the list from the store

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add the batches of the range."""
        self.loader.images = _items(self.job.store)
        part, size = _range(row), self.job.batch_size
        numbers = range(part.first // size, -(-part.stop // size))
        return {**row, "batches": [self.loader.load(n, threading.Event()) for n in numbers]}


@lru_cache(maxsize=2)
def _items(store: str) -> Items:
    return Store(store).items


class PartExplainer:
    """An actor: holds the model, explains one range of items at a time and writes it."""

    def __init__(self, job: Job, device: str) -> None:
        self.worker = Worker(job, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Explain a range and write it as one part."""
        return {"written": self.worker.write([self.worker.explain(own) for own in row["batches"]])}
