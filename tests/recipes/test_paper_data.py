"""Official layouts on tiny copies, wrong ones named in one line; scenes as material."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import heatproof
from heatproof.data import layouts
from heatproof.data.layouts import LayoutError
from heatproof.errors import InputError
from heatproof.recipes.grad_eclip_paper.folder_material import folder_material, noised
from heatproof.recipes.grad_eclip_paper.maps import encode_pictures
from heatproof.recipes.grad_eclip_paper.scenes_material import MARGIN, scenes_material

SYNSETS = ("n01440764", "n01443537")
"""Tench and goldfish: the first two of ImageNet."""


def picture(path, size=(40, 30), colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def imagenet(tmp_path):
    for synset in SYNSETS:
        for n in range(3):
            picture(tmp_path / "val" / synset / f"ILSVRC2012_val_{synset}_{n}.JPEG")
    return tmp_path


@pytest.fixture
def imagenet_s(tmp_path):
    (tmp_path / "ImageNetS_categories_im919.txt").write_text(
        "n00000001 none\n" + "\n".join(f"{synset} x" for synset in SYNSETS) + "\n"
    )
    for wanted, synset in enumerate(SYNSETS, 2):
        picture(tmp_path / "validation" / synset / "a.JPEG")
        ids = np.zeros((30, 40, 3), dtype=np.uint8)
        ids[5:10, 20:30, 0] = wanted
        ids[:2, :2] = (1000 % 256, 1000 // 256, 0)
        mask = tmp_path / "validation-segmentation" / synset / "a.png"
        mask.parent.mkdir(parents=True)
        Image.fromarray(ids).save(mask)
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 30, "width": 40} for n in (7, 3)]
    for image in images:
        picture(tmp_path / "val2017" / image["file_name"])
    square = [[10, 5, 19, 5, 19, 14, 10, 14]]
    counts = {"size": [30, 40], "counts": [0, 30, 1170]}  # the first column
    things = [
        {"id": 1, "image_id": 7, "category_id": 1, "segmentation": square, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "segmentation": counts, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 2, "segmentation": square, "iscrowd": 1},
        {"id": 4, "image_id": 3, "category_id": 1, "segmentation": square, "iscrowd": 0},
    ]
    said = [
        {"id": 1, "image_id": 7, "caption": " A  dog\n runs. "},
        {"id": 2, "image_id": 7, "caption": "Another one."},
        {"id": 3, "image_id": 3, "caption": "A dog sleeps."},
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    notes = tmp_path / "annotations"
    notes.mkdir()
    (notes / "captions_val2017.json").write_text(
        json.dumps({"images": images, "annotations": said})
    )
    (notes / "instances_val2017.json").write_text(
        json.dumps({"images": images, "annotations": things, "categories": categories})
    )
    return tmp_path


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- ImageNet ---------------------------------------------------------------------------------


def test_imagenet_class_folders_are_classes_in_sorted_order(imagenet):
    found = layouts.imagenet(imagenet)
    assert found.synsets == SYNSETS
    assert found.names == (None, None)
    assert [item.label for item in found.items] == [0, 0, 0, 1, 1, 1]
    assert layouts.imagenet(imagenet / "val") == found


@pytest.mark.parametrize("file", ["LOC_synset_mapping.txt", "synset_words.txt"])
def test_imagenet_names_are_read_from_the_official_files(imagenet, file):
    (imagenet / file).write_text("n01443537 goldfish, gold fish\nn01440764 tench, Tinca tinca\n")
    assert layouts.imagenet(imagenet).names == ("tench", "goldfish")


def test_imagenet_names_in_the_order_of_the_folders_or_of_the_folders_themselves(
    imagenet, tmp_path
):
    (imagenet / "val" / "class_names.txt").write_text("one\ntwo\n")
    assert layouts.imagenet(imagenet).names == ("one", "two")
    other = tmp_path / "other"
    picture(other / "a dog" / "x.jpg")
    assert layouts.imagenet(other).names == ("a dog",)


def test_imagenet_wrong_layouts_are_named_in_one_line(imagenet, tmp_path):
    with pytest.raises(LayoutError, match="no folder") as error:
        layouts.imagenet(tmp_path / "nowhere")
    one_line(error)
    with pytest.raises(LayoutError, match="no class folder") as error:
        layouts.imagenet(imagenet / "val" / SYNSETS[0])
    one_line(error)
    (tmp_path / "empty" / "n01440764").mkdir(parents=True)
    with pytest.raises(LayoutError, match="no picture in the 1 class folders"):
        layouts.imagenet(tmp_path / "empty")
    (imagenet / "class_names.txt").write_text("only one\n")
    with pytest.raises(LayoutError, match="1 names for 2 class folders"):
        layouts.imagenet(imagenet)
    (imagenet / "class_names.txt").unlink()
    (imagenet / "synset_words.txt").write_text("n01440764 tench\n")
    with pytest.raises(LayoutError, match="no name for n01443537"):
        layouts.imagenet(imagenet)


# --- ImageNet-S -------------------------------------------------------------------------------


def test_imagenet_s_mask_is_the_class_alone(imagenet_s):
    found, masks = layouts.imagenet_s(imagenet_s)
    ids = layouts.imagenet_s_ids(imagenet_s, found.synsets)
    assert ids[SYNSETS[1]] == 3
    mask = layouts.imagenet_s_mask(masks[1], ids[SYNSETS[1]])
    assert mask[5:10, 20:30].all()
    assert mask.sum() == 50


def test_imagenet_s_parts_that_lack_are_named_in_one_line(imagenet_s):
    (imagenet_s / "ImageNetS_categories_im919.txt").unlink()
    with pytest.raises(LayoutError, match="all 50, 300 or 919") as error:
        layouts.imagenet_s_ids(imagenet_s, SYNSETS)
    one_line(error)
    (imagenet_s / "validation-segmentation" / SYNSETS[0] / "a.png").unlink()
    with pytest.raises(LayoutError, match=r"no mask .*a\.png"):
        layouts.imagenet_s(imagenet_s)
    with pytest.raises(LayoutError, match="no folder 'validation'"):
        layouts.imagenet_s(imagenet_s / "validation")


# --- COCO -------------------------------------------------------------------------------------


def test_coco_pictures_come_by_id_with_captions_and_instances_without_crowds(coco):
    first, second = layouts.coco(coco)
    assert first.path.name == "000000000003.jpg"
    assert second.captions == ("A dog runs.", "Another one.")
    assert [name for name, _ in second.instances] == ["dog", "cat"]
    polygon, lengths = (layouts.coco_mask(s, second.size) for _, s in second.instances)
    assert polygon[5:14, 10:19].all()
    assert polygon.sum() == 81  # as COCO's own program draws it
    assert lengths[:, 0].all()
    assert lengths.sum() == 30


def test_coco_parts_that_lack_are_named_in_one_line(coco):
    (coco / "val2017" / "000000000003.jpg").unlink()
    with pytest.raises(LayoutError, match=r"no picture .*3\.jpg"):
        layouts.coco(coco)
    (coco / "val2017").rename(coco / "pictures")
    with pytest.raises(LayoutError, match="no folder 'val2017'"):
        layouts.coco(coco)
    (coco / "pictures").rename(coco / "val2017")
    notes = coco / "annotations"
    (notes / "captions_val2017.json").write_text("{}")
    with pytest.raises(LayoutError, match="no 'images'"):
        layouts.coco(coco)
    (notes / "captions_val2017.json").write_text("nonsense")
    with pytest.raises(LayoutError, match="not readable as JSON") as error:
        layouts.coco(coco)
    one_line(error)
    (notes / "instances_val2017.json").unlink()
    with pytest.raises(LayoutError, match=r"captions_val2017\.json, annotations/instances"):
        layouts.coco(notes)


# --- material ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return heatproof.load("scenes")


def test_folders_make_material_with_imagenets_own_names(imagenet, scenes):
    sizes = {"images": 4, "located": 4, "captions": 4, "seed": 0}
    made = folder_material(scenes, imagenet=imagenet, imagenet_s=None, coco=None, **sizes)
    assert made.perturbed is not None
    assert made.perturbed.names == ("tench", "goldfish")
    assert len(made.perturbed.prompts[0]) == 80
    assert len(made.perturbed.photos) == 4
    again = folder_material(scenes, imagenet=imagenet, imagenet_s=None, coco=None, **sizes)
    assert made.perturbed.photos.paths == again.perturbed.photos.paths
    assert made.located is None
    with pytest.raises(InputError, match="expected ImageNet"):
        folder_material(scenes, imagenet=imagenet / "no", imagenet_s=None, coco=None, **sizes)


def test_coco_objects_are_searched_with_the_named_one_first(coco, scenes):
    sizes = {"images": 4, "located": 4, "captions": 4, "seed": 0}
    made = folder_material(scenes, imagenet=None, imagenet_s=None, coco=coco, **sizes)
    assert made.located.prompts == ("a photo of a cat.", "a photo of a dog.")
    assert made.located.objects.tolist() == [1, 2]
    dog, cat = 81, 30
    named = int(made.located.named[1])
    sizes_of = made.located.masks(1).sum((1, 2)).tolist()
    assert sizes_of == ([cat, dog] if named == 0 else [dog, cat])
    assert made.located.absent.tolist() == [[True, False], [False, False]]
    assert made.captioned.texts == ("A dog sleeps.", "A dog runs.")


def test_noise_leaves_the_model_as_it_was(scenes):
    before = {k: v.clone() for k, v in scenes.module.state_dict().items()}
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    own = encode_pictures(scenes, pixels)
    with noised(scenes, 0.0, 1) as model:
        assert torch.equal(encode_pictures(model, pixels), own)

    def fail_within(level):
        with noised(scenes, level, 1) as model:
            assert not torch.allclose(encode_pictures(model, pixels), own, atol=0.1)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within(0.5)
    after = scenes.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_mirrored_scenes_are_cut_back_to_the_scene_by_the_models_own_crop(scenes):
    made = scenes_material(images=3, located=6, captions=3, seed=0, graded=False)
    for n, photo in enumerate(made.located.photos):
        assert photo.size == (64 + 2 * MARGIN, 64)
        middle = photo.crop((MARGIN, 0, MARGIN + 64, 64))
        assert torch.equal(scenes.image.preprocess(photo), scenes.image.preprocess(middle))
        row = np.asarray(photo)
        assert (row[:, MARGIN - 1] == row[:, MARGIN + 1]).all()
        assert (row[:, -MARGIN] == row[:, -MARGIN - 2]).all()
        masks = made.located.masks(n)
        assert masks.shape == (int(made.located.objects[n]), 64, 88)
        assert torch.equal(masks[..., MARGIN - 1], masks[..., MARGIN + 1])
        assert int(masks[0].sum()) >= 20
        assert not made.located.absent[n, made.located.named[n]]
        assert int((~made.located.absent[n]).sum()) == len(masks)


def test_scenes_material_is_seeded_and_its_labels_fit_its_names():
    one, same, other = (
        scenes_material(images=4, located=3, captions=4, seed=s, graded=True) for s in (3, 3, 4)
    )
    assert one.captioned.texts == same.captioned.texts
    assert one.captioned.texts != other.captioned.texts
    assert np.array_equal(np.asarray(one.perturbed.photos[0]), np.asarray(same.perturbed.photos[0]))
    shape, colour, both = one.tasks
    for n in range(4):
        words = both.names[int(both.labels[n])].split()
        assert words == [colour.names[int(colour.labels[n])], shape.names[int(shape.labels[n])]]
    assert one.family[-1].name == "final"
