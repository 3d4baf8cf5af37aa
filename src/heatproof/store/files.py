"""The files of a store, on a local disk or at any fsspec address; a file is there whole or not."""

import errno
import re
from pathlib import Path
from typing import Any

from heatproof import checking
from heatproof.errors import InputError
from heatproof.whole_files import write_whole

REMOTE = re.compile(r"^(?!file:)[A-Za-z][A-Za-z0-9+.-]*(::|://)")
FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreFiles:
    """Named files under one address.

    Attributes:
        address: as it was given.
        folder: the local folder; None for a remote address, which has neither locks nor syncs.
        filesystem: fsspec's, for a remote address.
    """

    def __init__(self, address: str | Path) -> None:
        """Open an address; nothing is read or written.

        Raises:
            InputError: no file system is known for it, or its package is missing.
        """
        self.address = str(address)
        self.folder: Path | None = None
        self.filesystem: Any = None
        if not REMOTE.match(self.address):
            self.root = self.address.removeprefix("file://")
            self.folder = Path(self.root)
            return
        import fsspec  # for remote stores alone

        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(self.address)
        except (ValueError, ImportError, OSError) as error:
            raise InputError(f"{self.address}: cannot be opened ({error})") from None

    def place(self, name: str = "") -> str:
        """Return where a file lies, as pyarrow takes it beside `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}".rstrip("/")

    def exists(self, name: str = "") -> bool:
        """Return whether there is a file or folder of this name."""
        if self.folder is not None:
            return checking.exists(self.folder / name)
        return bool(self.filesystem.exists(self.place(name)))

    def names(self, name: str = "", *, hidden: bool = False) -> list[str]:
        """Return the names in a folder in order; none where there is no folder.

        hidden: those that begin with a dot, instead of the others.
        """
        if self.folder is not None:
            folder = self.folder / name
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        elif self.exists(name):
            entries = self.filesystem.ls(self.place(name), detail=False)
            names = [str(entry).rstrip("/").rpartition("/")[2] for entry in entries]
        else:
            names = []
        return sorted(own for own in names if own.startswith(".") == hidden)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        return bytes(self.filesystem.cat_file(self.place(name)))

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        if self.folder is not None:
            return (self.folder / name).stat().st_size
        return int(self.filesystem.size(self.place(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            InputError: the disk is full or does not take it; what was there before stays.
        """
        try:
            if self.folder is None:  # object stores show an object once it is complete
                self.filesystem.makedirs(self.place(name).rpartition("/")[0], exist_ok=True)
                self.filesystem.pipe_file(self.place(name), data)
                return
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda unfinished: unfinished.write_bytes(data))
        except OSError as error:
            raise refusal(self.address, error) from error

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
        elif self.exists(name):
            self.filesystem.rm_file(self.place(name))


def refusal(address: str, error: OSError) -> InputError:
    """Return the line for a disk that does not take any more."""
    if error.errno in FULL:
        return InputError(
            f"{address}: the disk is full; finished parts are there, nothing is half written; free "
            "some space and run the same command again"
        )
    reason = (error.strerror or str(error)).lower()
    return InputError(f"{address}: cannot be written to ({reason})")


def open_binary(address: str) -> Any:
    """Open a file or an fsspec address for reading; a context manager."""
    if not REMOTE.match(address):
        return Path(address).open("rb")
    import fsspec

    return fsspec.open(address, "rb")
