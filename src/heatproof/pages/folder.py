"""Check that a folder can be written to before any work is done. Imports no torch."""

import tempfile
from pathlib import Path

from heatproof.checking import shown
from heatproof.errors import InputError


def check_folder(folder: Path) -> None:
    """Raise an `InputError` now where writing into `folder` would fail later. Creates nothing."""
    base = folder
    try:
        while not base.exists() and not base.is_symlink() and base != base.parent:
            base = base.parent
    except OSError as error:
        raise InputError(
            f"{shown(folder)}: cannot be a folder's name ({error.strerror}); try another -o"
        ) from error
    if not base.is_dir():
        raise InputError(f"{base}: a file is in the way of the output folder; try another -o")
    try:
        # Permission bits do not tell: root ignores them, a read-only disk does not show in them.
        with tempfile.TemporaryDirectory(prefix=".heatproof-", dir=base):
            pass
    except OSError as error:
        reason = (error.strerror or "not writable").lower()
        raise InputError(f"{folder}: cannot be written to ({reason}); try another -o") from error
