"""Masks, annotations and names that are easily read as something else: each is read as it is meant,
or refused in one line, and what is left out is counted."""

import json
import shlex
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as peer

import tiny_sets as sets
from heatproof import data
from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.layouts import coco as captioned
from heatproof.data.layouts.classes import numbered_names, role_of
from heatproof.data.lazy import Files
from heatproof.data.polygons import filled
from heatproof.errors import InputError
from tiny_sets import BOX, SECOND, rectangle

OBJECT, OTHER = rectangle(BOX), rectangle(SECOND)


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


# --- masks of one object ----------------------------------------------------------------------


def saved(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def grey(values, dtype=np.uint8):
    return Image.fromarray(np.asarray(values).astype(dtype))


def palette(values, colours):
    image = Image.frombytes("P", (40, 30), np.asarray(values, dtype=np.uint8).tobytes())
    image.putpalette([level for colour in colours for level in colour])
    return image


def coloured(pairs, mode="RGB"):
    pixels = np.zeros((30, 40, len(mode)), dtype=np.uint8)
    for mask, colour in pairs:
        pixels[mask] = colour
    return Image.fromarray(pixels, mode)


EVERYWHERE = rectangle((0, 0, 40, 30))
RIM = rectangle((19, 4, 31, 11)) & ~OBJECT
RINGING = np.where(OBJECT, 253, 0) + np.indices((30, 40)).sum(0) % 3
SOFT = OBJECT * 255
SOFT[BOX[1], BOX[0] : BOX[2]] = np.linspace(60, 120, 10).astype(int)

RIGHT = {
    "0, 1 and void 255": (grey(OBJECT + 255 * RIM), OBJECT, ~RIM),
    "0, 7 and void 255": (grey(7 * OBJECT + 255 * RIM), OBJECT, ~RIM),
    "16 bits, 0, 1 and void 65535": (grey(OBJECT + 65535 * RIM, np.uint16), OBJECT, ~RIM),
    "16 bits, 0, 1 and void 255": (grey(OBJECT + 255 * RIM, np.uint16), OBJECT, ~RIM),
    "palette, 0, 1 and void 255": (
        palette(OBJECT + 255 * RIM, [(0, 0, 0), (128, 0, 0)] + [(9, 200, 9)] * 254), OBJECT, ~RIM),
    "floats, 0, 1 and void 255": (grey(OBJECT + 255 * RIM, np.float32), OBJECT, ~RIM),
    "trimap": (grey(255 * OBJECT + 128 * RIM), OBJECT, ~RIM),
    "quantized to two colours, white most": (
        grey(255 * ~OBJECT).quantize(2), ~OBJECT, None),
    "quantized to two colours, black most": (grey(255 * OBJECT).quantize(2), OBJECT, None),
    "palette, white first": (palette(~OBJECT, [(255,) * 3, (0,) * 3]), OBJECT, None),
    "palette, white last": (palette(OBJECT, [(0,) * 3, (255,) * 3]), OBJECT, None),
    "16 bits": (grey(OBJECT * 65535, np.uint16), OBJECT, None),
    "16 bits of 8": (grey(OBJECT * 255, np.uint16), OBJECT, None),
    "floats": (grey(OBJECT * 1.0, np.float32), OBJECT, None),
    "truth values": (Image.fromarray(OBJECT), OBJECT, None),
    "ringing of JPEG": (grey(RINGING), OBJECT, None),
    "soft rim": (grey(SOFT), SOFT > 127, None),
    "grey with a loss": (coloured([(OBJECT, (255, 254, 255))]), OBJECT, None),
    "nothing": (grey(0 * OBJECT), 0 * OBJECT > 0, None),
    "everywhere": (grey(EVERYWHERE * 255), EVERYWHERE, None),
    "clear around the object": (
        coloured([(EVERYWHERE, (9, 9, 9, 0)), (OBJECT, (200, 90, 10, 255))], "RGBA"), OBJECT, None),
    "opaque, white on black": (
        coloured([(EVERYWHERE, (0, 0, 0, 255)), (OBJECT, (255,) * 4)], "RGBA"), OBJECT, None),
    "clear around many colours": (
        Image.fromarray(np.dstack([np.arange(3600).reshape(30, 40, 3) % 251, OBJECT * 255]).astype(
            np.uint8)), OBJECT, None),
    "one colour on black": (coloured([(OBJECT, (0, 0, 255))]), OBJECT, None),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_mask_is_read_as_it_is_meant(tmp_path, name):
    image, wanted, judged = RIGHT[name]
    path = saved(tmp_path / ("a.tif" if image.mode == "F" else "a.png"), image)
    marked = masks.binary(path)
    assert np.array_equal(marked.mask, wanted)
    if judged is None:
        assert marked.judged is None
    else:
        assert np.array_equal(marked.judged, judged)


WRONG = {
    "1 and 2, no 0": (grey(1 + OBJECT), "the numbers 1, 2 and no 0"),
    "1 alone": (grey(0 * OBJECT + 1), "every pixel has the value 1"),
    "50 and 200": (grey(50 + 150 * OBJECT), "the numbers 50, 200 and no 0"),
    "1 and void, no 0": (grey(np.where(RIM, 255, 1)), "the numbers 1, 255 and no 0"),
    "two numbers and void": (grey(OBJECT + 2 * OTHER + 255 * RIM), "0, 1, 2, 255, expected"),
    "numbers over 32": (grey(40 * OBJECT + 90 * OTHER), "the numbers 0, 40, 90"),
    "instances over 255": (grey(1000 * OBJECT + 1001 * OTHER, np.uint16), "0, 1000, 1001"),
    "one number over 32 beside void": (grey(62 * OBJECT + 255 * RIM), "0, 62, 255"),
    "quantized numbers": (grey(OBJECT * 80 + OTHER * 160).quantize(4), "a palette of the indices"),
    "a palette whose index 0 is light": (
        palette(OBJECT, [(250, 240, 0), (0, 0, 90)]), "index 0 is not its darkest"),
    "two colours on black": (coloured([(OBJECT, (255, 0, 0)), (OTHER, (0, 255, 0))]),
                             "a mask of 3 colours"),
    "a colour on white": (coloured([(EVERYWHERE, (255,) * 3), (OBJECT, (255, 0, 0))]),
                          "a mask of 2 colours"),
    "black, white and clear": (
        coloured([(OTHER, (0, 0, 0, 255)), (OBJECT, (255,) * 4)], "RGBA"),
        "2 colours and clear pixels"),
    "clear everywhere": (coloured([(OBJECT, (255, 255, 255, 0))], "RGBA"), "clear everywhere"),
    "a photograph": (grey(np.random.default_rng(0).integers(0, 256, (30, 40))), "0, 1, 2, .*, exp"),
    "no number": (grey(np.where(OBJECT, np.nan, 0), np.float32), "not finite"),
    "below zero": (grey(OBJECT * 2.0 - 1, np.float32), "values below 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mask_of_two_meanings_is_refused_with_its_values(tmp_path, name):
    image, text = WRONG[name]
    path = saved(tmp_path / ("a.tif" if image.mode == "F" else "a.png"), image)
    with pytest.raises(InputError, match=text) as error:
        masks.binary(path)
    assert one_line(error).startswith(str(path))
    assert "save" in str(error.value) or "expected 0 to white" in str(error.value)


def test_void_is_void_where_the_background_is_clear_too(tmp_path):
    values = OBJECT + 255 * RIM
    grey(values).save(tmp_path / "a.png", transparency=0)
    palette(values, [(0, 0, 0), (128, 0, 0)] + [(9, 200, 9)] * 254).save(
        tmp_path / "b.png", transparency=0
    )
    for name in ("a.png", "b.png"):
        marked = masks.binary(tmp_path / name)
        assert np.array_equal(marked.mask, OBJECT)
        assert np.array_equal(marked.judged, ~RIM)


def test_a_file_of_several_masks_is_refused(tmp_path):
    pages = [grey(255 * OBJECT), grey(255 * OTHER)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="2 pages"):
        masks.binary(tmp_path / "a.tif")


def test_a_mask_with_an_orientation_of_its_own_is_turned(tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = sets.stored(grey(255 * OBJECT), orientation)
        stored.save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(masks.binary(tmp_path / "a.png").mask, OBJECT)
        sets.stored(grey(OBJECT), orientation).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(masks.numbers(tmp_path / "a.png"), OBJECT)


def in_class_folders(root, **files):
    for name, image in files.items():
        sets.photo(root / "images" / f"{name}.jpg", BOX, SECOND)
        saved(root / "masks" / "dog" / f"{name}.png", image)
    return root


def test_void_is_unjudged_in_a_folder_and_cannot_be_an_object_elsewhere(tmp_path):
    root = in_class_folders(tmp_path, a=grey(OBJECT + 255 * RIM))
    (thing,) = data.open(root).things[0]
    assert np.array_equal(thing.mask, OBJECT)
    assert np.array_equal(thing.judged, ~RIM)
    in_class_folders(root, b=grey(255 * RIM))
    with pytest.raises(InputError, match=r"b\.png has an object of .* and in .*a\.png") as error:
        data.open(root).held()
    one_line(error)


def test_jpeg_masks_are_read_and_jpeg_numbers_are_refused(tmp_path):
    sets.photo(tmp_path / "images" / "a.jpg", BOX)
    saved(tmp_path / "masks" / "dog" / "a.jpg", grey(255 * OBJECT))
    (thing,) = data.open(tmp_path).things[0]
    assert (thing.mask != OBJECT).sum() < 3
    (tmp_path / "masks" / "dog" / "a.jpg").rename(tmp_path / "masks" / "a.jpg")
    (tmp_path / "masks" / "dog").rmdir()
    sets.written(tmp_path / "classes.txt", "dog\n")
    with pytest.raises(InputError, match="a JPEG, which changes numbers"):
        data.open(tmp_path).held()


def test_what_is_no_mask_and_what_has_none_is_counted(tmp_path):
    root = in_class_folders(tmp_path, a=grey(255 * OBJECT), b=grey(0 * OBJECT))
    for name in "cdef":
        sets.photo(root / "images" / f"{name}.jpg")
    sets.written(root / "masks" / "dog" / "a.npy", "x")
    sets.photo(root / "images" / "more" / "z.jpg")
    sets.written(root / "masks" / "dog" / "._a.png", "what a Mac leaves there")
    sets.written(root / "masks" / ".ipynb_checkpoints" / "a.png", "x")
    found = data.open(root)
    assert found.prompts == ("a dog",)
    found = found.held()
    assert found.notices == (
        "files and folders left out, where none is read: 2 (images/more, dog/a.npy)",
        "images left out, without a mask: 4 (c.jpg, d.jpg, e.jpg, ...)",
        "objects without a pixel (empty masks, or covered from sight): 1 (b.jpg, object 1)",
    )
    assert found.chosen([0]).held().notices == found.notices  # each item is counted once


def test_names_that_are_not_read_are_named(tmp_path):
    root = in_class_folders(tmp_path, a=grey(255 * OBJECT))
    sets.written(root / "classes.txt", "cat\n")
    assert data.open(root).notices == (
        "classes.txt is not read: the folders in masks/ name the classes",
    )


def test_numbers_as_masks_are_not_taken_for_truth_values():
    """`__post_init__` by itself: under test, the types of arguments are checked before it."""
    for values in (OBJECT * 1, OBJECT * 255, OBJECT.astype(float), OBJECT.tolist()):
        with pytest.raises(InputError, match="truth values"):
            Instance.__post_init__(SimpleNamespace(mask=values, judged=None))
    with pytest.raises(InputError, match="a judged of"):
        Instance.__post_init__(SimpleNamespace(mask=OBJECT, judged=OBJECT[:3]))


# --- classes ----------------------------------------------------------------------------------


NAMES = [
    ("dog\ncat\n", {1: "dog", 2: "cat"}),
    ("background\ndog\ncat\n", {0: "background", 1: "dog", 2: "cat"}),
    ("_background_\ndog\ncat", {0: "_background_", 1: "dog", 2: "cat"}),
    ("__ignore__\n_background_\ndog\n", {-1: "__ignore__", 0: "_background_", 1: "dog"}),
    ("0: background\n1: dog\n5: cat\n", {0: "background", 1: "dog", 5: "cat"}),
    ("1 dog\n2 cat\n", {1: "dog", 2: "cat"}),
    ("1, dog\n2, cat\n", {1: "dog", 2: "cat"}),
    ("dog\nbackground\ncat\n", {1: "dog", 2: "background", 3: "cat"}),
    ("3 wheeler\ncar\n", {1: "3 wheeler", 2: "car"}),
]


@pytest.mark.parametrize(("text", "wanted"), NAMES)
def test_each_name_gets_the_number_that_is_meant(tmp_path, text, wanted):
    assert numbered_names(sets.written(tmp_path / "classes.txt", text)) == wanted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog\n\ncat\n", "line 2 is empty"),
        ("0: dog\n1: cat\n", "number 0 is 'dog', but 0 is the background"),
        ("void\ndog\n", "not clear whether its number is 0 or 1"),
        ("1: dog\ncat\n", r"line 1 \('1: dog'\) has a number and line 2 \('cat'\) has none"),
        ("1: dog\n1: cat\n", "number 1 more than once"),
        ("\n", "names no class"),
    ],
)
def test_names_whose_numbers_are_not_clear_are_refused(tmp_path, text, expected):
    path = sets.written(tmp_path / "classes.txt", text)
    with pytest.raises(InputError, match=expected) as error:
        numbered_names(path)
    assert str(path) in one_line(error)


LABELME = ("__ignore__", "_background_", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus")


def numbered(root, values, names, dtype=np.uint8):
    sets.photo(root / "images" / "a.jpg", BOX, SECOND)
    sets.grey(root / "masks" / "a.png", values, dtype)
    sets.written(root / "classes.txt", "\n".join(names) + "\n")
    return root


def test_labelmes_own_classes_are_read_as_labelme_numbers_them(tmp_path):
    found = data.open(numbered(tmp_path, 6 * OBJECT + 255 * RIM, LABELME))
    assert found.prompts == tuple(f"a {name}" for name in LABELME[2:])
    (thing,) = found.things[0]
    assert found.prompts[thing.label] == "a bus"
    assert np.array_equal(thing.mask, OBJECT)
    assert np.array_equal(thing.judged, ~RIM)
    assert found.notices == (
        "classes that are no objects, and no prompts: 2 (__ignore__, _background_)",
    )


def test_two_numbers_of_a_name_are_one_class_and_void_by_name_is_unjudged(tmp_path):
    values = OBJECT + 2 * OTHER + 3 * RIM
    found = data.open(numbered(tmp_path, values, ("dog", "dog", "void", "cat")))
    assert found.prompts == ("a dog", "a cat")
    (thing,) = found.things[0]
    assert np.array_equal(thing.mask, OBJECT | OTHER)
    assert np.array_equal(thing.judged, ~RIM)


def test_255_is_a_class_where_so_many_are_named(tmp_path):
    names = [f"kind {n}" for n in range(1, 301)]
    values = 255 * OBJECT + 300 * OTHER + 65535 * RIM
    found = data.open(numbered(tmp_path, values, names, np.uint16))
    assert [found.prompts[t.label] for t in found.things[0]] == ["a kind 255", "a kind 300"]
    assert np.array_equal(found.things[0][0].judged, ~RIM)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (grey(3 * OBJECT + 7 * OTHER).quantize(3), "indices 0, 1, 2 have the greys 7, 3, 0: "),
        (grey(np.where(OBJECT, -1, 0), np.int32), "a pixel of number -1, but"),
        (grey(9 * OBJECT), "a pixel of number 9, but classes.txt names the numbers 1 to 8"),
    ],
)
def test_numbers_that_no_class_has_or_two_may_have_are_refused(tmp_path, image, text):
    root = numbered(tmp_path, OBJECT, list("abcdefgh"))
    (root / "masks" / "a.png").unlink()
    saved(root / "masks" / ("a.tif" if image.mode == "I" else "a.png"), image)
    with pytest.raises(InputError, match=text) as error:
        data.open(root).held()
    one_line(error)


def test_a_picture_with_two_masks_of_numbers_is_refused(tmp_path):
    root = numbered(tmp_path, OBJECT, ["dog"])
    sets.grey(root / "masks" / "a.1.png", OTHER)
    with pytest.raises(InputError, match=r"a\.1\.png and a\.png for a\.jpg"):
        data.open(root)


@pytest.mark.parametrize(
    "name", ["background", "_background_", "__background__", "BG", "__ignore__", "Void", "ignore",
             "unlabeled", "don't care"],
)  # fmt: skip
def test_names_of_no_object_are_known(name):
    assert role_of(name) != "object"
    assert role_of(f"{name} dog") == "object"


def test_class_folders_of_no_object_are_no_prompts_and_folders_without_images_no_classes(tmp_path):
    root = in_class_folders(tmp_path / "a", a=grey(255 * OBJECT))
    saved(root / "masks" / "_background_" / "a.png", grey(255 * ~OBJECT))
    saved(root / "masks" / "void" / "a.png", grey(255 * RIM))
    found = data.open(root)
    assert found.prompts == ("a dog",)
    (thing,) = found.things[0]
    assert np.array_equal(thing.judged, ~RIM)
    beside = tmp_path / "b"
    for name in ("dog", "background"):
        sets.photo(beside / name / "a.jpg", BOX)
        sets.grey(beside / name / "a.png", OBJECT * 255)
    (beside / "docs").mkdir()
    found = data.open(beside)
    assert found.prompts == ("a dog",)
    assert len(found) == 1
    assert "folders left out, without an image: 1 (docs)" in found.notices


# --- COCO's JSON ------------------------------------------------------------------------------


def instances(root, *notes, categories=None, **image):
    sets.photo(root / "images" / "a.jpg", BOX, SECOND)
    sets.written(root / "instances.json", {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, **image}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 4, **note}
                        for n, note in enumerate(notes, 1)],
        "categories": categories or [{"id": 4, "name": "dog"}, {"id": 5, "name": "cat"}],
    })  # fmt: skip
    return root


