"""The door: what is asked for, what is meant where it is not there, and what may be imported."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import heatproof
import tiny_sets as sets
from heatproof import data
from heatproof.data.scenes import single_attribute
from heatproof.errors import InputError, UnknownName
from tiny_sets import BOX, rectangle

SOURCE = Path(data.__file__).parent


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# --- scenes -----------------------------------------------------------------------------------


def test_scenes_are_drawn_by_shape_or_by_colour():
    found = data.open("scenes", most=2, seed=3)
    assert (len(found), found.seed, found.name) == (2, 3, "scenes, shape")
    assert data.open("scenes:shape", most=1).prompts == found.prompts
    assert data.open("scenes:colour", most=1).prompts[0] != found.prompts[0]
    assert heatproof.data is data
    with pytest.raises(UnknownName, match="'color'; did you mean colour"):
        data.open("scenes:color")
    with pytest.raises(InputError, match="most=0, expected at least 1"):
        data.open("scenes", most=0)


def test_a_folder_called_scenes_is_opened_by_its_path(tmp_path, monkeypatch):
    sets.photo(tmp_path / "scenes" / "dog" / "a.jpg", BOX)
    sets.grey(tmp_path / "scenes" / "dog" / "a.png", rectangle(BOX))
    monkeypatch.chdir(tmp_path)
    assert data.open("./scenes").prompts == ("a dog",)
    assert data.open(Path("scenes")).prompts == ("a dog",)
    assert len(data.open("scenes", most=1).prompts) > 1


# --- kinds ------------------------------------------------------------------------------------


def test_every_kind_has_a_paragraph_and_a_reader():
    for name, kind in data.kinds().items():
        assert kind.name == name
        assert len(kind.about) > 150
        assert "\n" not in kind.about
        assert (SOURCE / "layouts" / f"{kind.module}.py").is_file()
        assert kind.spec == f"{name}:PATH"
    docs = (SOURCE.parents[2] / "docs" / "data.md").read_text()
    assert all(kind.about in docs for kind in data.kinds().values())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("vok:/data", r"unknown kind of data 'vok'; did you mean voc\?"),
        ("imagenet:/data", "did you mean imagenet-s"),
        ("qqq:/data", "known: coco, flickr30k, folder"),
        ("voc", r"got 'voc' and no path, expected voc:PATH"),
        ("voc:", r"got 'voc:' and no path, expected voc:PATH; PASCAL VOC 2012"),
        ("scene", r"neither a folder nor a kind of data; did you mean scenes\?"),
        ("nowhere", "got no folder nowhere, expected A folder of images with masks"),
        ("/no/such/place", "there is no /no/such either"),
        ("coco:/no/such", r"got no folder /no/such, expected COCO instances"),
    ],
)
def test_what_cannot_be_meant_is_met_with_what_may_be(spec, expected):
    with pytest.raises(InputError, match=expected) as error:
        data.open(spec)
    one_line(error)


# --- the wrong folder -------------------------------------------------------------------------


def own(root):
    sets.written(root / "instances.json", "{}")
    (root / "images").mkdir(parents=True, exist_ok=True)
    return root


WRONG = [
    ("imagenet-s", sets.imagenet_s, "", ".."),
    ("imagenet-s", sets.imagenet_s, "", "validation"),
    ("voc", sets.voc, "", ".."),
    ("voc", sets.voc, "", "JPEGImages"),
    ("voc", sets.voc, "", "ImageSets/Segmentation"),
    ("coco", sets.coco, "", ".."),
    ("coco", sets.coco, "", "annotations"),
    ("coco", sets.coco, "", "val2017"),
    ("refcoco", sets.refcoco, "refcoco", ""),
    ("openimages", sets.openimages, "", ".."),
    ("openimages", sets.openimages, "", "validation"),
    ("flickr30k", sets.flickr30k, "", "Sentences"),
    ("imagenet-segmentation", lambda root: sets.mat(root / "gtsegs_ijcv.mat"), "", ".."),
    ("folder", own, "", ".."),
    ("folder", own, "", "images"),
]


@pytest.mark.parametrize(("kind", "make", "right", "given"), WRONG)
def test_the_folder_above_and_the_one_below_lead_to_the_right_one(
    tmp_path, kind, make, right, given
):
    root = tmp_path / "sets" / "it"
    make(root)
    with pytest.raises(InputError) as error:
        data.open(f"{kind}:{(root / given).resolve()}")
    assert re.search(rf"expected .*; did you mean {kind}:(.*)\?$", one_line(error))[1] == str(
        root / right
    )


@pytest.mark.parametrize(
    ("given", "kind", "make"),
    [
        ("folder", "voc", sets.voc),
        ("voc", "coco", sets.coco),
        ("coco", "flickr30k", sets.flickr30k),
    ],
)
def test_another_kind_of_set_is_recognised(tmp_path, given, kind, make):
    make(tmp_path)
    with pytest.raises(InputError) as error:
        data.open(f"{given}:{tmp_path}")
    assert one_line(error).endswith(f"try {kind}:{tmp_path}")


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClass", "SegmentationObject"])
def test_a_partial_set_is_told_what_it_lacks(tmp_path, part):
    sets.voc(tmp_path)
    (tmp_path / part).rename(tmp_path / "x")
    with pytest.raises(InputError, match=f"got no {part} in .*, expected PASCAL VOC 2012"):
        data.open(f"voc:{tmp_path}")


def test_a_name_that_is_nearly_right_and_a_file_in_place_of_a_folder(tmp_path):
    sets.voc(tmp_path / "VOC2012")
    with pytest.raises(InputError, match=r"did you mean .*VOC2012\?"):
        data.open(f"voc:{tmp_path / 'VOC2021'}")
    with pytest.raises(InputError, match=r"got the file .*a\.jpg, expected a folder"):
        data.open(f"voc:{tmp_path / 'VOC2012' / 'JPEGImages' / 'a.jpg'}")


# --- what the rest relies on ------------------------------------------------------------------


def test_a_set_that_is_held_is_the_same_in_memory(tmp_path):
    sets.photo(tmp_path / "images" / "a.png", BOX)
    note = sets.annotation(1, 1, 4, sets.square(BOX))
    sets.written(tmp_path / "instances.json", {"images": [{"id": 1, "file_name": "a.png"}],
                 "annotations": [note], "categories": [{"id": 4, "name": "dog"}]})  # fmt: skip
    here = data.open(str(tmp_path))
    there = here.held()
    assert isinstance(there.photos, tuple)
    assert here.prompts == there.prompts
    assert (here.things[0][0].mask == there.things[0][0].mask).all()


def test_data_knows_no_part_of_heatproof_but_errors_checks_and_images():
    allowed = ("heatproof.data", "heatproof.errors", "heatproof.checking", "heatproof.images")
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [f"{node.module}.{each.name}" for each in node.names]
                if isinstance(node, ast.ImportFrom)
                else ([each.name for each in node.names] if isinstance(node, ast.Import) else [])
            )
            for name in names:
                assert not name.startswith("heatproof") or name.startswith(allowed), (file, name)


def test_the_kinds_are_listed_without_importing_what_reads_them():
    code = (
        "import sys, heatproof.data as d; d.kinds(); "
        "print([m for m in ('torch', 'numpy', 'PIL', 'timm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(SOURCE.parents[1])},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_scenes_are_the_same_however_many_are_rendered_at_once(monkeypatch) -> None:
    whole = single_attribute.asked(7)
    monkeypatch.setattr(single_attribute, "AT_ONCE", 3)
    parts = single_attribute.asked(7)
    for one, other in zip(whole.photos, parts.photos, strict=True):
        assert one.tobytes() == other.tobytes()
    for one, other in zip(whole.things, parts.things, strict=True):
        assert [(t.label, t.mask.tolist()) for t in one] == [
            (t.label, t.mask.tolist()) for t in other
        ]
