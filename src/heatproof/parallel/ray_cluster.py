"""Connect to Ray, make parts by its actors, and say in one line what a task failed of."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from heatproof.errors import HeatproofError, InputError, shortened
from heatproof.parallel.processes import Opener

log = logging.getLogger(__name__)


@contextmanager
def connected(address: str | None) -> Generator[None]:
    """Use the Ray that is there already, or connect to a cluster, or start one here (None).

    What a cluster lost and could not make again ends the block early, with a warning: the caller
    goes round again with what is left.

    Raises:
        InputError: no cluster answers. HeatproofError: a task failed.
    """
    import ray
    from ray.exceptions import RayError

    own = not ray.is_initialized()
    if own:
        _connect(address)
    be_quiet()
    try:
        yield
    except RayError as error:
        reason = reason_of(error)
        if reason is not None:
            raise reason from error
        # As when a node dies with results that nobody had fetched.
        log.warning("ray: %s; what is left is done again", _last_line(error))
    finally:
        if own:
            ray.shutdown()


def on_actors(
    opener: Opener, parts: Sequence[Any], actors: int, device: str, address: str | None
) -> Iterator[Any]:
    """Yield what Ray's actors make of the parts, in any order; see `connected`."""
    import ray

    need: dict[str, Any] = {"num_gpus": 1} if device.startswith("cuda") else {"num_cpus": 1}
    with connected(address):
        rows = [{"part": part} for part in parts]
        # One block per part: what a lost worker costs.
        blocks: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
        data = blocks.map(
            _Maker,
            fn_constructor_args=(opener, torch.get_num_threads()),
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
            **need,
        )
        for row in data.iter_rows():
            yield from row["results"]


class _Maker:
    """An actor: holds what its opener loads, and makes one part at a time."""

    def __init__(self, opener: Opener, threads: int) -> None:
        torch.set_num_threads(threads)  # Ray sets another number
        self.make = opener()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"results": list(self.make(row["part"], _Never()))}


class _Never:
    def is_set(self) -> bool:
        return False


def _connect(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR,
                 include_dashboard=False if address is None else None)  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"got --address {address!r}: {error}") from error


def be_quiet() -> None:
    """Leave progress to the run's own line."""
    import ray

    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def reason_of(error: BaseException) -> HeatproofError | None:
    """Return what a task failed of, in one line; None where the cluster failed, not the task."""
    from ray.exceptions import RayError

    causes = [error]
    while (cause := causes[-1].__cause__ or getattr(causes[-1], "cause", None)) is not None:
        causes.append(cause)
    own = next((cause for cause in causes if isinstance(cause, HeatproofError)), None)
    if own is not None:
        return HeatproofError(str(own))
    if all(isinstance(cause, RayError) for cause in causes):
        return None
    line = _last_line(error)
    return HeatproofError(f"ray: {line}; finished parts are there; run the same command again")


def _last_line(error: BaseException) -> str:
    return shortened(" ".join(str(error).strip().splitlines()[-1:]), 200)
