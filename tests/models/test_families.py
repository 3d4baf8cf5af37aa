"""The table of families: what it lists can be loaded, wrapped and tried, and costs no import."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from heatproof import specs
from heatproof.models import load
from heatproof.models.hugging_face.families import ARCHITECTURES
from heatproof.specimens import SPECIMENS, model_of

SOURCES = Path(specs.__file__).parents[1]
LIBRARIES = ("open_clip", "timm", "torchvision", "transformers")


@pytest.mark.parametrize("module", ["heatproof.methods", "heatproof.engine.api"])
def test_no_model_library_is_imported_before_a_model_is_loaded(module: str) -> None:
    """Break: an adapter imported at the top of `models/loading.py`."""
    code = f"import {module}, sys; print([name for name in {LIBRARIES} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("family", specs.FAMILIES, ids=lambda family: family.package)
def test_a_family_of_the_table_has_what_the_table_promises(family: specs.Family) -> None:
    package = f"heatproof.{family.package}"
    assert family.prefix or family.objects
    if family.prefix:
        assert callable(import_module(f"{package}.loading").load)
        assert family.pattern.startswith(family.prefix)
        assert all(form.startswith(family.prefix) for form in family.forms)
        assert family.forms
    if family.objects:
        assert callable(import_module(package).recognises)
        assert callable(import_module(package).wrap)


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_specimen_is_loaded_by_its_name(name: str) -> None:
    model = load(f"specimen:{name}", dtype="float64")
    assert model.spec == f"specimen:{name}"
    assert model.module is not model_of(name).module
    assert model.weights_hash == model_of(name).weights_hash


def test_each_architecture_of_transformers_has_a_specimen() -> None:
    """Break: an adapter in `hugging_face/families` that no specimen is of."""
    classes = {type(model_of(name).module).__name__ for name in SPECIMENS if name.startswith("hf")}
    assert classes == {known.model_class for known in ARCHITECTURES.values()}
