"""The engine `ray`: Ray Data hands ranges of items to actors that hold the model."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof.errors import HeatproofError, InputError
from heatproof.runs.job import Job, Stopped
from heatproof.runs.worker import PartWritten, Worker
from heatproof.store.ranges import Range, split


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Runs a job on a Ray cluster, or on this machine where no address is given.

    A task that is lost with its worker or its node is run again by Ray; it writes the same part
    under the same name.

    Attributes:
        address: of the cluster: "auto", "ray://HOST:10001"; None starts Ray here.
        least, most: how many actors hold a model; Ray adds them while tasks wait.
        device: of each actor; one on "cuda" gets a GPU of its own.
    """

    address: str | None = None
    least: int = 1
    most: int = 1
    device: str = "cpu"

    @classmethod
    def from_options(cls, *, address: str | None, actors: str, device: str) -> "RayEngine":
        """Return the engine that the command line asks for; `actors` is N or MIN:MAX.

        Raises:
            InputError: `actors` is something else.
        """
        low, colon, high = actors.partition(":")
        high = high if colon else low
        if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
            raise InputError(f"got --actors {actors!r}, expected a number, or MIN:MAX such as 1:8")
        return cls(address=address, least=int(low), most=int(high), device=device)

    @property
    def name(self) -> str:
        """Name and size."""
        return f"ray, {self.least} to {self.most} actors on {self.device}"

    def run(self, job: Job, ranges: Sequence[Range], stopped: Stopped) -> Iterator[PartWritten]:
        """Yield each part once it is in the store (see `Engine`)."""
        import ray
        from ray.exceptions import RayError

        own = not ray.is_initialized()
        if own:
            _connect(self.address)
        try:
            for row in self._data(job, ranges).iter_rows():
                yield row["written"]
                if stopped.is_set():
                    return
        except RayError as error:
            raise _reason(error) from error
        finally:
            if own:
                ray.shutdown()

    def _data(self, job: Job, ranges: Sequence[Range]) -> Any:
        """Return the data set of what is written, which Ray computes while it is iterated."""
        import ray

        # One task is one part: what a lost worker costs.
        parts = split(ranges, job.part_items)
        rows = [{"first": own.first, "stop": own.stop} for own in parts]
        gpu = {"num_gpus": 1} if self.device.startswith("cuda") else {"num_cpus": 1}
        data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
        return data.map(
            PartExplainer,
            fn_constructor_args=(job, "cuda" if "num_gpus" in gpu else self.device),
            compute=ray.data.ActorPoolStrategy(min_size=self.least, max_size=self.most),
            **gpu,
        )


def _connect(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR,
                 include_dashboard=False)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"got --address {address!r}: {error}") from error


def _reason(error: Exception) -> HeatproofError:
    """Return what a task failed of, in one line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HeatproofError):
            return HeatproofError(str(cause))
        cause = cause.__cause__ or getattr(cause, "cause", None)
    last = str(error).strip().splitlines()[-1:]
    return HeatproofError(
        f"ray: {' '.join(last)}; finished parts are there; run the same command again"
    )


class PartExplainer:
    """An actor: holds the model, explains one range of items at a time and writes it."""

    def __init__(self, job: Job, device: str) -> None:
        self.worker = Worker(job, device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Explain a range and write it as one part."""
        part = Range(int(row["first"]), int(row["stop"]))
        batches = self.worker.load(self.worker.numbers([part]), 0)
        return {"written": self.worker.write([self.worker.explain(batch) for batch in batches])}
