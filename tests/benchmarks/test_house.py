"""The counting rules of benchmarks/house.py, on a planted tree."""

import runpy
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[2] / "benchmarks" / "house.py"
FILES = {
    "__init__.py": '"""The package."""\n',
    "a.py": '''"""First module."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatproof import c


# --- a ruler is no comment ---


class Twin:
    """A class whose name is used twice."""

    kept: int = 0  # a reason

    def run(self, each: int) -> int:  # noqa: ARG002
        # Another reason.
        from heatproof.b import helper

        def inner() -> None: ...

        return helper()
''',
    "b.py": '''from heatproof.a import Twin


def helper() -> int:
    """Return
    nothing of interest."""
    return 1


class Child(Twin):
    """Inherit the docstring of run, and add a method without one."""

    def run(self, number: int) -> int:
        return number

    def more(self) -> None: ...
''',
    "c.py": '"""Import b alone: no circle, for a imports c for the type checker only."""\n\n'
    "from heatproof import b\n\n\nclass Twin:\n    pass\n",
}


@pytest.fixture
def house(tmp_path: Path) -> tuple[dict[str, Any], Any]:
    package = tmp_path / "heatproof"
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    names = runpy.run_path(str(HOUSE), run_name="house")
    return names, names["read"](tmp_path)


def test_imports_inside_functions_close_a_circle_and_those_for_types_do_not(house) -> None:
    names, tree = house
    assert names["circles"](tree) == [["heatproof.a", "heatproof.b"]]
    assert names["local_imports"](tree) == ["heatproof.a:19 heatproof.b"]


def test_names_that_are_used_twice_or_name_nothing(house) -> None:
    names, tree = house
    assert names["duplicates"](tree) == ["Twin: heatproof.a, heatproof.c"]
    assert sorted(names["nameless"](tree)) == ["heatproof.a:15 Twin.kept", "heatproof.a:17 each"]


def test_lines_of_code_comments_and_docstrings(house) -> None:
    """Break: count rulers or directives as comments."""
    _, tree = house
    a, b = tree.modules["heatproof.a"], tree.modules["heatproof.b"]
    assert (a.physical, a.code, a.comments, len(a.docstring_lines)) == (23, 9, 2, 2)
    assert (b.physical, b.code, b.comments, len(b.docstring_lines)) == (16, 7, 0, 3)


def test_an_override_inherits_its_docstring(house) -> None:
    names, tree = house
    documented = names["docs"](tree)
    assert documented.without == [
        "heatproof.a.Twin.run:17",
        "heatproof.b:1",
        "heatproof.b.Child.more:16",
        "heatproof.c.Twin:6",
    ]
    assert (documented.public, documented.every, documented.every_without) == (10, 8, 5)
