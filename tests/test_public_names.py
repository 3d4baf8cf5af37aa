"""What `heatproof` offers by name, lazily, and what the package declares that it needs."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import matplotlib as mpl
import pytest

import heatproof
from heatproof import errors

SOURCES = Path(heatproof.__file__).parents[1]
ROOT = SOURCES.parent
OPTIONAL = {"datasets", "h5py"}
"""Imported where a file needs it, with a line that says how to install it."""


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_every_public_name_is_there_and_listed():
    """Break: take a name out of `_HOMES`, or `__dir__` out."""
    assert set(dir(heatproof)) == {*heatproof.__all__, "__version__"}
    for name in heatproof.__all__:
        assert getattr(heatproof, name) is not None, name
    wanted = {
        "Certificate", "Explanation", "Method", "Model", "WordExplanation", "errors", "metrics",
        "models", "reproduce",
    }  # fmt: skip
    assert wanted <= set(heatproof.__all__)


def test_every_error_is_public():
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    every = {each.__name__ for each in kinds if issubclass(each, errors.HeatproofError)}
    assert every <= set(heatproof.__all__)
    for name in every:
        assert getattr(heatproof, name) is getattr(errors, name)


def test_public_names_do_not_hide_one_another():
    """A module of a public function's name would replace it once it is imported."""
    for name in heatproof.__all__:
        home = SOURCES / "heatproof" / name
        if home.with_suffix(".py").exists() or home.is_dir():
            assert getattr(heatproof, name) is import_module(f"heatproof.{name}")


def test_listing_and_errors_import_no_torch():
    code = "import sys, heatproof; dir(heatproof); heatproof.errors; heatproof.InputError; "
    done = python(code + "heatproof.Certificate; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def _imported() -> set[str]:
    names: set[str] = set()
    for file in (SOURCES / "heatproof").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"heatproof"} - OPTIONAL


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_everything_that_is_imported_is_declared():
    """Break: take ftfy out of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [
        each
        for name, some in project["optional-dependencies"].items()
        if name != "dev"
        for each in some
    ]
    declared = {
        _plain(re.split(r"[<>=!~;\[ ]", each)[0]) for each in (*project["dependencies"], *extras)
    }
    homes = packages_distributions()
    imported = _imported()
    assert {"torch", "ftfy", "huggingface_hub"} <= imported
    for module in imported:
        assert {_plain(each) for each in homes[module]} & declared, module


@pytest.mark.parametrize(
    "module", ["heatproof.recipes.grad_eclip_paper.figures", "heatproof.plots.chart"]
)
def test_no_import_changes_matplotlibs_settings(module):
    """Break: `mpl.rcParams.update` at the top of recipes/grad_eclip_paper/figures.py."""
    code = f"import matplotlib as mpl; mpl.use('agg'); was = dict(mpl.rcParams); import {module}; "
    done = python(code + "import sys; sys.exit(dict(mpl.rcParams) != was)")
    assert done.returncode == 0, done.stderr


def test_drawing_leaves_matplotlibs_settings_as_they_were(tmp_path):
    from heatproof.recipes.grad_eclip_paper import figures
    from heatproof.recipes.scenes import card

    mpl.use("agg")
    was = dict(mpl.rcParams)
    with figures.styled():
        assert mpl.rcParams["axes.spines.top"] is False
    curve = [{"step": n, "shape": n / 4, "difficulty": n / 4, "loss": 2.0 - n / 4} for n in (1, 2)]
    drawn = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for file in drawn:
        card.draw_curve({"training": {"curve": curve, "steps": 2}}, file)
    assert drawn[0].read_bytes() == drawn[1].read_bytes()  # no id is drawn by chance
    assert dict(mpl.rcParams) == was
