"""The hash of the code that computes results."""

import runpy
import shutil
from pathlib import Path

import pytest

import heatproof
from heatproof.auditing import run
from heatproof.benchmarking import request
from heatproof.code_hash import code_sha256
from heatproof.recipes.grad_eclip_paper import reproducing

SHOWN = "recipes/grad_eclip_paper/page.py"


def hashed(root: Path, *unused: str) -> str:
    return runpy.run_path(str(root / "code_hash.py"))["code_sha256"](*unused)


def test_what_computes_counts_and_what_shows_does_not(tmp_path: Path) -> None:
    root = tmp_path / "heatproof"
    shutil.copytree(Path(heatproof.__file__).parent, root, ignore=shutil.ignore_patterns("*.pyc"))
    before = hashed(root, SHOWN, "recipes/scenes")
    for shown in ("pages/render.py", "cli/main.py", SHOWN, "recipes/scenes/recipe.py"):
        (root / shown).write_text("another")
    assert hashed(root, SHOWN, "recipes/scenes") == before
    assert hashed(root, "recipes/scenes") != before
    (root / "methods" / "gae.py").write_text("another")
    assert hashed(root, SHOWN, "recipes/scenes") != before


@pytest.mark.parametrize("unused", [run.UNUSED, request.UNUSED, reproducing.UNUSED])
def test_what_is_left_out_exists(unused: tuple[str, ...]) -> None:
    """Seen to fail with the names before the move: they left out nothing."""
    assert len(code_sha256(*unused)) == 16


def test_a_stale_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no such file or package in heatproof: paper"):
        code_sha256("paper")