FLAT = sets.square(BOX)[0]
PAIRS = [[x, y] for x, y in zip(FLAT[::2], FLAT[1::2], strict=True)]


@pytest.mark.parametrize("code", [[FLAT], FLAT, PAIRS, [PAIRS], [FLAT, [1, 1, 2, 2]]])
def test_points_are_read_however_they_are_nested(tmp_path, code):
    found = data.open(instances(tmp_path, {"segmentation": code}))
    assert np.array_equal(found.things[0][0].mask, OBJECT)
    stray = "polygons without an area (one or two points) of: 1 (annotation 1)"
    assert (stray in found.notices) == (len(code) == 2)


def test_a_box_alone_is_the_object_and_said_so(tmp_path):
    left, top, right, bottom = BOX
    box = [left, top, right - left, bottom - top]
    for n, note in enumerate(({"bbox": box}, {"bbox": box, "segmentation": []})):
        found = data.open(instances(tmp_path / str(n), note))
        assert np.array_equal(found.things[0][0].mask, OBJECT)
        assert found.notices == (
            "objects with a box and no mask, read as the whole box: 1 (annotation 1)",
        )


@pytest.mark.parametrize(
    ("note", "text"),
    [
        ({"segmentation": [[20, 5, 30, 10]]}, "polygons of at most 2 points, expected three"),
        ({"segmentation": [[0.5, 0.2, 0.7, 0.2, 0.7, 0.4]]}, "coordinates from 0 to 0.7, expected"),
        ({"segmentation": [[200, 50, 300, 50, 300, 100]]}, r"from \(200, 50\) to \(300, 100\)"),
        ({"segmentation": [[1, 1, 1e9, 1, 5, 5]]}, "expected it in its image of 40 x 30"),
        ({"segmentation": [[1, 1, 5, 1, 5]]}, "a polygon of 5 numbers"),
        ({"segmentation": [[1, 1, 5, 1, 5, float("nan")]]}, "not finite"),
        ({"segmentation": [{"x": 1, "y": 2}]}, "expected numbers"),
        ({"bbox": [0.5, 0.2, 0.1, 0.1]}, "shares of the image"),
        ({"bbox": [20, 5, 300, 100]}, r"from \(20, 5\) to \(320, 105\)"),
        ({"bbox": [20, 5, 0, 0]}, "with an area"),
        ({"segmentation": []}, "annotation 1 has no segmentation"),
    ],
)
def test_polygons_that_mean_something_else_are_refused_when_the_set_is_opened(tmp_path, note, text):
    with pytest.raises(InputError, match=text) as error:
        data.open(instances(tmp_path, note))
    assert "instances.json" in one_line(error)


