"""A pool of workers, as the benchmark and the audit use it: processes here, or Ray's actors."""

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof import checking, extras
from heatproof.errors import HeatproofError, InputError
from heatproof.parallel.processes import Opener, Stopped, in_processes
from heatproof.parallel.ray_cluster import on_actors

ROUNDS = 3
"""Rounds without any part after which a pool gives up: a cluster may lose machines."""
Work = Callable[[Any], Any]
"""Makes one part, writes it, and returns what is to be said of it."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Where independent parts are made, and by how many workers.

    Attributes:
        engine: "local" for processes of this machine, "ray" for actors of a cluster.
        address: of the cluster: "auto", "ray://HOST:10001"; None starts Ray here.

    Raises:
        InputError: no such engine, a number below 1, or an address without Ray.
    """

    engine: str = "local"
    workers: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        checking.pool(self.engine, self.workers, self.address)
        if self.engine == "ray":
            extras.require("ray")

    @property
    def alone(self) -> bool:
        """Whether this process does all the work itself."""
        return self.engine == "local" and self.workers == 1

    def map(
        self, opened: Callable[[], Work], parts: Sequence[Any], device: str
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each part with what was made of it, in any order.

        Args:
            opened: loads what a worker holds; plain values, since it goes to another process.
            device: on "cuda" Ray gives each actor a GPU of its own.

        Raises:
            HeatproofError: a part failed, or a process died; the other parts are there.
        """
        opener = _Opener(opened)
        left, fruitless = list(parts), 0
        while left:
            before = len(left)
            for part, result in self._round(opener, left, device):
                left.remove(part)
                yield part, result
            fruitless = fruitless + 1 if len(left) == before else 0
            if fruitless == ROUNDS:
                raise HeatproofError(f"{self.engine}: it ended {ROUNDS} times without any part")

    def _round(self, opener: Opener, left: Sequence[Any], device: str) -> Iterator[Any]:
        if self.engine == "ray":
            return on_actors(opener, list(left), self.workers, device, self.address)
        try:
            pickle.dumps(opener)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"what was given cannot go to another process ({error}); with several workers, "
                "give names, FILE.py:NAME, or objects of a module"
            ) from None
        count = min(self.workers, len(left))
        return in_processes([opener] * count, list(left), threading.Event())


@dataclass(frozen=True)
class _Opener:
    """Turns a function of one part into what processes and actors ask for."""

    opened: Callable[[], Work]

    def __call__(self) -> "_Make":
        return _Make(self.opened())


@dataclass(frozen=True)
class _Make:
    work: Work

    def __call__(self, part: Any, stopped: Stopped) -> Iterable[tuple[Any, Any]]:
        del stopped
        yield part, self.work(part)
