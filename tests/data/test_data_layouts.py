"""Every layout on a tiny copy of it: which pixels are whose, what is judged, what is left out."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tiny_sets as sets
from heatproof import data
from heatproof.data.layouts.imagenet_segmentation import opened
from heatproof.data.lazy import Lazy
from tiny_sets import BOX, SECOND, SIZE, SYNSETS, rectangle


def named(found, row):
    """(prompt, mask) of each thing, with everything that holds for any set."""
    photo, things = found.photos[row], found.things[row]
    assert photo.mode == "RGB"
    for thing in things:
        assert thing.mask.shape == (photo.height, photo.width)
        assert thing.judged is None or not (thing.mask & ~thing.judged).any()
    return [(found.prompts[thing.label], thing.mask) for thing in things]


def same(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, mask), (_, wanted) in zip(found, expected, strict=True):
        assert np.array_equal(mask, wanted), name
    return True


def lies_on_the_object(photo, mask):
    """The pictures are white where their objects are."""
    inside = np.asarray(photo.convert("L"))[mask]
    return inside.mean() > 200 and inside.size > 0


# --- ImageNet-S -------------------------------------------------------------------------------


def test_imagenet_s_numbers_classes_in_sorted_order_and_leaves_1000_unjudged(tmp_path):
    found = data.open(f"imagenet-s:{sets.imagenet_s(tmp_path)}")
    assert found.prompts == ("a photo of a tench.", "a photo of a goldfish.")
    same(named(found, 0), [("a photo of a tench.", rectangle(BOX))])
    other = rectangle((0, 0, 1, 1))
    same(named(found, 1), [("a photo of a goldfish.", rectangle(BOX)),
                           ("a photo of a tench.", other)])  # fmt: skip
    assert all(np.array_equal(t.judged, ~rectangle(SECOND)) for t in found.things[1])
    assert not found.complete


def test_imagenet_s_pixels_of_a_merged_class_have_the_id_of_the_class_it_went_into(tmp_path):
    old, new = "n04356056", "n04355933"  # sunglasses, sunglass
    sets.written(tmp_path / "ImageNetS_categories_im919.txt", f"{new}\n{SYNSETS[0]}\n")
    sets.photo(tmp_path / "validation" / old / "a.JPEG", BOX)
    ids = rectangle(BOX) * 2
    sets.grey(
        tmp_path / "validation-segmentation" / old / "a.png", np.stack([ids, 0 * ids, 0 * ids], -1)
    )
    same(named(data.open(f"imagenet-s:{tmp_path}"), 0),
         [("a photo of a sunglasses.", rectangle(BOX))])  # fmt: skip


# --- VOC --------------------------------------------------------------------------------------


def test_voc_objects_of_a_class_are_things_of_their_own_and_void_is_unjudged(tmp_path):
    found = data.open(f"voc:{sets.voc(tmp_path)}")
    assert len(found.prompts) == 20
    dog, cat = "a photo of a dog.", "a photo of a cat."
    same(named(found, 0), [(dog, rectangle(BOX)), (dog, rectangle(SECOND)),
                           (cat, rectangle((0, 0, 4, 4)))])  # fmt: skip
    void = ~found.things[0][0].judged
    assert void[29].all()
    assert void.sum() == 40
    same(named(found, 1), [("a photo of a person.", rectangle(BOX))])
    assert found.things[1][0].judged is None
    assert lies_on_the_object(found.photos[1], found.things[1][0].mask)
    assert found.complete


# --- COCO -------------------------------------------------------------------------------------


def test_coco_crowds_are_unjudged_for_their_category_and_no_things(tmp_path):
    found = data.open(f"coco:{sets.coco(tmp_path)}")
    # By id; 9 shows cats in a crowd alone, 11 shows nothing.
    assert [path.name for path in found.photos.paths] == ["000000000003.jpg", "000000000007.jpg"]
    assert found.prompts == ("a photo of a cat.", "a photo of a dog.")
    same(named(found, 0), [("a photo of a cat.", rectangle(BOX))])
    assert found.things[0][0].judged is None
    dog = "a photo of a dog."
    same(named(found, 1), [(dog, rectangle(BOX)), (dog, rectangle(SECOND))])
    crowd = rectangle((18, 3, 40, 20))
    first, second = found.things[1]
    assert np.array_equal(first.judged, ~crowd | rectangle(BOX))
    assert np.array_equal(second.judged, ~crowd)


def test_coco_reads_the_only_other_set_and_another_template(tmp_path):
    found = data.open(f"coco:{sets.coco(tmp_path, 'train2014')}", template="{} here")
    assert found.prompts == ("cat here", "dog here")


# --- phrases ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "protocol"), [("p", 0), ("p", 2), ("p", 4), ("json", 0)])
def test_refcoco_expressions_are_prompts_that_name_one_object_each(tmp_path, ending, protocol):
    found = data.open(f"refcoco:{sets.refcoco(tmp_path, ending, protocol)}")
    assert found.prompts == ("left dog", "the dog", "right dog")
    same(named(found, 0), [("left dog", rectangle(SECOND)), ("the dog", rectangle(SECOND)),
                           ("right dog", rectangle(BOX))])  # fmt: skip
    same(named(found, 1), [("the dog", rectangle(BOX))])
    assert not found.complete
    few = data.open(f"refcoco:{tmp_path / 'refcoco'}", most=1, seed=3)
    assert len(few) == 1
    assert {few.prompts[t.label] for t in few.things[0]} == set(few.prompts)


def test_flickr30k_phrases_name_all_boxes_of_their_entity(tmp_path):
    found = data.open(f"flickr30k:{sets.flickr30k(tmp_path)}")
    assert len(found) == 1
    assert found.prompts == ("Two dogs", "A man", "The dogs")
    both = rectangle(BOX, SECOND)
    same(named(found, 0), [("Two dogs", both), ("A man", rectangle(BOX)), ("The dogs", both)])
    (tmp_path / "test.txt").unlink()
    (tmp_path / "flickr30k-images").rename(tmp_path / "images")
    assert len(data.open(f"flickr30k:{tmp_path}")) == 2


# --- points -----------------------------------------------------------------------------------


def test_openimages_points_are_judged_and_nothing_else_is(tmp_path):
    found = data.open(f"openimages:{sets.openimages(tmp_path)}")
    assert len(found) == 1
    assert found.prompts == ("a photo of a Dog.",)
    (thing,) = found.things[0]
    named(found, 0)
    assert sorted(zip(*np.nonzero(thing.mask), strict=True)) == [(7, 20), (29, 39)]
    assert sorted(zip(*np.nonzero(thing.judged), strict=True)) == [(0, 0), (7, 20), (29, 39)]


def test_openimages_names_may_come_without_a_first_line_and_from_a_folder_below(tmp_path):
    sets.openimages(tmp_path)
    sets.written(tmp_path / "annotations" / "class-descriptions.csv", "/m/dog,Hound\n")
    (tmp_path / "oidv7-class-descriptions.csv").unlink()
    (tmp_path / "validation-points.csv").rename(tmp_path / "annotations" / "x.csv")
    assert data.open(f"openimages:{tmp_path}").prompts == ("a photo of a Hound.",)


def test_openimages_reads_the_validation_points_among_others(tmp_path):
    sets.openimages(tmp_path)
    head = (tmp_path / "validation-points.csv").read_text().splitlines()[0]
    sets.written(tmp_path / "train-points.csv", f"{head}\nz,0,0,/m/dog,yes,cc,1,0,0,\n")
    assert len(data.open(f"openimages:{tmp_path}")) == 1


# --- ImageNet-Segmentation --------------------------------------------------------------------


@pytest.fixture
def h5py(monkeypatch):
    """A stand-in that gives the cells of `segments()` for any path."""

    class File(sets.Cells):
        cells = sets.segments()

        def __init__(self, _, mode):
            assert mode == "r"
            dict.__init__(self, self.cells)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    module = SimpleNamespace(File=File)
    monkeypatch.setitem(sys.modules, "h5py", module)
    return module


@pytest.mark.usefixtures("h5py")
def test_imagenet_segmentation_turns_matlabs_axes_and_reads_names(tmp_path):
    path = sets.mat(tmp_path / "gtsegs_ijcv.mat")
    for spec in (path, tmp_path):
        found = data.open(f"imagenet-segmentation:{spec}")
        assert found.prompts == ("a photo of a tench.", "a photo of a dog.")
        same(named(found, 0), [("a photo of a tench.", rectangle(BOX))])
        (_, mask), *_ = named(found, 1)
        assert np.array_equal(mask, rectangle((10, 3, 40, 5), size=(50, 20)))
        assert found.photos[0].getpixel((BOX[0], BOX[1])) == (200, 100, 50)
        assert lies_on_the_object(found.photos[1], mask)
    assert data.open(f"imagenet-segmentation:{path}", most=1, seed=0).prompts in (
        ("a photo of a tench.",),
        ("a photo of a dog.",),
    )


def test_imagenet_segmentation_reads_a_real_file_where_h5py_is(tmp_path):
    h5py = pytest.importorskip("h5py")
    cells, path = sets.segments(), tmp_path / "gtsegs_ijcv.mat"
    with h5py.File(path, "w", userblock_size=512) as file:

        def stored(name, content):
            if content.dtype != object:
                return file.create_dataset(name, data=content)
            made = file.create_dataset(name, content.shape, dtype=h5py.ref_dtype)
            for at, reference in np.ndenumerate(content):
                made[at] = stored(reference, cells[reference]).ref
            return made

        for field in ("img", "gt", "target"):
            stored(f"value/{field}", cells[f"value/{field}"])
    found = data.open(f"imagenet-segmentation:{path}")
    same(named(found, 0), [("a photo of a tench.", rectangle(BOX))])


def test_without_h5py_its_name_and_its_command_are_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = sets.mat(tmp_path / "gtsegs_ijcv.mat")
    with pytest.raises(data.InputError, match="pip install h5py"), opened(path):
        pass


# --- folders ----------------------------------------------------------------------------------


def test_folder_masks_in_class_folders_with_several_objects_and_none(tmp_path):
    for name in ("a", "b", "c"):
        sets.photo(tmp_path / "images" / f"{name}.jpg", BOX, SECOND)
    sets.grey(tmp_path / "masks" / "dog" / "a.png", rectangle(BOX) * 255)
    sets.grey(tmp_path / "masks" / "dog" / "a.1.png", rectangle(SECOND))
    sets.grey(tmp_path / "masks" / "hot_dog" / "a.png", rectangle(SECOND) * 65535, np.uint16)
    sets.palette(tmp_path / "masks" / "hot_dog" / "b-2.png", rectangle(BOX) * 3)
    found = data.open(tmp_path)
    assert found.prompts == ("a dog", "a hot dog")
    assert [path.stem for path in found.photos.paths] == ["a", "b"]
    same(named(found, 0), [("a dog", rectangle(SECOND)), ("a dog", rectangle(BOX)),
                           ("a hot dog", rectangle(SECOND))])  # fmt: skip
    same(named(found, 1), [("a hot dog", rectangle(BOX))])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_folder_masks_of_numbers_name_lines_of_classes(tmp_path, dtype):
    sets.photo(tmp_path / "images" / "a.png", BOX, SECOND)
    values = rectangle(BOX) * 1 + rectangle(SECOND) * 2
    values[0] = np.iinfo(dtype).max
    sets.grey(tmp_path / "masks" / "a.png", values, dtype)
    sets.written(tmp_path / "classes.txt", "dog\ncat\n\n")
    found = data.open(f"folder:{tmp_path}")
    same(named(found, 0), [("a dog", rectangle(BOX)), ("a cat", rectangle(SECOND))])
    assert not found.things[0][0].judged[0].any()
    assert found.things[0][0].judged[1:].all()


def test_folder_masks_beside_pictures_are_named_by_their_folder(tmp_path):
    sets.photo(tmp_path / "dog" / "a.jpg", BOX)
    sets.grey(tmp_path / "dog" / "a.png", rectangle(BOX) * 255)
    sets.photo(tmp_path / "cat" / "a.jpeg", SECOND, mode="L")
    sets.grey(tmp_path / "cat" / "a.png", rectangle(SECOND) * 255)
    sets.photo(tmp_path / "cat" / "unmasked.jpg")
    found = data.open(tmp_path)
    same(named(found, 0), [("a cat", rectangle(SECOND))])
    same(named(found, 1), [("a dog", rectangle(BOX))])
    assert len(found) == 2


def coco_folder(root, *annotations, **image):
    sets.written(root / "instances.json", {
        "images": [{"id": 1, "file_name": "a.jpg", **image}],
        "annotations": list(annotations),
        "categories": [{"id": 4, "name": "dog"}],
    })  # fmt: skip
    return root


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "way", ["upright polygon", "stored polygon", "upright mask", "stored mask"]
)
def test_a_turned_photograph_and_its_masks_lie_on_each_other(tmp_path, orientation, way):
    path = sets.photo(tmp_path / "images" / "a.jpg", BOX, orientation=orientation)
    mask = Image.fromarray(rectangle(BOX))
    lies_stored = way.startswith("stored") and orientation >= 5  # else it cannot be told apart
    if lies_stored:
        mask = sets.stored(mask, orientation)
    if way.endswith("polygon"):
        rows, cols = np.nonzero(np.asarray(mask))
        box = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        note = sets.annotation(1, 1, 4, sets.square([int(each) for each in box]))
        coco_folder(tmp_path, note, height=mask.height, width=mask.width)
    else:
        mask.save(tmp_path / "mask.png")
        coco_folder(tmp_path, sets.annotation(1, 1, 4, None) | {"mask_file": "mask.png"})
    found = data.open(tmp_path)
    same(named(found, 0), [("a dog", rectangle(BOX))])
    assert found.photos[0].size == SIZE
    assert lies_on_the_object(found.photos[0], found.things[0][0].mask)
    with Image.open(path) as image:
        assert image.size == (SIZE if orientation < 5 else SIZE[::-1])


@pytest.mark.parametrize("orientation", [3, 6])
def test_points_and_boxes_of_public_sets_are_on_the_pixels_as_stored(tmp_path, orientation):
    sets.openimages(tmp_path)
    sets.photo(tmp_path / "validation" / "a.jpg", BOX, orientation=orientation)
    (thing,) = data.open(f"openimages:{tmp_path}").things[0]
    # Of the stored pixels, (row 0, col 0) was judged a "no"; half a turn puts it last, and a
    # quarter clockwise into the last column of the first row.
    assert thing.judged[(29, 39) if orientation == 3 else (0, 39)]
    assert not thing.mask[(29, 39) if orientation == 3 else (0, 39)]
    assert thing.judged.sum() == 3


# --- lazily -----------------------------------------------------------------------------------


def test_sets_open_nothing_until_they_are_indexed(tmp_path, monkeypatch):
    import heatproof.images

    sets.voc(tmp_path)
    opened = []
    original = Image.open
    monkeypatch.setattr(
        heatproof.images.Image, "open", lambda *a, **k: opened.append(a) or original(*a, **k)
    )
    found = data.open(f"voc:{tmp_path}")
    part = found.first(1).chosen([0])
    assert len(found) == 2
    assert len(part) == 1
    assert isinstance(part.things, Lazy)
    assert not opened
    assert part.photos[0].size == SIZE
    assert len(opened) == 1


def test_a_sample_is_seeded_and_in_the_sets_own_order(tmp_path):
    root = sets.coco(tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"], content["annotations"] = [], []
    for n in range(1, 31):
        name = f"{n:012d}.jpg"
        sets.photo(root / "val2017" / name)
        content["images"].append({"id": n, "file_name": name, "height": 30, "width": 40})
        content["annotations"].append(sets.annotation(n, n, 17, sets.square(BOX)))
    path.write_text(json.dumps(content))

    def drawn(seed):
        found = data.open(f"coco:{root}", most=5, seed=seed)
        assert found.seed == seed
        return [path.name for path in found.photos.paths]

    assert drawn(1) == drawn(1) == sorted(drawn(1))
    assert len({tuple(drawn(seed)) for seed in range(6)}) == 6
    assert len(data.open(f"coco:{root}", most=99)) == 30
