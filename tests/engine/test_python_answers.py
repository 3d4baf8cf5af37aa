"""Python answers as the command line does: what is meant is taken, or named in one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import heatproof
import tiny
from heatproof import InputError, ModelError, PromptError, UnknownName, checking, specimens
from heatproof.engine import api
from heatproof.errors import ImageError

MODEL = tiny.open_clip_vit(torch.float32)
HEIGHT, WIDTH = MODEL.image.preprocess.height, MODEL.image.preprocess.width
PHOTO = Image.fromarray(
    np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
)


def maps(model=MODEL, images=PHOTO, prompts=("a dog",), **more) -> torch.Tensor:
    return heatproof.explain(model, images, prompts, certify=False, **more).maps


def test_a_model_may_be_named_or_a_module():
    named = heatproof.explain("scenes", PHOTO, "a red circle", certify=False)
    assert named.record.model == "scenes"
    again = maps(heatproof.load("scenes"), prompts="a red circle")
    assert torch.equal(named.maps, again)
    wrapped = heatproof.wrap(MODEL.module)
    assert torch.equal(maps(MODEL.module), maps(wrapped))


def test_what_is_no_model_is_said_with_what_to_pass():
    created = (MODEL.module, print, print)  # open_clip.create_model_and_transforms
    with pytest.raises(ModelError, match="pass the first one alone"):
        maps(created)
    with pytest.raises(ModelError, match="pass the module among them alone"):
        heatproof.wrap(created)
    with pytest.raises(ModelError, match="wrapped already"):
        heatproof.wrap(MODEL)
    with pytest.raises(ModelError, match="did you mean scenes"):
        maps("scenez")
    with pytest.raises(ModelError, match=r"open_clip\.get_tokenizer"):
        heatproof.wrap(MODEL.module, tokenizer="ViT-B-32")
    assert isinstance(open_clip.get_tokenizer("ViT-B-32"), open_clip.SimpleTokenizer)
    with pytest.raises(ModelError, match=r"fails on a PIL image with TypeError"):
        heatproof.wrap(MODEL.module, preprocess=lambda: None)


def test_prompts_of_overlays_are_named_or_counted():
    found = heatproof.explain(MODEL, PHOTO, ["a red circle", "a cat"], certify=False)
    with pytest.raises(UnknownName, match=r"'a red circl'; did you mean a red circle\?"):
        found.overlay(0, "a red circl")
    for image, prompt, words in (
        (1, 0, "got image 1, expected 0"),
        (-2, 0, "got image -2, expected 0"),
        (0, 2, "got prompt 2, expected 0 to 1"),
        (0, -3, "got prompt -3, expected 0 to 1"),
        (0, 1.0, "expected a whole number"),
        (True, 0, "expected a whole number"),
    ):
        with pytest.raises(InputError, match=words):
            found.overlay(image, prompt)
    last = found.overlay(-1, -1)
    assert last.tobytes() == found.overlay(0, "a cat").tobytes()
    assert last.tobytes() == found.overlay(np.int64(0), np.int64(1)).tobytes()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("GradECLIP", r"did you mean grad-eclip\?"),
        ("attention_x_gradient", r"did you mean attention-x-gradient\?"),
        (["gae", "rollout"], "one method is asked at a time"),
        ("gae,rollout", "one method is asked at a time"),
        (lambda model: 3, "was given the model and returned a int"),  # noqa: ARG005
        (lambda a, b, c: a, "needs 3 arguments"),  # noqa: ARG005
        (5, "got 5 as a method, expected a name"),
    ],
)
def test_a_method_that_is_none_is_said(method, words):
    for call in (
        lambda: maps(method=method),
        lambda: heatproof.audit(method, MODEL),
        lambda: heatproof.explain_each(MODEL, [PHOTO], ["a dog"], method=method),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_a_class_of_methods_is_made_with_its_defaults():
    wanted = maps(method="grad-eclip")
    assert torch.equal(maps(method=heatproof.methods.GradECLIP), wanted)


def test_sizes_are_one_number_two_or_a_text():
    patch = HEIGHT // MODEL.image.layout(HEIGHT, WIDTH).rows
    side = 4 * patch
    wanted = maps(image_size=(side, side))
    assert wanted.shape[2:] == (4, 4)
    for same in (side, np.int64(side), f"{side}x{side}", [side, side]):
        assert torch.equal(maps(image_size=same), wanted)
    assert torch.equal(maps(image_size="native"), maps())
    for wrong in (0, -8, 8.0, (8,), (8, 8, 8), "8", "big", (8, "a"), True):
        with pytest.raises(InputError, match=r"got image size .* expected HEIGHTxWIDTH"):
            maps(image_size=wrong)


def test_prompts_are_texts_in_any_collection_that_has_an_order():
    wanted = maps(prompts=["a dog", "a cat", "a dog"])
    assert torch.allclose(wanted[:, 0], wanted[:, 2], atol=1e-6)  # said twice, explained twice
    assert torch.equal(maps(prompts=(each for each in ("a dog", "a cat", "a dog"))), wanted)
    assert torch.equal(maps(prompts=np.array(["a dog", "a cat", "a dog"])), wanted)
    assert torch.allclose(maps(prompts="a dog"), wanted[:, :1], atol=1e-6)
    with pytest.raises(PromptError, match=r"a dict of 1, .* try list\(prompts.values\(\)\)"):
        maps(prompts={"dog": "a dog"})
    with pytest.raises(PromptError, match="a set of 2"):
        maps(prompts={"a dog", "a cat"})
    with pytest.raises(PromptError, match="prompt 2 is 3, expected a text"):
        maps(prompts=["a dog", 3])
    with pytest.raises(PromptError, match="width 3"):
        maps(prompts=torch.ones(1, 3))
    with pytest.raises(PromptError, match="not finite"):
        maps(prompts=torch.full((1, 3), torch.nan))


def test_a_classifiers_prompts_may_be_indices(tmp_path, monkeypatch):
    name = next(each for each in specimens.SPECIMENS if specimens.SPECIMENS[each]().classes)
    classifier = specimens.SPECIMENS[name]()
    size = classifier.image.preprocess
    photo = Image.new("RGB", (size.width, size.height), "red")
    by_name = maps(classifier, photo, [classifier.classes[1]])
    assert torch.equal(maps(classifier, photo, [1]), by_name)
    assert torch.equal(maps(classifier, photo, [np.int64(1)]), by_name)
    monkeypatch.chdir(tmp_path)
    Path(classifier.classes[1]).write_text("a file of a class's name hinders nothing")
    assert torch.equal(maps(classifier, photo, [classifier.classes[1]]), by_name)
    for wrong, words in (([-1], "at least 0"), ([10**6], "class index"), ([1.0], "class name")):
        with pytest.raises(PromptError, match=words):
            maps(classifier, photo, wrong)


def test_images_are_paths_images_or_arrays_in_any_order(tmp_path):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, turn in zip(files, (PHOTO, PHOTO.rotate(180)), strict=True):
        turn.save(file)
    wanted = maps(images=files)
    assert torch.equal(maps(images=[str(each) for each in files]), wanted)
    assert torch.equal(maps(images=iter(files)), wanted)
    assert torch.equal(maps(images=np.stack([np.asarray(Image.open(f)) for f in files])), wanted)
    assert torch.allclose(maps(images=np.asarray(PHOTO)), wanted[:1], atol=1e-6)
    lots = heatproof.explain_each(MODEL, (each for each in files), ["a dog"], certify=False)
    assert torch.allclose(torch.cat([each.maps for each in lots]), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("https://example.org/dog.jpg", r"a web address.*download it first"),
        (b"\x89PNG", r"PIL\.Image\.open\(io\.BytesIO\(data\)\)"),
        (np.zeros((8, 8, 3)), r"array of shape \(8, 8, 3\) and float64.*uint8"),
        (np.zeros((8, 8), np.uint8), r"array of shape \(8, 8\)"),
        ([torch.zeros(3, 8, 8)], r"torch\.stack\(tensors\)"),
        ({"a": "b.jpg"}, r"list\(images\.values\(\)\)"),
        (torch.zeros(0, 3, HEIGHT, WIDTH), "all of them there"),
        (torch.zeros(1, 3, HEIGHT, WIDTH) / 0, "not finite"),
        (torch.full((1, 3, HEIGHT, WIDTH), torch.inf), "not finite"),
    ],
)
def test_what_is_no_image_is_said(image, words):
    with pytest.raises(ImageError, match=words):
        maps(images=image)


@pytest.mark.parametrize("progress", [5, "x", lambda: None, lambda done: None, int])  # noqa: ARG005
def test_a_bad_progress_fails_before_the_work(progress, monkeypatch):
    """Break: take `checking.progress` out of `ExplainOptions`."""

    def never(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr(api.inputs, "images", never)
    for call in (
        lambda: heatproof.explain(MODEL, PHOTO, "a dog", progress=progress),
        lambda: heatproof.explain_words(MODEL, PHOTO, "a dog", progress=progress),
        lambda: heatproof.jacobian(MODEL, PHOTO, progress=progress),
        lambda: heatproof.explain_each(MODEL, [PHOTO], "a dog", progress=progress),
    ):
        with pytest.raises(InputError, match="progress"):
            call()


def test_a_prompt_that_is_a_file_is_refused(tmp_path, monkeypatch):
    """Break: take `checking.no_files` out of `inputs.check_prompts`."""
    monkeypatch.chdir(tmp_path)
    Path("a dog").write_text("a file of that name")
    doors = (
        lambda prompts: maps(prompts=prompts),
        lambda prompts: heatproof.explain_words(MODEL, PHOTO, prompts),
        lambda prompts: heatproof.explain_each(MODEL, [PHOTO], prompts),
        lambda prompts: heatproof.jacobian(MODEL, PHOTO, certify=False).maps(prompts),
    )
    for door in doors:
        for text in ("b.jpg", "B.PNG", "some where/c.jpeg", "a dog"):
            with pytest.raises(PromptError, match=r"name of a file.*pass several images as a list"):
                door(["a cat", text])
    assert maps(prompts=["a dog "]).shape[1] == 1  # the way out that the error names


def test_long_input_is_not_said_again():
    """Break: a bare {value!r} in an error's text, and no limit in `HeatproofError`."""
    long = "x" * 10_000
    for call in (
        lambda: maps(method=long),
        lambda: maps(long),
        lambda: maps(images=long),
        lambda: heatproof.load(f"open_clip:{long}"),
        lambda: heatproof.data.open(f"{long}:x"),
        lambda: maps(score=long),
        lambda: maps(memory=long),
    ):
        with pytest.raises(InputError) as raised:
            call()
        assert len(str(raised.value)) <= 1000
    found = heatproof.explain(MODEL, PHOTO, [long, long + "y"], certify=False)
    with pytest.raises(UnknownName) as raised:
        found.overlay(0, long[:-1])
    assert len(str(raised.value)) <= 1000


