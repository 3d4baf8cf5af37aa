"""Rendered scenes: the same for the same seed, masks on the pixels, captions true or false."""

import json
import random
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from heatproof.data.scenes import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    SIZES,
    TEXTURES,
    Caption,
    Phrase,
    Scene,
    SceneDataset,
    SceneObject,
    absent,
    captions_of,
    combinations,
    render,
    reversed_relation,
    sample,
    singles,
    swapped,
    truth,
    truths,
    write,
)
from heatproof.data.scenes.files import mask_of, run_lengths
from heatproof.data.scenes.renderer import PALETTE


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def thing(name: str, x: float, y: float) -> SceneObject:
    size, texture, colour, shape = name.split()
    box = (x - 0.1, y - 0.1, x + 0.1, y + 0.1)
    return SceneObject(
        size=size, texture=texture, colour=colour, shape=shape, centre=(x, y), radius=0.1, box=box
    )


RED_CIRCLE = thing("large plain red circle", 0.2, 0.3)
BLUE_STAR = thing("small dotted blue star", 0.7, 0.35)
SCENE = Scene(0, (RED_CIRCLE, BLUE_STAR))


def phrase(text: str) -> Phrase:
    found: dict[str, str] = {}
    for word in text.split():
        for kind, words in (
            ("size", SIZES),
            ("texture", TEXTURES),
            ("colour", COLOURS),
            ("shape", SHAPES),
        ):
            if word in words:
                found[kind] = word
    return Phrase(**found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", True),
        ("green", False),
        ("red circle", True),
        ("blue circle", False),
        ("large star", False),
        ("small dotted blue star", True),
        ("small striped blue star", False),
    ],
)
def test_truth_of_one_phrase_by_hand(text: str, expected: bool):
    assert truth(Caption(phrase(text)), SCENE) is expected


@pytest.mark.parametrize(
    ("first", "relation", "second", "expected"),
    [
        ("red circle", "and", "blue star", True),
        ("blue star", "and", "red circle", True),
        ("red star", "and", "blue circle", False),
        ("red", "and", "circle", False),  # both of one object: a pair needs two
        ("red circle", "left of", "blue star", True),
        ("blue star", "left of", "red circle", False),
        ("blue star", "right of", "red circle", True),
        ("star", "right of", "red", True),
        ("red circle", "above", "blue star", False),  # 5 % higher is less than the clearance
        ("blue star", "below", "red circle", False),
    ],
)
def test_truth_of_two_phrases_by_hand(first: str, relation: str, second: str, expected: bool):
    assert truth(Caption(phrase(first), relation, phrase(second)), SCENE) is expected


def test_above_is_towards_the_top_of_the_picture():
    low = replace(BLUE_STAR, centre=(0.2, 0.8))
    scene = Scene(0, (RED_CIRCLE, low))
    caption = Caption(phrase("red circle"), "above", phrase("blue star"))
    assert truth(caption, scene)
    assert not truth(reversed_relation(caption), scene)
    drawn = sample(torch.arange(200), objects=2)
    _, masks = render(drawn)
    rows = torch.arange(64.0)[:, None].expand(64, 64)
    for scene, mask in zip(drawn.described(), masks, strict=True):
        one, other = scene.objects
        if one.centre[1] + 0.1 < other.centre[1]:
            assert rows[mask[0]].mean() < rows[mask[1]].mean()


def test_truths_of_a_batch_agree_with_truth_of_each():
    drawn = sample(torch.arange(16), combinations="all")
    chance = random.Random(7)
    kinds = ("and", "left of", "right of", "above", "below")
    captions = [*singles("size"), *singles("texture"), *singles("colour"), *singles("shape")]
    captions += combinations()
    for scene in drawn.described():
        captions += captions_of(scene, chance)
        for one, other in list(permutations(scene.objects, 2))[:3]:
            pair = (Phrase(colour=one.colour, shape=one.shape), Phrase(shape=other.shape))
            captions += [Caption(pair[0], kind, pair[1]) for kind in kinds]
    got = truths(captions, drawn)
    wanted = [[truth(c, scene) for c in captions] for scene in drawn.described()]
    assert got.tolist() == wanted
    assert 0.02 < got.float().mean() < 0.5