def test_a_crowd_is_no_object_in_any_layout(tmp_path):
    crowd = {"segmentation": [[0, 0, 40, 0, 40, 3, 0, 3]], "iscrowd": 1}
    single = {"segmentation": [FLAT]}
    found = data.open(instances(tmp_path / "own", single, crowd))
    (thing,) = found.things[0]
    assert np.array_equal(thing.mask, OBJECT)
    assert np.array_equal(thing.judged, ~rectangle((0, 0, 40, 3)))
    said = "crowds (iscrowd), which are no objects: not judged: 1 (annotation 2)"
    assert found.notices == (said,)
    official = data.open(f"coco:{sets.coco(tmp_path / 'official')}")
    assert official.notices == (
        "images left out, with a category as a crowd alone: 1 (000000000009.jpg)",
        "images left out, without an object: 1 (000000000011.jpg)",
        "crowds (iscrowd), which are no objects: not judged: 1 (annotation 3)",
    )
    cat = crowd | {"category_id": 5}
    with pytest.raises(InputError, match="no picture with an instance"):
        data.open(instances(tmp_path / "alone", single, cat))


def test_crowds_are_known_by_text_and_refused_where_not_clear(tmp_path):
    note = {"segmentation": [FLAT], "iscrowd": "0"}
    assert len(data.open(instances(tmp_path / "a", note)).things[0]) == 1
    with pytest.raises(InputError, match="annotation 1 has iscrowd 'no'"):
        data.open(instances(tmp_path / "b", note | {"iscrowd": "no"}))


