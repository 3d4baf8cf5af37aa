"""What is wrong with a set is said in one line that names the file, what came, and what helps."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_sets as sets
from heatproof import data
from heatproof.errors import InputError
from tiny_sets import BOX, SECOND, SYNSETS, rectangle

MAKERS = {
    "imagenet-s": sets.imagenet_s,
    "voc": sets.voc,
    "coco": sets.coco,
    "refcoco": sets.refcoco,
    "openimages": sets.openimages,
    "flickr30k": sets.flickr30k,
}


def folder(root):
    sets.photo(root / "images" / "a.jpg", BOX)
    sets.grey(root / "masks" / "dog" / "a.png", rectangle(BOX) * 255)
    return root


def numbered(root):
    sets.photo(root / "images" / "a.jpg", BOX)
    sets.grey(root / "masks" / "a.png", rectangle(BOX))
    sets.written(root / "classes.txt", "dog\n")
    return root


MAKERS |= {"folder": folder, "numbered": numbered}


def text(path, content):
    return lambda root: sets.written(root / path, content)


def gone(path):
    return lambda root: (root / path).unlink()


def moved(path, to):
    return lambda root: (root / path).rename(root / to)


def cut(path, count=400):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:count])


def mask(path, values, dtype=np.uint8):
    return lambda root: sets.grey(root / path, values, dtype)


def changed(path, change):
    def apply(root):
        content = json.loads((root / path).read_text())
        change(content)
        (root / path).write_text(json.dumps(content))

    return apply


def setting(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def only_others(root):
    for name in "ab":
        sets.coco(root, name)
    (root / COCO).unlink()


COCO = "annotations/instances_val2017.json"
NOTE = ("annotations", 0)
TENCH = f"{SYNSETS[0]}/{SYNSETS[0]}_1"
SMALL = np.zeros((3, 4), dtype=np.uint8)
POINTS = "validation-points.csv"
HEAD = "ImageId,X,Y,Label,EstimatedYesNo\n"

FAULTS = [
    # --- ImageNet-S
    ("imagenet-s", gone(f"validation-segmentation/{TENCH}.png"), r"no mask .*01440764_1\.png"),
    ("imagenet-s", mask(f"validation-segmentation/{TENCH}.png", np.stack([SMALL] * 3, -1)),
     "4 x 3 pixels, its .* 40"),
    ("imagenet-s", cut(f"validation-segmentation/{TENCH}.png", 90), r"_1\.png: (cut|dam)"),
    ("imagenet-s", cut(f"validation/{TENCH}.JPEG"), r"_1\.JPEG: cut short"),
    ("imagenet-s", mask(f"validation-segmentation/{TENCH}.png",
                        np.stack([rectangle(BOX) * 9] * 2 + [rectangle()], -1)),
     r"a pixel of class 2313, expected 0 .* 1 to 3, or 1000"),
    ("imagenet-s", text("ImageNetS_categories_im50.txt", "n01440764\n"), "expected one"),
    ("imagenet-s", text("ImageNetS_categories_im919.txt", "n00000001\n"), "categories lacks"),
    ("imagenet-s", gone("ImageNetS_categories_im919.txt"), "all 50, 300 or 919"),
    ("imagenet-s", moved(f"validation/{SYNSETS[0]}", "validation/n99999999"), "no mask"),
    ("imagenet-s", text("class_names.txt", "one\n"), "1 names for 2 class folders"),
    # --- VOC
    ("voc", gone("ImageSets/Segmentation/val.txt"), r"no list .*val\.txt"),
    ("voc", text("ImageSets/Segmentation/val.txt", "\n"), "names no picture"),
    ("voc", gone("JPEGImages/a.jpg"), r"no picture .*a\.jpg, which val\.txt speaks of"),
    ("voc", gone("SegmentationObject/b.png"), r"no mask .*SegmentationObject/b\.png"),
    ("voc", lambda root: sets.photo(root / "SegmentationClass/a.png"), "a mask of colours"),
    ("voc", lambda root: sets.palette(root / "SegmentationObject/a.png", SMALL), "4 x 3 pixels"),
    ("voc", lambda root: sets.palette(root / "SegmentationClass/a.png", rectangle(BOX) * 77),
     "object 1 is of class 77, expected 1 to 20"),
    ("voc", lambda root: sets.palette(root / "SegmentationClass/a.png", 0 * rectangle(BOX)),
     "object 1 is of class 0"),
    ("voc", text("JPEGImages/a.jpg", "<html>not found</html>"), "a text file, whatever its name"),
    # --- COCO
    ("coco", text(COCO, "{"), "not readable as JSON"),
    ("coco", lambda root: (root / COCO).write_bytes(b"\xff\xfe{}"), r"no UTF-8 text \(byte 0\)"),
    ("coco", text(COCO, "[]"), "no 'images'"),
    ("coco", text(COCO, {"images": [], "annotations": []}), "no 'categories'"),
    ("coco", text(COCO, {"images": [], "annotations": [], "categories": []}), "no picture with"),
    ("coco", text(COCO, {"images": [1], "annotations": [], "categories": []}), "not laid out"),
    ("coco", changed(COCO, setting(*NOTE, "category_id", value=5)), "of category 5, which `cat"),
    ("coco", changed(COCO, setting(*NOTE, "image_id", value=5)), "of image 5, which `images` l"),
    ("coco", changed(COCO, lambda c: c["annotations"][0].pop("segmentation")), "no segmentation"),
    ("coco", changed(COCO, lambda c: c["images"][0].pop("file_name")), "image 7 has the file_name"),
    ("coco", changed(COCO, setting(*NOTE, "segmentation", value={"size": [30, 40]})),
     r"annotation 1 is not laid out as COCO's \(KeyError: 'counts'\)"),
    ("coco", changed(COCO, setting(*NOTE, "segmentation", value=[["a"] * 6])),
     "annotation 1 in .*val2017.json: got .*expected numbers"),
    ("coco", changed(COCO, setting("images", 0, "width", value=41)), "41 x 30 pixels, its pic"),
    ("coco", gone("val2017/000000000003.jpg"), r"no picture .*3\.jpg, which inst"),
    ("coco", moved("val2017", "pictures"), "no folder 'val2017'"),
    ("coco", only_others, "got instances_a.json, instances_b.json .* or one other"),
    # --- RefCOCO
    ("refcoco", gone("refs(unc).p"), r"no refs\(\*\)\.\*|no refs\(unc\)"),
    ("refcoco", text("refs(unc).p", "\x80"), "not readable as a pickle"),
    ("refcoco", text("refs(unc).json", {"a": 1}), r"not laid out as RefCOCO's \(TypeError"),
    ("refcoco", text("refs(unc).json", [{"split": "val"}]), "KeyError: 'image_id'"),
    ("refcoco", text("refs(unc).json", [{"split": "test"}]), "split 'val' .* only test"),
    ("refcoco", text("refs(unc).json", []), "only nothing"),
    ("refcoco", changed("instances.json", lambda c: c["annotations"].pop()),
     "annotation 12 in image 6, which instances"),
    ("refcoco", moved("../images", "../pictures"), "no folder of COCO's train2014; looked for"),
    ("refcoco", gone("../images/mscoco/images/train2014/COCO_train2014_000000000005.jpg"),
     r"no picture .*5\.jpg"),
    # --- Open Images
    ("openimages", gone("oidv7-class-descriptions.csv"), r"no \*class-descriptions\*\.csv"),
    ("openimages", gone(POINTS), "no CSV file of points .* ImageId, X, Y"),
    ("openimages", text("val-2.csv", HEAD), r"got val-2\.csv, validation-points\.csv"),
    ("openimages", text(POINTS, HEAD + "a,2,0,/m/dog,yes\n"), "line 2: X 2, .* shares from 0 to 1"),
    ("openimages", text(POINTS, HEAD + "a,x,0,/m/dog,yes\n"), "line 2: X x"),
    ("openimages", text(POINTS, HEAD + "a,nan,0,/m/dog,yes\n"), "line 2: X nan"),
    ("openimages", text(POINTS, HEAD + "a,0,0,/m/dog,maybe\n"), "'maybe'; expected"),
    ("openimages", text(POINTS, HEAD + "a,0,0\n"), "line 2: the row does not have"),
    ("openimages", text(POINTS, HEAD + "a,0,0,/m/dog,yes,more\n"), "line 2: the row does not"),
    ("openimages", text(POINTS, HEAD + "a,0,0,/m/dog,no\n"), "no point .* yes"),
    ("openimages", text(POINTS, HEAD + "a,0,0,/m/owl,yes\n"), "no name for /m/owl"),
    ("openimages", lambda root: (root / POINTS).write_bytes(HEAD.encode() + b"\xff,0,0,a,yes\n"),
     "not readable as CSV"),
    ("openimages", gone("validation/a.jpg"), r"no picture .*a\.jpg, which validation-points"),
    ("openimages", moved("validation", "somewhere"), "no folder of Open Images' pictures"),
    # --- Flickr30k
    ("flickr30k", text("Annotations/1.xml", "<annotation>"), "not readable as XML"),
    ("flickr30k", text("Annotations/1.xml", '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
                       "<annotation>&b;</annotation>"), "a document type"),
    ("flickr30k", text("Annotations/1.xml", "<annotation/>"), "no size/width"),
    ("flickr30k", text("Annotations/1.xml", sets.flickr_xml(
        "<object><name>1</name><bndbox><xmin>3</xmin></bndbox></object>")), "no ymin"),
    ("flickr30k", text("Annotations/1.xml", sets.flickr_xml(
        sets.flickr_object(["1"], (9, 1, 3, 5)))), "a box from 10, 2 to 3, 5"),
    ("flickr30k", text("Annotations/1.xml", sets.flickr_xml(
        sets.flickr_object(["70"], BOX), size=(41, 30))), "41 x 30 pixels, its picture 40 x 30"),
    ("flickr30k", text("Annotations/1.xml", sets.flickr_xml()), "no phrase with a box"),
    ("flickr30k", gone("Annotations/1.xml"), r"no .*1\.xml"),
    ("flickr30k", gone("Sentences/1.txt"), r"no .*1\.txt"),
    ("flickr30k", gone("flickr30k-images/1.jpg"), r"no picture .*1\.jpg"),
    ("flickr30k", moved("flickr30k-images", "elsewhere"), "no folder of Flickr30k's pictures"),
    # --- folders
    ("folder", mask("masks/dog/b.png", rectangle(BOX)), r"mask .*b\.png and no picture b\.jpg"),
    ("folder", mask("masks/dog/a.png", SMALL), "4 x 3 pixels, its picture 40 x 30"),
    ("folder", gone("images/a.jpg"), "no picture in .*images"),
    ("folder", gone("masks/dog/a.png"), "no mask in"),
    ("folder", moved("images", "pictures"), "masks/ and no images/"),
    ("folder", lambda root: sets.photo(root / "images" / "a.png"), r"a\.jpg and a\.png"),
    ("folder", cut("images/a.jpg", 300), r"a\.jpg: cut short"),
    ("numbered", gone("classes.txt"), r"expected .*classes\.txt"),
    ("numbered", mask("masks/a.png", rectangle(BOX) * 2),
     r"number 2, but classes\.txt names the numbers 1 to 1"),
    ("numbered", lambda root: sets.photo(root / "masks/a.png"), "a mask of colours"),
    ("numbered", gone("masks/a.png"), "no mask in"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spoil", "expected"), FAULTS)
def test_what_is_wrong_is_said_in_one_line(tmp_path, kind, spoil, expected):
    root = MAKERS[kind](tmp_path / "set")
    spec = f"{'folder' if kind == 'numbered' else kind}:{root}"
    data.open(spec).held()  # right before it is spoilt
    spoil(root)
    with pytest.raises(InputError, match=expected) as error:
        data.open(spec).held()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_empty_folder_is_no_set(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    spec = f"{'folder' if kind == 'numbered' else kind}:{tmp_path / 'empty'}"
    with pytest.raises(InputError, match=r"empty, expected") as error:
        data.open(spec)
    assert "\n" not in str(error.value)


def test_a_folder_that_may_not_be_read_is_told_so(tmp_path, monkeypatch):
    """The system's refusal is played: root may read everything."""
    root = folder(tmp_path / "set")

    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match=r"masks cannot be read \(Permission denied\), expected"):
        data.open(str(root))


