"""Names are checked without torch: the written index is the catalogue, and typos are answered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heatproof import index, methods, metrics, scores, specs
from heatproof.cli import main
from heatproof.errors import InputError, ModelError, nearest
from heatproof.methods.base import MethodCard
from heatproof.recipes.grad_eclip_paper import reproducing

SOURCES = Path(main.__file__).parents[2]
WRITE = "run: python docs/generate.py"

# Command lines that must be answered without torch: exit code, and words of the answer.
ANSWERS = {
    "methods": (0, "attention-x-gradient"),
    "methods grad-eclip": (0, "Zhao et al."),
    "methods grad-eclp": (2, "did you mean grad-eclip"),
    "models": (0, "hf:ID"),
    "explain a.png dog --method grad-eclp": (2, "did you mean grad-eclip"),
    "explain a.png dog --method GradECLIP": (2, "did you mean grad-eclip?"),
    "explain a.png dog --method grad-eclip --set head=model": (2, "did you mean heads?"),
    "explain a.png dog --method grad-eclip --set heads=modle": (2, "did you mean model"),
    "explain a.png dog --method smoothgrad --set samples=x": (2, "expected a whole number"),
    "explain a.png dog --score cosin": (2, "did you mean cosine?"),
    "explain a.png dog --model scenez": (2, "did you mean scenes?"),
    "explain a.png dog --model scenes:step-1": (2, "did you mean step-"),
    "explain a.png dog --model open-clip:ViT-B-16": (2, "did you mean open_clip:ViT-B-16?"),
    "explain a.png dog --model open_clip:ViT-B-61": (2, "did you mean ViT-B-16"),
    "explain a.png dog --model open_clip:ViT-B-16/none.pt": (2, "no such file"),
    "explain a.png dog --model openai/clip-vit-base-patch16": (2, "did you mean hf:openai/clip"),
    "explain a.png dog --model hf:./none": (2, "there is no folder 'none'"),
    "explain a.png dog --model timm:vit_base_patch16_224/none.pt": (2, "no such file"),
    "explain a.png dog --image-size big": (2, "expected HEIGHTxWIDTH"),
    "explain a.png dog --memory lots": (2, "expected a size"),
    "explain a.png dog -o a.png": (2, "in the way of the output folder"),
    "explain none.png dog": (2, "no such file"),
    "explain a.png a.png dog": (2, "the name of a file, expected a text; for several images"),
    "explain a.png b.JPG dog": (2, "the name of a file, expected a text"),
    "audit grad-eclp": (2, "did you mean grad-eclip"),
    "audit grad-eclip --set head=one": (2, "did you mean heads?"),
    "audit none.py:method": (2, "none.py: no such file"),
    "audit grad-eclip --model scenez": (2, "did you mean scenes?"),
    "audit grad-eclip --data none": (2, "got no folder none"),
    "audit grad-eclip --data coc:x": (2, "did you mean coco"),
    "audit grad-eclip -o a.png": (2, "in the way of the output folder"),
    "benchmark --methods grad-eclp": (2, "did you mean grad-eclip"),
    "benchmark --methods gae --set gae.x=1": (2, "gae"),
    "benchmark --metrics delition": (2, "did you mean deletion"),
    "benchmark --metrics deletion:stepz=3": (2, "did you mean steps?"),
    "benchmark --entry none.py:method": (2, "none.py: no such file"),
    "benchmark --model scenez": (2, "did you mean scenes?"),
    "benchmark --data none": (2, "got no folder none"),
    "prove grad-eclp attention-eclip": (2, "did you mean grad-eclip"),
    "prove grad-eclip attention-eclip --model scenez": (2, "did you mean scenes?"),
    "prove grad-eclip attention-eclip -o a.png": (2, "in the way of the output folder"),
    "reproduce --only z": (2, "unknown experiment 'z'"),
    "reproduce --model scenez": (2, "did you mean scenes?"),
    "reproduce --imagenet none": (2, "none is not a folder"),
}
RUN = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # whoever imports it fails
from heatproof.cli import main as cli
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(line.split())
        except ImportError as error:
            code = repr(error)
    print(json.dumps([line, code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """All command lines, in one process that cannot import torch."""
    folder = tmp_path_factory.mktemp("answers")
    from PIL import Image

    Image.new("RGB", (8, 8)).save(folder / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(list(ANSWERS)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {line: rest for line, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("line", ANSWERS)
def test_answered_without_torch(answered, line):
    """Break: import torch in `index`, or create the method before the model's name is checked."""
    code, out, err = answered[line]
    wanted, words = ANSWERS[line]
    assert code == wanted, err
    assert words in (out if wanted == 0 else err)
    assert len(err.splitlines()) == (wanted != 0)


def test_the_index_is_the_catalogue_of_methods():
    """Break: change a card, or add a method, and do not write the index."""
    known = methods.catalogue()
    assert set(index.methods()) == set(known), WRITE
    fields = [key for key in MethodCard.__dataclass_fields__ if key != "options"]
    for name, listed in index.methods().items():
        card = json.loads(json.dumps({key: getattr(known[name], key) for key in fields}))
        assert listed.card == card, WRITE
        assert listed.options == known[name].options, WRITE


def test_the_index_is_the_catalogue_of_metrics():
    known = metrics.catalogue()
    assert set(index.metrics()) == set(known), WRITE
    for name, listed in index.metrics().items():
        assert listed.options == known[name].options, WRITE


def test_the_other_names_are_those_of_the_code():
    assert tuple(reproducing.EXPERIMENTS) == index.EXPERIMENTS
    for name in index.SCORES:
        scores.create(name)
        index.check_score(name)
    with pytest.raises(InputError, match="did you mean"):
        index.check_score("cosin")


def test_open_clips_models_are_known_without_open_clip(monkeypatch):
    """Break: glob another folder of open_clip's."""
    import open_clip

    monkeypatch.delitem(sys.modules, "open_clip")
    assert set(specs.open_clip_models()) >= set(open_clip.list_models()) - {"scenes"}
    assert "ViT-B-16" in specs.open_clip_models()


def test_models_that_are_checked_are_those_that_load():
    from heatproof.models import scenes

    assert scenes.checkpoints() == specs.checkpoints()
    with pytest.raises(ModelError, match=r"heatproof\.wrap\(model\)"):
        specs.check(print)
    with pytest.raises(ModelError, match="try hf:some/folder"):
        specs.check(Path("some/folder"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("GradECLIP", "grad-eclip"), ("grad_eclip", "grad-eclip"), ("KernelSHAP", "kernel-shap"),
     ("Rollout", "rollout"), ("attentionXgradient", "attention-x-gradient")],
)  # fmt: skip
def test_case_and_marks_do_not_hide_what_was_meant(typed, meant):
    """Break: compare by difflib alone, which finds no method near "GradECLIP"."""
    assert nearest(typed, index.methods()) == [meant]
