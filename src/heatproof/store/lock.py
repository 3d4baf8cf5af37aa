"""One run at a time in a store: a lock that ends with its process, however that ends."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from heatproof.errors import InputError
from heatproof.store.files import refusal

NAME = ".lock"
_held: set[int] = set()


def _let_go() -> None:
    # A forked process shares the lock: while it lived, a killed run would seem to go on.
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold a folder's lock.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise refusal(str(folder), error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
        os.close(handle)
        raise InputError(
            f"{folder}: another run (process {owner or 'unknown'}) is writing into this store; "
            "wait for it, or take another -o"
        ) from None
    _held.add(handle)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)