def test_errors_are_one_line_of_the_given_length():
    error = InputError("one\ntwo\r\n  three " + "z" * 5000)
    assert str(error).startswith("one two three zzz")
    assert len(str(error)) == heatproof.errors.LONGEST
    assert checking.shortened("abcdefghij", 9) == "abc...hij"


def test_seeds_are_those_that_every_library_takes():
    assert maps(seed=2**32 - 1).isfinite().all()
    for wrong in (-1, 2**32, 1.0, True, "0"):
        with pytest.raises(InputError, match="got seed="):
            maps(seed=wrong)


def test_a_model_that_was_added_to_open_clip_can_be_named(monkeypatch):
    """`specs` reads open_clip's own list where it is imported: users add to it."""
    listed = [*open_clip.list_models(), "my-own"]
    monkeypatch.setattr(open_clip, "list_models", lambda: listed)
    from heatproof import specs

    family, name = specs.check("open_clip:my-own")
    assert (family.prefix, name) == ("open_clip", "my-own")


def test_records_keep_the_size_that_was_asked(tmp_path):
    file = tmp_path / "a.png"
    PHOTO.save(file)
    found = heatproof.explain(MODEL, file, "a dog", image_size=WIDTH, certify=False)
    assert found.record.image_size == f"{WIDTH}x{WIDTH}"
    assert (
        replace(found.record, image_size="native")
        == heatproof.explain(MODEL, file, "a dog", certify=False).record
    )
