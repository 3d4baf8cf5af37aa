"""The local engine: this process on one device, or one process per device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heatproof.models.model import Model
from heatproof.parallel.processes import Stopped, in_processes
from heatproof.runs.job import Job, PartWritten
from heatproof.runs.worker import Worker
from heatproof.store.items import Items
from heatproof.store.ranges import Range, split


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """Runs a job on the devices of this machine.

    Attributes:
        devices: "cpu", "cuda:1"; a device that stands there twice gets two processes.
        loaders: processes that decode, for each device; 0 means one thread.
        model: the model, if it is loaded already; used where there is one device.
        items: the list of items, likewise.
    """

    devices: tuple[str, ...]
    loaders: int = 0
    model: Model | None = None
    items: Items | None = None

    @property
    def name(self) -> str:
        """Name and devices."""
        return f"local, {', '.join(self.devices)}"

    def run(self, job: Job, ranges: Sequence[Range], stopped: Stopped) -> Iterator[PartWritten]:
        """Yield each part once it is in the store (see `Engine`)."""
        if len(self.devices) == 1:
            worker = Worker(job, self.devices[0], model=self.model, items=self.items)
            return worker.run(ranges, self.loaders, stopped)
        openers = [_Opener(job, device, self.loaders) for device in self.devices]
        return in_processes(openers, split(ranges, job.part_items), stopped)


@dataclass(frozen=True)
class _Opener:
    """Opens the worker of a device's process."""

    job: Job
    device: str
    loaders: int

    def __call__(self) -> "_Make":
        return _Make(Worker(self.job, self.device), self.loaders)


@dataclass(frozen=True)
class _Make:
    worker: Worker
    loaders: int

    def __call__(self, part: Range, stopped: Stopped) -> Iterator[PartWritten]:
        return self.worker.run([part], self.loaders, stopped)
