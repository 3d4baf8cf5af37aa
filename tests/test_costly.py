"""The list that `make quick` reads names tests that are there."""

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent


@cache
def functions(file: str) -> set[str]:
    path = TESTS.parent / file
    body = ast.parse(path.read_text("utf-8")).body if path.is_file() else []
    return {part.name for part in body if isinstance(part, ast.FunctionDef)}


def test_every_costly_test_is_there() -> None:
    """Break: a test is moved or renamed; `make quick` would run it again, unnoticed."""
    lines = (TESTS / "costly.txt").read_text("utf-8").splitlines()
    names = [line.split()[-1].split("::") for line in lines if not line.startswith("#")]
    assert names
    assert [f"{file}::{name}" for file, name in names if name not in functions(file)] == []
