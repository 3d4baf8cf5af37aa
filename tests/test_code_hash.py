"""The hash of the code that measures."""

import runpy
import shutil
from pathlib import Path

import heatproof


def hashed(root: Path, *shown: str) -> str:
    return runpy.run_path(str(root / "code_hash.py"))["code_sha256"](*shown)


def test_what_measures_counts_and_what_shows_does_not(tmp_path: Path) -> None:
    root = tmp_path / "heatproof"
    shutil.copytree(Path(heatproof.__file__).parent, root, ignore=shutil.ignore_patterns("*.pyc"))
    before = hashed(root, "recipes/grad_eclip_paper/page.py", "training")
    for shown in (
        "pages/render.py",
        "recipes/grad_eclip_paper/page.py",
        "recipes/scenes/recipe.py",
    ):
        (root / shown).write_text("another")
    assert hashed(root, "recipes/grad_eclip_paper/page.py", "training") == before
    assert hashed(root, "training") != before
    (root / "methods" / "gae.py").write_text("another")
    assert hashed(root, "recipes/grad_eclip_paper/page.py", "training") != before
