"""The local engine: this process on one device, or one process per device."""

import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof.errors import HeatproofError
from heatproof.models.model import Model
from heatproof.runs.job import Job, PartWritten, Stopped
from heatproof.runs.worker import Worker
from heatproof.store.items import Items
from heatproof.store.ranges import Range, split

PATIENCE = 1.0
"""Seconds between two looks at whether a process has died."""


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
        return self._by_processes(job, ranges, stopped)

    def _by_processes(
        self, job: Job, ranges: Sequence[Range], stopped: Stopped
    ) -> Iterator[PartWritten]:
        # Fresh processes: a forked one cannot use a device that its parent has used.
        context = multiprocessing.get_context("spawn")
        tasks, results, ending = context.Queue(), context.Queue(), context.Event()
        for own in split(ranges, job.part_items):
            tasks.put(own)
        for _ in self.devices:
            tasks.put(None)
        processes = [
            context.Process(
                target=_serve, args=(job, device, self.loaders, tasks, results, ending, os.getpid())
            )
            for device in self.devices
        ]
        for process in processes:
            process.start()
        try:
            yield from _collect(processes, results, stopped, ending)
        finally:
            ending.set()
            for process in processes:
                process.join(timeout=60)
                if process.is_alive():
                    process.kill()


def _collect(
    processes: Sequence[Any], results: Any, stopped: Stopped, ending: Any
) -> Iterator[PartWritten]:
    """Yield what the processes report until all have ended.

    Raises:
        HeatproofError: one failed, or died.
    """
    running = len(processes)
    while running:
        if stopped.is_set():
            ending.set()
        try:
            result = results.get(timeout=PATIENCE)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise HeatproofError(
                    f"process {dead[0].pid} died (exit code {dead[0].exitcode}); finished parts "
                    "are there; run the same command again"
                ) from None
            continue
        if result is None:
            running -= 1
        elif isinstance(result, PartWritten):
            yield result
        else:
            raise result


def _serve(
    job: Job, device: str, loaders: int, tasks: Any, results: Any, ending: Any, parent: int
) -> None:
    """Explain ranges until none is left: the main function of a device's process."""
    # Ctrl-C reaches all processes: the parent tells this one to end after its batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    class Ending:
        def is_set(self) -> bool:
            # A parent that was killed cannot say so.
            return ending.is_set() or os.getppid() != parent

    stopped = Ending()
    try:
        worker = Worker(job, device)
        while not stopped.is_set() and (own := tasks.get()) is not None:
            for written in worker.run([own], loaders, stopped):
                results.put(written)
        results.put(None)
    except HeatproofError as error:
        results.put(HeatproofError(str(error)))
    except Exception as error:
        results.put(HeatproofError(f"{device}: {type(error).__name__}: {error}"))
        raise
