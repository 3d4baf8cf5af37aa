"""Masks as they are stored, and what holds them: run lengths, numbers, turns, lazy sequences."""

import numpy as np
import pytest
from PIL import Image, ImageOps

import tiny_sets as sets
from heatproof.data import masks
from heatproof.data.dataset import Instance, LabelledImages
from heatproof.data.layouts.pickled import plain
from heatproof.data.layouts.reading import LayoutError
from heatproof.data.lazy import Files, Lazy
from heatproof.data.scenes.single_attribute import asked, drawn
from heatproof.errors import ImageError, InputError
from heatproof.images import Frame, frame_of, open_image
from tiny_sets import BOX, SECOND, SIZE, rectangle

# --- run lengths ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "box"), [("05d00000000d?", (0, 0, 5, 5)), ("R45d00000000b;", (5, 5, 10, 10))]
)
def test_compressed_run_lengths_as_cocos_own_program_writes_them(text, box):
    wanted = rectangle(box, size=(25, 25))
    for counts in (text, text.encode()):
        code = {"size": [25, 25], "counts": counts}
        assert np.array_equal(masks.decoded(code, (25, 25)), wanted)


def test_compressed_run_lengths_are_those_of_any_mask():
    chance = np.random.default_rng(0)
    for number in range(60):
        size = tuple(chance.integers(1, 90, 2).tolist())
        mask = chance.random(size) < chance.choice([0, 0.02, 0.5, 0.98, 1])
        if number % 2:  # long runs, so that differences are large and of both signs
            mask = np.kron(mask, np.ones((9, 7), dtype=bool))
        counts = sets.runs(mask)
        code = {"size": list(mask.shape), "counts": sets.compressed(counts)}
        assert masks.counts_of(code["counts"]) == counts
        assert np.array_equal(masks.decoded(code, mask.shape), mask)


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ({"size": [3, 4], "counts": "l"}, "end within a number"),
        ({"size": [3, 4], "counts": "1 2"}, "the letter ' '"),
        ({"size": [3, 4], "counts": "5"}, "add up to 5"),
        ({"size": [3, 4], "counts": [-1, 13]}, "add up to 12"),
        ("polygon", "a segmentation that is a str"),
        (7, "a segmentation that is a int"),
    ],
)
def test_broken_segmentations_are_refused(segmentation, text):
    with pytest.raises(InputError, match=text):
        masks.decoded(segmentation, (3, 4))


def test_polygons_of_one_segmentation_are_one_object():
    both = sets.square(BOX) + sets.square(SECOND) + [[1, 1, 2, 2]]  # the last is no polygon
    assert np.array_equal(masks.decoded(both, (30, 40)), rectangle(BOX, SECOND))


# --- pictures as masks ------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_what_pillow_does(tmp_path, orientation):
    values = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path, exif=exif)
    frame = frame_of(path)
    assert (frame.width, frame.height, frame.orientation) == (40, 30, orientation)
    shown = open_image(path).image
    assert frame.upright == shown.size
    turned = masks.turned(values[..., 0], orientation)
    assert np.array_equal(turned, np.asarray(shown)[..., 0])
    with Image.open(path) as image:
        assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(image))[..., 0])


def test_a_frame_is_read_from_the_header_alone(tmp_path):
    path = sets.photo(tmp_path / "a.jpg", BOX, orientation=6)
    path.write_bytes(path.read_bytes()[:700])
    assert frame_of(path) == Frame(30, 40, 6)
    with pytest.raises(ImageError, match="cut short"):
        open_image(path)
    path.write_text("no picture")
    with pytest.raises(ImageError, match="a text file"):
        frame_of(path)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(1, np.uint8), (255, np.uint8), (200, np.uint8), (65535, np.uint16), (1, np.uint16),
     (255, np.uint16)],
)  # fmt: skip
def test_a_mask_of_one_object_means_what_it_shows(tmp_path, values, dtype):
    path = sets.grey(tmp_path / "a.png", rectangle(BOX) * values, dtype)
    assert np.array_equal(masks.binary(path).mask, rectangle(BOX))


def test_masks_with_rims_palettes_colours_and_clear_parts(tmp_path):
    soft = rectangle(BOX) * 255
    soft[BOX[1], BOX[0] : BOX[2]] = 100  # a row under the middle
    soft[BOX[3] - 1, BOX[0]] = 150
    path = sets.grey(tmp_path / "a.png", soft)
    assert np.array_equal(masks.binary(path).mask, rectangle((20, 6, 30, 10)))
    path = sets.palette(tmp_path / "b.png", rectangle(BOX) * 1)
    assert np.array_equal(masks.binary(path).mask, rectangle(BOX))
    clear = np.full((30, 40, 4), 90, dtype=np.uint8)
    clear[..., 3] = rectangle(BOX) * 255
    assert np.array_equal(masks.binary(sets.grey(tmp_path / "c.png", clear)).mask, rectangle(BOX))
    opaque = np.stack([rectangle(BOX) * 255] * 3 + [np.full((30, 40), 255)], -1)
    assert np.array_equal(masks.binary(sets.grey(tmp_path / "d.png", opaque)).mask, rectangle(BOX))
    black = sets.grey(tmp_path / "e.png", np.zeros((30, 40)))
    assert not masks.binary(black).mask.any()
    Image.fromarray(rectangle(BOX)).save(tmp_path / "f.png")
    assert np.array_equal(masks.binary(tmp_path / "f.png").mask, rectangle(BOX))