def test_masks_beside_a_json_are_named(tmp_path):
    root = instances(tmp_path, {"segmentation": [FLAT]})
    sets.grey(root / "masks" / "cat" / "a.png", OTHER)
    assert data.open(root).notices == ("masks/ lies beside instances.json and is not read",)


def test_a_crowds_category_is_not_absent_for_the_paper(tmp_path):
    root = sets.coco(tmp_path)
    captions = [{"id": 1, "image_id": 9, "caption": "Cats and a dog."}]
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 9]
    sets.written(root / "annotations" / "instances_val2017.json", content)
    sets.written(root / "annotations" / "captions_val2017.json",
                 {"images": content["images"], "annotations": captions})  # fmt: skip
    (picture,) = captioned(root)
    assert [name for name, _ in picture.instances] == ["dog"]
    assert picture.crowds == {"cat"}


def test_a_federated_set_says_what_is_absent_and_is_not_complete(tmp_path):
    categories = [{"id": n, "name": name} for n, name in enumerate(("dog", "cat", "owl", "car"), 4)]
    root = instances(
        tmp_path,
        {"segmentation": [FLAT]},
        {"segmentation": [sets.square(SECOND)[0]], "category_id": 5},
        categories=categories,
        neg_category_ids=[6],
        not_exhaustive_category_ids=[5],
    )
    content = json.loads((root / "instances.json").read_text())
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/a.jpg"
    sets.written(root / "instances.json", content)  # LVIS has no file_name
    found = data.open(root)
    assert not found.complete
    assert [found.prompts[label] for label in found.absent[0]] == ["a owl"]
    assert [found.prompts[thing.label] for thing in found.things[0]] == ["a dog"]
    assert any("as LVIS does" in notice for notice in found.notices)
    assert (
        "objects left out, of categories that their image lists in part: 1 (annotation 2)"
        in found.notices
    )


