"""Make parts in processes of this machine, which share one list of parts."""

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from heatproof.errors import HeatproofError

PATIENCE = 1.0
"""Seconds between two looks at whether a process has died."""
GRACE = 60.0
"""Seconds that a process has to finish what it is at, once another one failed."""


class Stopped(Protocol):
    """Says whether the run is to end after the batch at hand: an event of threads or processes."""

    def is_set(self) -> bool:
        """Return whether to end."""
        ...


Make = Callable[[Any, Stopped], Iterable[Any]]
"""Makes a part, and yields what is to be said of it."""
Opener = Callable[[], Make]
"""Loads what a worker holds (a model); plain values, since it goes to another process."""


def in_processes(
    openers: Sequence[Opener], parts: Iterable[Any], stopped: Stopped
) -> Iterator[Any]:
    """Yield what one process per opener makes of the parts, in any order.

    Raises:
        HeatproofError: a process failed, or died; the others have finished their parts.
    """
    # Fresh processes: a forked one cannot use a device that its parent has used.
    context = multiprocessing.get_context("spawn")
    tasks, results, ending = context.Queue(), context.Queue(), context.Event()
    for part in parts:
        tasks.put((part,))
    for _ in openers:
        tasks.put(None)
    # Sums in another number of threads are rounded otherwise.
    threads = torch.get_num_threads()
    processes = [
        context.Process(target=_serve, args=(opener, threads, tasks, results, ending, os.getpid()))
        for opener in openers
    ]
    for process in processes:
        process.start()
    grace = GRACE
    try:
        yield from collect(processes, results, stopped, ending)
    except KeyboardInterrupt:
        grace = 0.0  # who presses Ctrl-C wants no minute more
        raise
    finally:
        ending.set()
        for process in processes:
            process.join(timeout=grace)
            if process.is_alive():
                process.kill()


def collect(processes: Sequence[Any], results: Any, stopped: Stopped, ending: Any) -> Iterator[Any]:
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
        elif isinstance(result, HeatproofError):
            raise result
        else:
            yield result


def _serve(
    opener: Opener, threads: int, tasks: Any, results: Any, ending: Any, parent: int
) -> None:
    """Make parts until none is left: the main function of a process."""
    # Ctrl-C reaches all processes: the parent tells this one when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    class Ending:
        def is_set(self) -> bool:
            # A parent that was killed cannot say so.
            return ending.is_set() or os.getppid() != parent

    stopped = Ending()
    torch.set_num_threads(threads)
    try:
        make = opener()
        while not stopped.is_set() and (task := tasks.get()) is not None:
            for result in make(task[0], stopped):
                results.put(result)
        results.put(None)
    except HeatproofError as error:
        results.put(HeatproofError(str(error)))
    except Exception as error:
        results.put(HeatproofError(f"a worker failed: {type(error).__name__}: {error}"))
        raise
