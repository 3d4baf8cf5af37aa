"""Write files whole or not at all: beside their place, synced, then renamed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and rename it when it is complete and on the disk.

    Ctrl-C, a kill, a full disk or a power cut leave the old file, or none, but never half of one.
    """
    # Hidden, for readers of a folder skip such names; the process's number is in it, for two runs
    # may write into one folder.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(unfinished)
        # Renamed before its content is on the disk, a file may be empty after a power cut.
        sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