# --- ImageNet-Segmentation --------------------------------------------------------------------


def cells(change):
    made = sets.segments()
    change(made)
    return made


def first_picture(value):
    return lambda c: c.__setitem__(c["value/img"][0, 0], value)


def first_mask(value):
    return lambda c: c.__setitem__(c[c["value/gt"][0, 0]][0, 0], value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("value/gt"), r"no value\.gt"),
        (lambda c: c.__setitem__("value/gt", c["value/gt"][:1]), "holds 2 img, 1 gt, 2 target"),
        (lambda c: c.update({f"value/{k}": c[f"value/{k}"][:0] for k in ("img", "gt", "target")}),
         "holds no picture"),
        (first_picture(np.zeros((3, 40, 30))), r"picture 0 is float64 of shape \(3, 40, 30\)"),
        (first_mask(np.full((40, 30), 7, np.uint8)), "other values than 0 and 1"),
        (first_mask(np.zeros((30, 40), np.uint8)), "30 x 40 pixels, its picture 40 x 30"),
        (lambda c: c.__setitem__(c["value/target"][0, 0], np.array([[110]])), "the class 'n'"),
    ],
)  # fmt: skip
def test_wrong_contents_of_the_mat_file_are_named(tmp_path, monkeypatch, change, expected):
    made = cells(change)

    class File(dict):
        def __init__(self, *_):
            super().__init__(made)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    sets.mat(tmp_path / "gtsegs_ijcv.mat")
    with pytest.raises(InputError, match=expected) as error:
        data.open(f"imagenet-segmentation:{tmp_path}").held()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"MATLAB 5.0 MAT-file".ljust(600), "MATLAB's format before v7.3"),
        (b"<html>", "no MATLAB file, expected gtsegs_ijcv.mat"),
        (b"", "no MATLAB file"),
    ],
)
def test_a_file_that_is_no_hdf5_is_told_so_before_h5py_is_asked_for(tmp_path, content, expected):
    path = tmp_path / "gtsegs_ijcv.mat"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        data.open(f"imagenet-segmentation:{path}")


def test_a_file_that_h5py_cannot_open_is_told_so(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("Unable to open file\n(truncated)")

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=broken))
    sets.mat(tmp_path / "gtsegs_ijcv.mat")
    with pytest.raises(InputError, match=r"not readable as HDF5 \(Unable to open file \(trunc"):
        data.open(f"imagenet-segmentation:{tmp_path}")


def test_pictures_without_a_mask_are_left_out_and_masks_without_objects_are_empty(tmp_path):
    root = folder(tmp_path)
    sets.photo(root / "images" / "b.jpg", SECOND)
    assert len(data.open(str(root))) == 1
    sets.grey(root / "masks" / "dog" / "b.png", 0 * rectangle(BOX))
    found = data.open(str(root))
    assert [len(things) for things in found.things] == [1, 0]
