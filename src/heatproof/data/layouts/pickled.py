"""Plain data in a pickle, read without unpickling.

A pickle is a program, and one that may call anything. Here nothing is run: `pickletools` of the
standard library takes the file apart into instructions, and those that build lists, dictionaries,
texts and numbers are carried out below. Any other (a class, a call, an object) is refused.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from heatproof.data.layouts.reading import LayoutError

VALUES = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    }
)  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
SINCE_MARK = {"LIST": list, "TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MARK = object()


def plain(path: Path) -> Any:
    """Return the lists, dictionaries, tuples, texts, numbers, truth values and None in a pickle.

    Texts of Python 2 are read as Latin-1.

    Raises:
        LayoutError: it holds anything else, or is no pickle.
    """
    try:
        return _Reader().read(path.read_bytes())
    except _Refused as refused:
        raise LayoutError(
            f"{path} holds more than plain data (the instruction {refused}), which is not run; "
            "expected lists, dictionaries, texts and numbers: save it as JSON where you trust it"
        ) from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LayoutError(f"{path} is not readable as a pickle ({error})") from None


class _Refused(Exception):
    """An instruction that builds more than plain data."""


class _Reader:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        # Decodes instructions without running any.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        (result,) = self.stack
        # A truncated file may end inside a list.
        if result is _MARK:
            raise ValueError("it ends where a list begins")
        return result

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in PUTS:
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in GETS:
            stack.append(self.memo[argument])
        elif name in ("APPEND", "SETITEM"):
            self.add([stack.pop() for _ in range(1 + (name == "SETITEM"))][::-1])
        elif name in ("APPENDS", "SETITEMS"):
            self.add(self.since_mark())
        elif name in SINCE_MARK:
            stack.append(SINCE_MARK[name](self.since_mark()))
        elif name == "DICT":
            items = self.since_mark()
            stack.append({})
            self.add(items)
        elif name in TUPLES:
            items = stack[-TUPLES[name] :]
            del stack[-TUPLES[name] :]
            stack.append(tuple(items))
        # These only describe the file; everything else could build objects.
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(name)

    def since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def add(self, items: list[Any]) -> None:
        """Add to the list or the dictionary on top."""
        target = self.stack[-1]
        # A mark among the items means that something was taken off the stack too often.
        if any(item is _MARK for item in items):
            raise ValueError("an item is missing")
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, dict):
            target.update(zip(items[::2], items[1::2], strict=True))
        else:
            raise ValueError(f"an item for a {type(target).__name__}")
