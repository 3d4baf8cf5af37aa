"""Write results so that a run that was stopped resumes: a file appears whole or not at all."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heatproof.whole_files import write_whole

Part = dict[str, Any]


class PartStore:
    """A folder of JSON parts, each under a key of everything that it depends on.

    `reused` and `computed` count the parts that were read from the folder and those that were not.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.reused = 0
        self.computed = 0

    def part(self, name: str, compute: Callable[[], Part], **depends: Any) -> Part:
        """Return the part `name`, from the folder or computed now.

        Args:
            depends: what else the part depends on, beside its name and the store's settings.
        """
        path = self.folder / f"{name}-{self._digest(name, depends)}.json"
        if path.is_file():
            try:
                part: Part = json.loads(path.read_text("utf-8"))
            except json.JSONDecodeError:
                path.unlink()  # another program's, or from a disk that lost it
            else:
                self.reused += 1
                return part
        text = json.dumps(plain(compute()), allow_nan=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda unfinished: unfinished.write_text(text, "utf-8"))
        self.computed += 1
        # The caller gets what a resumed run would read, rounded and with texts as keys.
        return json.loads(text)

    def _digest(self, name: str, depends: Mapping[str, Any]) -> str:
        key = json.dumps([name, self.settings, depends], sort_keys=True, default=str)
        return hashlib.sha256(key.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: tensors become lists, what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