def test_categories_of_no_object_are_no_prompts(tmp_path):
    names = ["_background_", "__ignore__", "animals", "dog"]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    categories[3]["supercategory"] = "animals"
    notes = [
        {"segmentation": [FLAT], "category_id": 3},
        {"segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]], "category_id": 0},
        {"segmentation": [sets.square(SECOND)[0]], "category_id": 1},
    ]
    found = data.open(instances(tmp_path, *notes, categories=categories))
    assert found.prompts == ("a dog",)
    (thing,) = found.things[0]
    assert np.array_equal(thing.judged, ~OTHER)
    assert found.notices == (
        "categories that only group others, and no prompts: 1 (animals)",
        "classes that are no objects, and no prompts: 2 (_background_, __ignore__)",
        "annotations of no object (background, void): 2 (annotation 2, annotation 3)",
    )


def test_a_category_that_groups_others_is_named(tmp_path):
    categories = [
        {"id": 4, "name": "vehicle", "supercategory": "vehicle"},
        {"id": 5, "name": "car", "supercategory": "vehicle"},
    ]
    notes = [{"segmentation": [FLAT]}, {"segmentation": [FLAT], "category_id": 5}]
    found = data.open(instances(tmp_path, *notes, categories=categories))
    assert found.prompts == ("a vehicle", "a car")
    (line,) = found.notices
    assert line.startswith("categories that group others and have objects too, absent where")
    assert line.endswith(": 1 (vehicle)")


def test_categories_of_one_name_are_one_prompt(tmp_path):
    categories = [{"id": 4, "name": "hot dog"}, {"id": 9, "name": "hot_dog"}]
    crowd = {"segmentation": [sets.square(SECOND)[0]], "category_id": 9, "iscrowd": 1}
    notes = [{"segmentation": [FLAT]}, {"segmentation": [FLAT], "category_id": 9}, crowd]
    found = data.open(instances(tmp_path, *notes, categories=categories))
    assert found.prompts == ("a hot dog",)
    assert [thing.label for thing in found.things[0]] == [0, 0]
    assert all(np.array_equal(thing.judged, ~OTHER) for thing in found.things[0])


def test_annotations_without_an_id_are_counted_each(tmp_path):
    root = instances(tmp_path, *[{"bbox": [1, 2, 3, 4]}] * 3)
    content = json.loads((root / "instances.json").read_text())
    for note in content["annotations"]:
        del note["id"]
    sets.written(root / "instances.json", content)
    (line,) = data.open(root).notices
    assert line.startswith("objects with a box and no mask, read as the whole box: 3 (annotation 1")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["images"].append(c["images"][0]), "2 images, of which only 1 differ"),
        (lambda c: c["images"].append(c["images"][0] | {"id": 2}), "2 images by their file_name"),
        (lambda c: c["categories"].append({"id": 4, "name": "owl"}), "only 2 differ"),
        (lambda c: c["categories"].append({"id": 6, "name": None}), "category 6 has the name None"),
        (lambda c: c["categories"].append({"id": 6, "name": " "}), "category 6 has the name ' '"),
    ],
)
def test_ids_and_files_that_stand_twice_are_refused(tmp_path, change, text):
    root = instances(tmp_path, {"segmentation": [FLAT]})
    content = json.loads((root / "instances.json").read_text())
    change(content)
    sets.written(root / "instances.json", content)
    with pytest.raises(InputError, match=text) as error:
        data.open(root)
    one_line(error)


