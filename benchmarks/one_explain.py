"""Trace one `explain`: files, functions and calls from file to file, as one line of JSON.

`house.py` runs this in a process of its own, with the tree that it measures on the path. A call
counts for the nearest frame of the library below it: what torch calls back is the library's own.
"""

import json
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image

import heatproof

ROOT = str(Path(heatproof.__file__).parent)


class Calls:
    """What a profile function saw of the library."""

    def __init__(self) -> None:
        self.files, self.functions = set[str](), set[Any]()
        self.pairs, self.count = set[tuple[str, str]](), 0

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(ROOT):
            return
        self.files.add(file[len(ROOT) + 1 :])
        self.functions.add(frame.f_code)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != file:
            self.count += 1
            self.pairs.add((caller.f_code.co_filename, file))


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model, image = heatproof.load("scenes"), Image.new("RGB", (224, 224), (90, 20, 30))
    calls = Calls()
    # The first call pays for imports and caches, which are no part of the flow.
    heatproof.explain(model, image, ["a red circle"])
    sys.setprofile(calls.note)
    heatproof.explain(model, image, ["a red circle"])
    sys.setprofile(None)
    traced = {"files": sorted(calls.files), "functions": len(calls.functions)}
    print(json.dumps({"root": ROOT, **traced, "calls": calls.count, "pairs": len(calls.pairs)}))


if __name__ == "__main__":
    main()
