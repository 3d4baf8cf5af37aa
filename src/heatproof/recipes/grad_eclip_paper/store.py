"""What was measured, kept part by part, so that a run that was stopped goes on where it was."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Part = dict[str, Any]


class Store:
    """A folder of JSON parts, each under a key of everything that it depends on.

    A part appears all at once or not at all, so Ctrl-C and a killed machine cost one part.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.kept = 0
        self.made = 0

    def part(self, name: str, make: Callable[[], Part], **depends: Any) -> Part:
        """The part `name`, from the folder or made now; `depends` is what else it depends on."""
        path = self.folder / f"{name}-{self._digest(name, depends)}.json"
        if path.is_file():
            try:
                found: Part = json.loads(path.read_text("utf-8"))
            except json.JSONDecodeError:
                path.unlink()  # not ours, or from a disk that lost it: make it again
            else:
                self.kept += 1
                return found
        made = plain(make())
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(made, allow_nan=False), "utf-8")
        unfinished.replace(path)
        self.made += 1
        # What goes on is what would be read back.
        return json.loads(path.read_text("utf-8"))

    def _digest(self, name: str, depends: Mapping[str, Any]) -> str:
        told = json.dumps([name, self.settings, depends], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Plain values for JSON; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