# --- polygons as COCO's own program draws them ------------------------------------------------


# pycocotools is built for an older NumPy.
PEER = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def drawn(polygons, size):
    return filled([np.array(points, dtype=float).reshape(-1, 2) for points in polygons], size)


def drawn_by_coco(polygons, size):
    codes = peer.frPyObjects([list(map(float, points)) for points in polygons], *size)
    return peer.decode(peer.merge(codes)).astype(bool)


@PEER
@pytest.mark.parametrize("kind", ["inside", "outside", "whole", "halves", "points twice", "parts"])
def test_polygons_have_the_pixels_that_pycocotools_gives_them(kind):
    """Break: floor for ceil in `_inside`; no `back` in `_walk`; 7 steps per pixel."""
    chance = np.random.default_rng(len(kind))
    for _ in range(150):
        size = tuple(chance.integers(1, 70, 2).tolist())
        count = 3 if kind == "parts" else 1
        polygons = []
        for _ in range(count):
            points = chance.random((chance.integers(3, 12), 2)) * size[::-1]
            points = points * 1.8 - 0.4 * np.array(size[::-1]) if kind == "outside" else points
            points = points.round() if kind == "whole" else points
            points = (points * 2).round() / 2 if kind == "halves" else points
            points = points.repeat(2, axis=0) if kind == "points twice" else points
            polygons.append(points.ravel().tolist())
        assert np.array_equal(drawn(polygons, size), drawn_by_coco(polygons, size))