def test_a_mask_of_numbers_is_not_taken_for_one_of_one_object(tmp_path):
    path = sets.grey(tmp_path / "a.png", rectangle(BOX) + 2 * rectangle(SECOND))
    with pytest.raises(InputError, match=r"the numbers 0, 1, 2, .*classes\.txt"):
        masks.binary(path)


def test_numbers_are_those_stored_and_colours_have_none(tmp_path):
    values = rectangle(BOX) * 7 + rectangle(SECOND) * 255
    assert np.array_equal(masks.numbers(sets.palette(tmp_path / "a.png", values)), values)
    deep = rectangle(BOX) * 40000
    assert np.array_equal(masks.numbers(sets.grey(tmp_path / "b.png", deep, np.uint16)), deep)
    with pytest.raises(InputError, match="a mask of colours"):
        masks.numbers(sets.photo(tmp_path / "c.png", BOX))


def test_a_mask_that_fits_both_ways_is_taken_as_the_set_is_read():
    mask = rectangle((0, 0, 10, 4))
    half = Frame(*SIZE, 3)
    assert np.array_equal(masks.fitted(mask, half, "it", stored=True), mask[::-1, ::-1])
    assert np.array_equal(masks.fitted(mask, half, "it", stored=False), mask)
    with pytest.raises(InputError, match="it has 40 x 30 pixels, its picture 20 x 30"):
        masks.fitted(mask, Frame(20, 30, 1), "it")


# --- plain data in a pickle -------------------------------------------------------------------


class Called:
    """A pickle of this calls `print`."""

    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_from_any_protocol(tmp_path, protocol):
    import pickle

    same = ["shared", -3, 1 << 70]
    content = {"a": [1, 2.5, True, None, "é", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ()],
               "b": {7: same, 300: same, 70000: {}, "": []}, "c": [[]]}  # fmt: skip
    path = tmp_path / "a.p"
    path.write_bytes(pickle.dumps(content, protocol))
    found = plain(path)
    assert found == content
    assert found["b"][7] is found["b"][300]


def test_texts_of_python_2_are_read(tmp_path):
    path = tmp_path / "a.p"
    # What Python 2 writes for [{'sent': 'a dog', u'id': 5L}], protocols 0 and 2.
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'a dog'\np3\nsVid\np4\nL5L\nsa.")
    assert plain(path) == [{"sent": "a dog", "id": 5}]
    path.write_bytes(b"\x80\x02]q\x00}q\x01(U\x04sentq\x02U\x05a dogq\x03X\x02\x00\x00\x00id"
                     b"q\x04\x8a\x01\x05ua.")  # fmt: skip
    assert plain(path) == [{"sent": "a dog", "id": 5}]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("content", [Called(), {"a": Called()}, print, {1, 2}, Called])
def test_nothing_in_a_pickle_is_run(tmp_path, capsys, protocol, content):
    import pickle

    path = tmp_path / "a.p"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(LayoutError, match=r"more than plain data .* which is not run") as error:
        plain(path)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"\x80\x02]q\x00", b"(.", b"a.", b"0.", b"](a."]
)
def test_a_broken_pickle_is_told_so(tmp_path, content):
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(LayoutError, match=r"pickle|plain data"):
        plain(tmp_path / "a.p")


# --- lazy sequences ---------------------------------------------------------------------------


def test_lazy_items_are_made_when_asked_for_and_cut_as_a_tuple_is():
    made = []
    items = Lazy(lambda row: made.append(row) or row * 10, range(5))
    assert len(items[1:4][::-1]) == 3
    assert not made
    assert list(items[1:4][::-1]) == [30, 20, 10]
    assert items[-1] == 40
    assert list(items.chosen([4, 0])) == [40, 0]
    with pytest.raises(IndexError):
        items[5]


def test_chosen_pictures_keep_their_labels_and_stay_lazy(tmp_path):
    paths = [sets.photo(tmp_path / f"{n}.jpg", size=(20 + n, 10)) for n in range(3)]
    things = Lazy(lambda n: (Instance(n, np.ones((10, 20 + n), dtype=bool)),), range(3))
    found = LabelledImages(
        name="x",
        photos=Files(paths),
        things=things,
        prompts=("a", "b", "c"),
        seed=5,
        complete=False,
    )
    part = found.chosen([2, 0])
    assert [photo.width for photo in part.photos] == [22, 20]
    assert [of[0].label for of in part.things] == [2, 0]
    assert (part.prompts, part.seed, part.complete, part.name) == (("a", "b", "c"), 5, False, "x")
    assert isinstance(part.photos, Files)
    assert found.first(2).photos.paths == tuple(paths[:2])
    assert found.first(None) is found
    assert isinstance(found.held().photos, tuple)
    held = found.held().chosen([1])
    assert held.things[0][0].label == 1


# --- scenes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_one_scene_and_two_are_the_first_of_many(count):
    few, many = asked(count), asked(5)
    assert len(few) == count
    assert drawn(count, "shape", 0).present.sum(1).tolist() == [2, 3][:count]
    for n in range(count):
        assert few.photos[n].tobytes() == many.photos[n].tobytes()


def test_no_scene_is_refused():
    with pytest.raises(InputError, match="got 0 scenes"):
        drawn(0, "shape", 0)