def test_same_seed_same_bytes_alone_or_in_any_batch():
    seeds = torch.tensor([5, 2**60 + 3, 11, 12, 13, 900])
    pictures, masks = render(sample(seeds))
    again, masks_again = render(sample(seeds))
    assert pictures.numpy().tobytes() == again.numpy().tobytes()
    assert torch.equal(masks, masks_again)
    for k, seed in enumerate(seeds):
        alone, mask = render(sample(seed[None]))
        assert torch.equal(alone[0], pictures[k])
        assert torch.equal(mask[0], masks[k])
    assert not torch.equal(pictures[2], pictures[3])


def test_masks_are_the_drawn_pixels():
    """Without light, noise and tint, an object's pixels are its colour or its darker shade."""
    drawn = sample(torch.arange(60), combinations="all")
    still = replace(
        drawn,
        surroundings=torch.zeros_like(drawn.surroundings),
        tints=torch.zeros_like(drawn.tints),
    )
    pictures, masks = render(still, pixels=128)
    for picture, mask, scene in zip(pictures, masks, still.described(), strict=True):
        assert mask.sum(0).max() <= 1  # a pixel belongs to one object
        ground = (picture.float() - 127.5).abs().amax(0) < 1
        assert not (ground & mask.any(0)).any()
        assert mask[len(scene.objects) :].sum() == 0
        for k, item in enumerate(scene.objects):
            colour = PALETTE[COLOURS.index(item.colour)][:, None] * 255
            pixels = picture[:, mask[k]].float()
            full = (pixels - colour).abs().amax(0) < 1
            shade = (pixels - colour * 0.4).abs().amax(0) < 1
            assert full.any()
            if item.texture == "plain":
                assert not shade.any()
            # The rest are edges: of the outline against grey, of stripes and dots.
            assert (full | shade).float().mean() > 0.55
    outside = ~masks.any(1)
    colourful = (pictures.float() - 127.5).abs().amax(1) > 1
    assert (colourful & outside).float().mean() < 0.02  # anti-aliased rims only


def test_masks_have_the_area_of_their_outlines():
    drawn = sample(torch.arange(200), objects=1)
    _, masks = render(drawn, pixels=128)
    unit = masks[:, 0].sum((1, 2)) / 128**2 / drawn.radii[:, 0] ** 2
    circles = unit[drawn.attributes[:, 0, 3] == SHAPES.index("circle")]
    squares = unit[drawn.attributes[:, 0, 3] == SHAPES.index("square")]
    assert torch.allclose(circles, torch.tensor(torch.pi * 0.92**2), rtol=0.03)
    assert torch.allclose(squares, torch.tensor(1.6**2), rtol=0.04)


def test_objects_lie_within_the_picture_and_their_boxes():
    drawn = sample(torch.arange(300))
    _, masks = render(drawn)
    for scene, mask in zip(drawn.described(), masks, strict=True):
        for item, own in zip(scene.objects, mask, strict=False):
            left, top, right, bottom = (64 * v for v in item.box)
            assert min(left, top) >= -1e-3
            assert max(right, bottom) <= 64 + 1e-3
            rows, cols = own.nonzero(as_tuple=True)
            if len(rows):
                assert cols.min() >= left - 1
                assert cols.max() <= right + 1
                assert rows.min() >= top - 1
                assert rows.max() <= bottom + 1


def test_the_same_scene_at_another_size():
    drawn = sample(torch.arange(12))
    small, small_masks = render(drawn)
    large, large_masks = render(drawn, pixels=256)
    shrunk = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (shrunk - small.float()).abs().mean() < 5
    agree = torch.nn.functional.avg_pool2d(large_masks.float(), 4).round().bool() == small_masks
    assert agree.float().mean() > 0.995


