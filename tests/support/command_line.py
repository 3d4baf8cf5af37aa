"""Running the command line in another process, and reading what it says on stderr."""

import os
import subprocess
import sys
from pathlib import Path

from heatproof.cli import main

SOURCES = Path(main.__file__).parents[2]


def one_line(stderr: str) -> str:
    """The only line on stderr."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("heatproof: ")
    return lines[0]


def shell(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "heatproof", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        **more,
    )