@PEER
@pytest.mark.parametrize(
    "points",
    [
        [3, 3, 3, 3, 3, 3],
        [2, 2, 9, 2, 5, 2],
        [2, 2, 2, 9, 2, 5],
        [0, 0, 12, 0, 12, 9, 0, 9],
        [1, 1, 9, 8, 9, 1, 1, 8],
        [-5, -5, 30, -5, 30, 30, -5, 30],
    ],
)
def test_polygons_without_an_area_or_across_themselves_are_drawn_as_pycocotools_does(points):
    assert np.array_equal(drawn([points], (9, 12)), drawn_by_coco([points], (9, 12)))


@PEER
def test_run_lengths_are_those_of_pycocotools():
    chance = np.random.default_rng(5)
    for _ in range(60):
        mask = chance.random(tuple(chance.integers(1, 60, 2))) < chance.random()
        code = peer.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(masks.decoded(code, mask.shape), mask)
        plain = {"size": list(mask.shape), "counts": sets.runs(mask)}
        again = peer.decode(peer.frPyObjects(plain, *mask.shape)).astype(bool)
        assert np.array_equal(masks.decoded(plain, mask.shape), again)


# --- one level off ----------------------------------------------------------------------------


def mended(spec, text):
    """The set, after the command in the error's line was run."""
    command = text.split("try ", 1)[1].split(", then ")[0]
    subprocess.run(["bash", "-c", command], check=True)
    after = text.split(", then ")[1] if ", then " in text else spec
    return data.open(after)


def images_below(root):
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val2017")


def images_of_a_split(root):
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images" / "val")


def annotations_in_the_root(root):
    (root / "annotations" / "instances_val2017.json").rename(root / "instances_val2017.json")
    (root / "annotations").rmdir()


def another_name(root):
    (root / "annotations" / "instances_val2017.json").rename(root / "annotations.json")
    (root / "annotations").rmdir()
    (root / "val2017").rename(root / "images")


@pytest.mark.parametrize(
    ("kind", "move", "lies"),
    [
        ("coco", images_below, "images/val2017"),
        ("coco", images_of_a_split, "images/val"),
        ("coco", annotations_in_the_root, "instances_val2017.json"),
        ("coco", another_name, "annotations.json"),
        ("folder", another_name, "annotations.json"),
    ],
)
def test_coco_one_level_off_is_answered_with_a_command_that_works(tmp_path, kind, move, lies):
    root = sets.coco(tmp_path / "my set")
    move(root)
    spec = f"{kind}:{root}"
    with pytest.raises(InputError) as error:
        data.open(spec)
    text = one_line(error)
    assert f"{root}/{lies}" in text
    assert len(mended(spec, text)) == 2


def test_a_list_of_another_part_is_offered(tmp_path):
    root = sets.voc(tmp_path / "my set")
    listed = root / "ImageSets" / "Segmentation"
    (listed / "val.txt").rename(listed / "train.txt")
    with pytest.raises(InputError, match=r"it has train\.txt: to read train\.txt instead") as error:
        data.open(f"voc:{root}")
    assert len(mended(f"voc:{root}", one_line(error))) == 2


def test_images_and_masks_in_parts_are_offered_as_a_folder(tmp_path):
    root = tmp_path / "my set"
    for part in ("train", "val"):
        sets.photo(root / "images" / part / f"{part}.jpg", BOX)
        sets.grey(root / "masks" / part / f"{part}.png", OBJECT)
    sets.written(root / "classes.txt", "dog\n")
    with pytest.raises(InputError, match="it has the parts train, val: try cd") as error:
        data.open(root)
    text = one_line(error)
    assert f"cd {shlex.quote(str(root))} && mkdir only-val" in text
    assert mended(str(root), text).photos.paths[0].stem == "val"


# --- public sets ------------------------------------------------------------------------------


def test_voc_with_classes_of_another_set_is_refused(tmp_path):
    root = sets.voc(tmp_path)
    sets.written(root / "class_names.txt", "_background_\ndog\nzebra\n")
    with pytest.raises(InputError, match=r"class_names\.txt names the class 'zebra'"):
        data.open(f"voc:{root}")
    sets.written(root / "class_names.txt", "_background_\ndog\ndiningtable\n")
    assert len(data.open(f"voc:{root}")) == 2


def test_public_sets_count_what_they_leave_out(tmp_path):
    root = sets.voc(tmp_path / "voc")
    sets.written(root / "ImageSets" / "Segmentation" / "val.txt", "a\nb\na\n")
    sets.palette(root / "SegmentationClass" / "b.png", 0 * OBJECT)
    sets.palette(root / "SegmentationObject" / "b.png", 0 * OBJECT)
    found = data.open(f"voc:{root}").held()
    assert len(found) == 2
    assert found.notices == ("images listed more than once in val.txt, read once: 1 (a)",
                             "images without an object in their mask: 1 (b)")  # fmt: skip
    points = data.open(f"openimages:{sets.openimages(tmp_path / 'open')}")
    assert points.notices == ("images left out, without a point that is on its class: 1 (b)",)
    phrases = data.open(f"flickr30k:{sets.flickr30k(tmp_path / 'flickr')}")
    assert phrases.notices == ("phrases left out, without a box: 1 (1: grass)",)
    (tmp_path / "flickr" / "test.txt").unlink()
    phrases = data.open(f"flickr30k:{tmp_path / 'flickr'}")
    assert phrases.notices[0] == "no test.txt: all 2 images with an annotation are read"