def test_held_out_combinations_never_occur_in_training_scenes():
    assert len(HELD_OUT) == len({c for _, c in HELD_OUT}) == len({s for s, _ in HELD_OUT}) == 8
    for difficulty in (0.0, 0.5, 1.0):
        drawn = sample(torch.arange(4000), difficulty=difficulty).attributes[drawn_mask(difficulty)]
        found = {(int(s), int(c)) for c, s in drawn[:, 2:].unique(dim=0)}
        assert not found & set(HELD_OUT)
        assert len(found) == 56
    others = sample(torch.arange(500), combinations="held-out", objects=1).attributes[:, 0]
    assert {(int(s), int(c)) for c, s in others[:, 2:].unique(dim=0)} == set(HELD_OUT)


def drawn_mask(difficulty: float) -> torch.Tensor:
    return sample(torch.arange(4000), difficulty=difficulty).present


def test_full_difficulty_holds_every_number_of_objects_and_shared_attributes():
    drawn = sample(torch.arange(4000))
    counts = drawn.present.sum(1).bincount(minlength=5)[1:] / 4000
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.03)
    pairs = sample(torch.arange(4000), objects=2).attributes[:, :2]
    shared = (pairs[:, 0, 2:] == pairs[:, 1, 2:]).any(1).float().mean()
    assert 0.45 < shared < 0.65
    none = sample(torch.arange(4000), objects=2, sharing=0.0).attributes[:, :2]
    assert (none[:, 0, 2:] == none[:, 1, 2:]).any(1).float().mean() < 0.3


def test_absent_captions_are_all_that_is_false():
    found = absent(SCENE, ("colour", "shape"))
    assert len(found) == 62
    assert not any(truth(c, SCENE) for c in found)
    assert len(absent(SCENE, ("shape",))) == 6


def test_swapping_colours_and_sides():
    caption = Caption(phrase("red circle"), "left of", phrase("blue star"))
    assert swapped(caption).text == "a blue circle left of a red star"
    assert reversed_relation(caption).text == "a red circle right of a blue star"
    assert Caption(phrase("orange moon")).text == "an orange moon"
    assert Caption(phrase("striped")).text == "something striped"


def test_captions_of_a_scene_are_true_of_it():
    for scene in sample(torch.arange(30)).described():
        captions = captions_of(scene, random.Random(0))
        assert all(truth(c, scene) for c in captions)
        assert len(captions) >= 6


def test_run_lengths_by_hand_and_back():
    mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=bool)
    assert run_lengths(mask) == [2, 3, 1]  # down the columns
    full = np.ones((2, 2), dtype=bool)
    assert run_lengths(full) == [0, 4]
    for m in (mask, full, ~full):
        assert np.array_equal(mask_of(run_lengths(m), m.shape), m)


def test_files_on_disk_are_coco(tmp_path):
    dataset = SceneDataset(6, first=40, pixels=48)
    write(dataset, tmp_path)
    instances = json.loads((tmp_path / "instances.json").read_text())
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert [c["name"] for c in instances["categories"]] == list(SHAPES)
    assert [a["id"] for a in instances["annotations"]] == list(
        range(1, len(instances["annotations"]) + 1)
    )
    for index, image in enumerate(instances["images"]):
        example = dataset[index]
        picture = np.asarray(Image.open(tmp_path / "images" / image["file_name"]))
        assert np.array_equal(picture, example["picture"].permute(1, 2, 0).numpy())
        own = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        visible = [m for m in example["masks"].numpy() if m.any()]
        assert len(own) == len(visible)
        for annotation, mask in zip(own, visible, strict=True):
            code = annotation["segmentation"]
            assert np.array_equal(mask_of(code["counts"], tuple(code["size"])), mask)
            assert annotation["area"] == mask.sum()
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
            assert SHAPES[annotation["category_id"] - 1] == annotation["attributes"]["shape"]
        told = [c for c in captions["annotations"] if c["image_id"] == image["id"]]
        assert {c["caption"] for c in told if c["true"]} == {c.text for c in example["captions"]}
        assert not {c["caption"] for c in told if c["true"]} & {
            c["caption"] for c in told if not c["true"]
        }
    again = tmp_path / "again"
    write(dataset, again)
    assert (again / "instances.json").read_bytes() == (tmp_path / "instances.json").read_bytes()


def test_dataset_refuses_items_it_does_not_have():
    dataset = SceneDataset(2)
    assert len(list(dataset)) == 2
    with pytest.raises(IndexError, match="item 2 of 2"):
        dataset[2]
