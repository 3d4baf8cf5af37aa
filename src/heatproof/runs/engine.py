"""What runs a job: one process, one process per device, or a cluster. All write the same rows."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from heatproof.parallel.processes import Stopped
from heatproof.runs.job import Job, PartWritten
from heatproof.store.ranges import Range


class Engine(Protocol):
    """Explains ranges of items into the job's store.

    The caller holds the store's lock. An engine may be called again with what is left.
    """

    @property
    def name(self) -> str:
        """What the engine is called in the log, with its size: "local, cuda:0"."""
        ...

    def run(self, job: Job, ranges: Sequence[Range], stopped: Stopped) -> Iterator[PartWritten]:
        """Yield each part once it is in the store, in any order.

        Ends early, with finished batches written, once `stopped` is set.

        Raises:
            HeatproofError: a part cannot be made or written.
        """
        ...
