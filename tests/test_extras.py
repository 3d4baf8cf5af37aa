"""A package that is optional and missing is one line, before any work."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import heatproof
from heatproof import extras
from heatproof.cli import main
from heatproof.errors import InputError

ROOT = Path(__file__).parents[1]
COMMANDS = [
    ("prove grad-eclip attention-eclip", "sympy", "prove"),
    ("benchmark --methods gae", "pyarrow", "benchmark"),
    ("benchmark --methods gae", "matplotlib", "benchmark"),
    ("audit gae", "matplotlib", "report"),
    ("run . -p dog", "pyarrow", "run"),
    ("run . -p dog --engine ray", "ray", "ray"),
    ("reproduce --quick", "matplotlib", "report"),
    ("scenes card --docs docs", "matplotlib", "report"),
]


def test_the_extras_are_those_that_pyproject_declares() -> None:
    """Break: take pyarrow out of `EXTRAS`, or rename an extra on one side."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {
        name: tuple(re.split(r"[\[>]", line)[0].replace("-", "_") for line in lines)
        for name, lines in project["optional-dependencies"].items()
        if name not in ("all", "dev")
    }
    assert declared == extras.EXTRAS
    assert project["optional-dependencies"]["all"] == [f"heatproof[{','.join(declared)}]"]
    assert "heatproof[all]" in project["optional-dependencies"]["dev"]


@pytest.mark.parametrize(("command", "package", "extra"), COMMANDS)
def test_a_command_names_the_missing_package_and_what_to_install(
    command: str,
    package: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Break: leave `extras.require` out of the command."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    assert main.run(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert f"{package} is needed here and not installed" in line
    assert line.endswith(f'try: pip install "heatproof[{extra}]"')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "package"),
    [("prove", "sympy"), ("benchmark", "pyarrow"), ("reproduce", "matplotlib")],
)
def test_a_public_function_says_the_same(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is needed here"):
        getattr(heatproof, name)
    monkeypatch.undo()
    assert callable(getattr(heatproof, name))