def test_imagenet_s_masks_that_are_no_colours_are_refused_and_absent_classes_counted(tmp_path):
    root = sets.imagenet_s(tmp_path)
    path = root / "validation-segmentation" / sets.SYNSETS[0] / f"{sets.SYNSETS[0]}_1.png"
    colours = np.stack([OBJECT * 1, 0 * OBJECT, 0 * OBJECT], -1)  # class 1 has no folder
    sets.grey(path, colours)
    assert data.open(f"imagenet-s:{root}").held().notices == (
        "images whose mask has no pixel of their own class: 1 (n01440764_1.JPEG)",
        "objects left out, of classes without a folder: 1 (n01440764_1.png, class 1)",
    )
    sets.grey(path, OBJECT)
    with pytest.raises(InputError, match="a mask of mode L, expected colours"):
        data.open(f"imagenet-s:{root}").held()


def test_imagenet_names_with_numbers_are_refused(tmp_path):
    root = sets.imagenet_s(tmp_path)
    sets.written(root / "class_names.txt", "0: tench\n1: goldfish\n")
    with pytest.raises(InputError, match=r"begins lines with numbers \('0: tench'\)"):
        data.open(f"imagenet-s:{root}")


def test_refcoco_names_the_split_that_is_read_of_several(tmp_path):
    folder = sets.refcoco(tmp_path)
    assert data.open(f"refcoco:{folder}").notices == ()
    sets.refcoco(tmp_path, "json")
    sets.written(folder / "refs(umd).json", [])
    assert data.open(f"refcoco:{folder}").notices == (
        "of refs(umd).json, refs(unc).json, refs(unc).p the file refs(unc).json is read",
    )


def test_refcoco_refuses_annotations_of_one_number(tmp_path):
    folder = sets.refcoco(tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"].append(content["annotations"][0])
    sets.written(folder / "instances.json", content)
    with pytest.raises(InputError, match="the annotation 10 more than once"):
        data.open(f"refcoco:{folder}")


@pytest.mark.parametrize("template", ["a dog", "{} and {}", "{name}", "{", "{0}"])
def test_a_template_without_a_place_for_the_name_is_refused(tmp_path, template):
    with pytest.raises(InputError, match=r"expected one \{\} where") as error:
        data.open(instances(tmp_path, {"segmentation": [FLAT]}), template=template)
    one_line(error)


# --- what reports say -------------------------------------------------------------------------


def test_the_notices_of_the_data_are_the_benchmarks_and_the_audits():
    from heatproof.auditing.run import Auditor
    from heatproof.benchmarking.result import benchmark

    found = data.open("scenes", most=4)
    found.left_out.add("images left out, without a mask", ["z.jpg"])
    said = "images left out, without a mask: 1 (z.jpg)"
    result = benchmark("raw-attention", data=found, metrics="pointing")
    assert said in result.summary["notices"]
    audit = Auditor("scenes", found, principles=[2], scenes=4).audit("center")
    assert said in audit.notices


def test_of_an_incomplete_set_a_prompt_is_beaten_by_those_alone_that_are_known_to_be_absent():
    """Break: absent is whatever is not listed, as in complete sets."""
    from heatproof import load
    from heatproof.evaluation.task import EvaluationTask

    model, found = load("scenes"), data.open("scenes", most=12)
    named = [{thing.label for thing in things} for things in found.things]
    least = [min(set(range(len(found.prompts))) - labels) for labels in named]
    absent = [frozenset({label}) for label in least[:-1]] + [frozenset()]
    whole = EvaluationTask(model, found).batch(0, 12)
    part = EvaluationTask(model, replace(found, complete=False, absent=absent)).batch(0, 12)
    assert part.index.tolist() == list(range(11))  # of the last nothing is known to be absent
    scores = part.task.scores_of(part.task.encode(part.pixels))
    wanted = [bool(scores[n, part.named[n]] > scores[n, least[n]]) for n in part.index.tolist()]
    assert part.answers == wanted
    assert part.named.tolist() == whole.named[:11].tolist()
    assert part.answers != whole.answers[:11]
    nothing = EvaluationTask(model, replace(found, complete=False)).batch(0, 12)
    assert set(nothing.answers) == {None}


def test_an_incomplete_set_is_no_audits_however_it_is_handed_in():
    from heatproof.auditing.run import Auditor

    photos = Files([])
    with pytest.raises(InputError, match="does not say all that its images show"):
        Auditor(
            "scenes",
            LabelledImages(
                name="mine", photos=photos, things=(), prompts=("a dog",), complete=False
            ),
        )
