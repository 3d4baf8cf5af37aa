"""The hash of the code that measures."""

import shutil
from importlib import util
from pathlib import Path

import heatproof


def hashed(root: Path, *shown: str) -> str:
    spec = util.spec_from_file_location("hash_here", root / "code_hash.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.code_sha256(*shown)


def test_what_measures_counts_and_what_shows_does_not(tmp_path: Path) -> None:
    root = tmp_path / "heatproof"
    shutil.copytree(Path(heatproof.__file__).parent, root, ignore=shutil.ignore_patterns("*.pyc"))
    before = hashed(root, "paper/page.py", "training")
    for shown in ("report/html.py", "paper/page.py", "training/recipe.py"):
        (root / shown).write_text("another")
    assert hashed(root, "paper/page.py", "training") == before
    assert hashed(root, "training") != before
    (root / "methods" / "gae.py").write_text("another")
    assert hashed(root, "paper/page.py", "training") != before
