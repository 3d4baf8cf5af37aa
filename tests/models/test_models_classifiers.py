"""timm's and torchvision's classifiers: descriptions against what the models compute."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import heatproof
from heatproof.errors import InputError, ModelError, PromptError, ReadingError, UnknownName
from heatproof.models import Model, classifiers
from heatproof.models.class_names import class_indices
from heatproof.models.classifiers import loading
from heatproof.reading import find_attention_layers, reading
from ramps import worst_place

SIZE, OTHER = (21, 35), (28, 14)
TINY = {"embed_dim": 36, "depth": 2, "num_heads": 3, "patch_size": 7, "num_classes": 5}

TIMM = {
    "vit": "vit_base_patch16_224",
    "registers": "vit_base_patch14_reg4_dinov2",
    "siglip": "vit_base_patch16_siglip_224",
    "eva, mean": "eva02_base_patch14_224",
    "eva, class": "eva02_base_patch16_clip_224",
    "dynamic size": "test_vit",
    "mean, register": "test_vit2",
    "pool over prefix": "test_vit3",
    "mean of patches": "vit_base_patch16_gap_224",
    "deit": "deit_base_patch16_224",
    "deit 3": "deit3_base_patch16_224",
}
FAMILIES = [*TIMM, "torchvision"]
PHOTOS = ((150, 98), (61, 124), (97, 97))


def module_of(name: str) -> nn.Module:
    """A two-block classifier of five classes, its weights shaken, on a grid of 3 x 5."""
    with torch.random.fork_rng():
        torch.manual_seed(23)
        if name == "torchvision":
            module = torchvision.models.VisionTransformer(21, 7, 2, 3, 36, 37, num_classes=5)
        else:
            module = timm.create_model(TIMM[name], img_size=SIZE, **TINY)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval().double()


@cache
def tiny(name: str) -> Model:
    return classifiers.wrap(module_of(name))


def native(model: Model) -> tuple[int, int]:
    return model.image.preprocess.height, model.image.preprocess.width


def other(name: str) -> tuple[int, int]:
    return (28, 28) if name == "torchvision" else OTHER


def pixels(*size: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)


def resized(name: str) -> Model:
    model = tiny(name)
    assert model.resized is not None
    return model.resized(*other(name))


MODELS: list[tuple[str, Callable[[str], Model]]] = [
    (name, make) for name in FAMILIES for make in (tiny, resized)
]


@pytest.mark.parametrize(("name", "make"), MODELS)
def test_the_layout_is_that_of_the_keys_of_every_attention_call(
    name: str, make: Callable[[str], Model]
) -> None:
    model = make(name)
    size = native(model)
    with torch.no_grad(), reading(model.module) as trace:
        logits = model.image.encode(pixels(*size))
    layout = model.image.layout(*size)
    assert (layout.rows, layout.cols) == (size[0] // 7, size[1] // 7)
    assert {layer.key.shape[2] for layer in trace.layers} == {layout.tokens}
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(("name", "make"), MODELS)
def test_the_readout_alone_feeds_the_logits(name: str, make: Callable[[str], Model]) -> None:
    model = make(name)
    size = native(model)
    with reading(model.module) as trace:
        logits = model.image.encode(pixels(*size))
    (grads,) = torch.autograd.grad(logits[:, 3].sum(), [trace.layers[-1].output])
    live = (grads.abs().sum((1, 3)) > 0).nonzero().tolist()
    layout, row = model.image.layout(*size), model.image.readout.row
    patches = range(len(layout.prefix), layout.tokens)
    rows = list(patches) if row is None else [row]
    assert live == [[image, row] for image in range(2) for row in rows]


@torch.no_grad()
@pytest.mark.parametrize(("name", "make"), MODELS)
def test_the_read_logits_are_the_untouched_ones(name: str, make: Callable[[str], Model]) -> None:
    model = make(name)
    images = pixels(*native(model))
    untouched = model.module(images)
    with reading(model.module):
        read = model.image.encode(images)
    torch.testing.assert_close(read, untouched, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_lies_where_the_layout_says(name: str) -> None:
    model = resized(name)
    size = native(model)
    base, row, col = pixels(*size)[:1], 3, 1
    changed = base.clone()
    changed[:, :, 7 * row : 7 * row + 7, 7 * col : 7 * col + 7] += 1.0
    keys: list[Tensor] = []
    for each in (base, changed):
        with reading(model.module) as trace:
            model.image.encode(each)
        keys.append(trace.layers[0].key)
    moved = (keys[1] - keys[0]).abs().sum((0, 1, 3))
    assert (model.image.layout(*size).grid(moved) > 1e-9).nonzero().tolist() == [[row, col]]


def test_prefix_tokens_are_named() -> None:
    registers = tuple(f"register {number}" for number in (1, 2, 3, 4))
    assert tiny("registers").image.layout(*SIZE).prefix == ("class", *registers)
    assert tiny("mean, register").image.layout(*SIZE).prefix == ("register 1",)
    assert tiny("siglip").image.layout(*SIZE).prefix == ()


# Other sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_another_size_shares_the_weights_and_leaves_the_model_as_it_was(name: str) -> None:
    module = module_of(name)
    model = classifiers.wrap(module)
    before, hash_before = module(pixels(*native(model))), model.weights_hash
    assert model.resized is not None
    twin = model.resized(*other(name))
    twin.image.encode(pixels(*other(name)))
    assert torch.equal(module(pixels(*native(model))), before)
    assert classifiers.wrap(module).weights_hash == hash_before
    mine, theirs = dict(module.named_parameters()), dict(twin.module.named_parameters())
    changed = {key for key in mine if mine[key] is not theirs[key]}
    assert changed <= {"pos_embed", "encoder.pos_embedding"}
    assert twin.classes == model.classes


@torch.no_grad()
def test_another_size_is_timms_own_dynamic_size() -> None:
    model, module = tiny("vit"), module_of("vit")
    dynamic = timm.create_model(TIMM["vit"], img_size=SIZE, dynamic_img_size=True, **TINY)
    dynamic.eval().double().load_state_dict(module.state_dict())
    assert model.resized is not None
    twin = model.resized(*OTHER)
    torch.testing.assert_close(twin.image.encode(pixels(*OTHER)), dynamic(pixels(*OTHER)))


def test_sizes_that_do_not_fit_are_refused() -> None:
    vit, square = tiny("vit").resized, tiny("torchvision").resized
    assert vit is not None
    assert square is not None
    with pytest.raises(ModelError, match=r"got an input size of 20 x 34, .* try 21 x 35"):
        vit(20, 34)
    with pytest.raises(ModelError, match="takes square pictures only; try 14 x 14"):
        square(28, 14)


# Preprocessing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("make", [tiny, resized])
@pytest.mark.parametrize("name", ["vit", "torchvision"])
def test_the_view_is_what_the_transform_shows(
    name: str, make: Callable[[str], Model], photo: tuple[int, int]
) -> None:
    # timm rounds each side of a target that is not square by itself: within a pixel of the view.
    allowed = photo[0] / 35 if (name, make) == ("vit", tiny) else 1
    assert worst_place(make(name).image.preprocess, *photo) < max(1, allowed)


def test_torchvisions_usual_preprocessing_is_that_of_its_weights() -> None:
    module = torchvision.models.VisionTransformer(224, 32, 1, 1, 8, 8).eval()
    preprocess = classifiers.wrap(module).image.preprocess
    photo = Image.effect_noise((310, 270), 40).convert("RGB")
    usual = torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1.transforms()
    assert preprocess.resize_to == 256
    assert torch.equal(preprocess(photo), usual(photo))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_every_way_of_cropping_is_described(mode: str, photo: tuple[int, int]) -> None:
    module = timm.create_model(TIMM["vit"], **(TINY | {"img_size": 35})).eval()
    module.pretrained_cfg |= {"crop_mode": mode, "crop_pct": 0.9, "input_size": (3, 35, 35)}
    assert worst_place(classifiers.wrap(module).image.preprocess, *photo) < 1


# Classes ---------------------------------------------------------------------------------------


def named(*classes: str) -> Model:
    return replace(tiny("vit"), classes=classes)


def test_classes_are_found_by_name_synonym_and_index() -> None:
    model = named("tench, Tinca tinca", "Egyptian cat", "hen")
    prompts = ["Tinca  tinca", "egyptian CAT", "tench, Tinca tinca", "2", " hen "]
    assert class_indices(model, prompts).tolist() == [0, 1, 0, 2, 2]


def test_a_class_called_like_an_index_goes_by_its_name() -> None:
    assert class_indices(named("9", "8", "1"), ["1", "8"]).tolist() == [2, 1]


def test_a_name_of_two_classes_is_refused_with_their_indices() -> None:
    model = named("hen", "crane", "crane", "cock", "bird, cock")
    said = r"2 classes are called 'Crane'; give an index: 1 \(crane\), 2 \(crane\)"
    with pytest.raises(PromptError, match=said):
        class_indices(model, ["Crane"])
    assert class_indices(model, ["cock"]).tolist() == [3]  # the whole name comes first


def test_unknown_classes_and_indices_are_one_line() -> None:
    with pytest.raises(UnknownName, match="unknown class 'hne'; did you mean hen"):
        class_indices(named("hen", "tench"), ["hne"])
    with pytest.raises(PromptError, match="got the class index 2, expected 0 to 1"):
        class_indices(named("hen", "tench"), ["2"])
    many = named(*(f"species {index}" for index in range(30)))
    with pytest.raises(PromptError, match="expected an index from 0 to 29"):
        class_indices(many, ["zzz"])


def test_a_number_of_classes_that_is_imagenets_has_its_names() -> None:
    module = timm.create_model(TIMM["vit"], img_size=SIZE, **(TINY | {"num_classes": 1000}))
    classes = classifiers.wrap(module.eval()).classes
    assert classes[0] == "tench, Tinca tinca"
    assert len(classes) == 1000
    assert tiny("vit").classes == tuple(f"class {index}" for index in range(5))


# Loading ---------------------------------------------------------------------------------------


def test_a_bare_name_has_the_same_random_weights_every_time_and_says_so() -> None:
    state = torch.random.get_rng_state()
    first, second = (loading.load("test_vit") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.weights_hash == second.weights_hash
    assert first.weights == "random"
    assert "timm:test_vit has random weights (seed 0)" in first.notices[0]


def test_a_local_file_brings_its_own_number_of_classes(tmp_path: Path) -> None:
    saved = timm.create_model("test_vit", num_classes=3)
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "mine.safetensors")
    model = loading.load(f"test_vit/{tmp_path / 'mine.safetensors'}")
    assert (model.weights, model.notices) == ("loaded", ())
    assert model.classes == ("class 0", "class 1", "class 2")
    assert model.weights_hash == classifiers.wrap(saved.eval()).weights_hash


def test_a_file_whose_preprocessing_has_to_be_guessed_gets_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's weights of ViT-B/16 differ in mean and deviation; here test_vit stands for it."""
    file = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), file)
    assert loading.load(f"test_vit/{file}").notices == ()  # there is one set of weights
    tags = timm.list_pretrained("vit_base_patch16_224.*")
    config = timm.get_pretrained_cfg
    monkeypatch.setattr(timm, "list_pretrained", lambda _: tags)
    monkeypatch.setattr(
        timm, "get_pretrained_cfg", lambda name: config(name.replace("test_vit", "test_vit2"))
    )
    (notice,) = loading.load(f"test_vit/{file}").notices
    assert "timm's weights of test_vit differ in mean, std, crop_pct; those of " in notice
    assert f"(another: timm:test_vit.TAG/{file})" in notice


def test_names_tags_and_files_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown timm model 'vit_base_patch16_24'; did you mean"):
        loading.load("vit_base_patch16_24")
    with pytest.raises(UnknownName, match="pretrained tag of timm's test_vit 'r16_in1k'"):
        loading.load("test_vit.r16_in1k")
    with pytest.raises(ModelError, match="no such file"):
        loading.load(f"test_vit/{tmp_path / 'nothing.safetensors'}")
    with pytest.raises(ModelError, match=r"name the file: timm:test_vit.r160_in1k/FILE"):
        loading.load("test_vit.r160_in1k", allow_download=False)


def test_another_architectures_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit2").state_dict(), file)
    with pytest.raises(ModelError, match="does not fit test_vit"):
        loading.load(f"test_vit/{file}")


# Models that cannot be explained ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: timm.create_model("test_resnet"), "has no attention to read"),
        (lambda: torchvision.models.squeezenet1_0(), "has no attention to read"),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), "averages two heads"),
        (lambda: timm.create_model("test_vit", global_pool="max"), "pools by 'max'"),
        (lambda: timm.create_model("test_maxvit"), "whose attention heatproof does not know"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(
    build: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        classifiers.wrap(build().eval())
    assert "\n" not in str(caught.value)


# Image towers ----------------------------------------------------------------------------------


def clip_tower(tag: str = "openai", **settings: Any) -> nn.Module:
    """timm's CLIP tower of OpenAI's weights' description, small and random."""
    name = f"vit_base_patch16_clip_224.{tag}"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        sizes = {"img_size": 32, "depth": 2, "embed_dim": 36, "num_heads": 3}
        return timm.create_model(name, **sizes, **settings).eval()


@pytest.mark.parametrize(
    "build",
    [clip_tower, lambda: timm.create_model("test_vit", num_classes=0, img_size=32).eval()],
)
def test_an_image_tower_is_compared_by_cosine(build: Callable[[], nn.Module]) -> None:
    """As a classifier of 512 classes its scores are dot products, and as long as embeddings."""
    module = build()
    model = classifiers.wrap(module)
    assert model.classes == ()
    assert "image tower without a text tower" in model.notices[0]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = module(images)
    texts = torch.randn(3, own.shape[1], generator=torch.Generator().manual_seed(2))
    expected = torch.cosine_similarity(own[:, None], texts[None], dim=-1)
    for name in ("attention-x-gradient", "grad-eclip", "libragrad", "rise"):
        found = heatproof.explain(model, images, texts, method=name)
        torch.testing.assert_close(found.scores, expected)
    assert model.resized is not None
    assert model.resized(48, 32).classes == ()


def test_a_fine_tuned_clip_tower_is_a_classifier() -> None:
    assert len(classifiers.wrap(clip_tower("openai_ft_in1k")).classes) == 1000
    assert len(classifiers.wrap(clip_tower(num_classes=5)).classes) == 5


def test_an_image_tower_says_what_it_takes() -> None:
    model = classifiers.wrap(clip_tower())
    images = torch.rand(1, 3, 32, 32)
    for call, said in (
        (lambda: heatproof.explain(model, images, ["a dog"]), "got 'a dog'; expected embeddings"),
        (lambda: heatproof.explain_words(model, images, ["a"]), "has no text tower"),
        (lambda: heatproof.explain(model, images, torch.ones(1, 3).long()), "has no text tower"),
        (lambda: heatproof.explain(model, images, torch.ones(1, 9)), "width 9, .* has 512"),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_numbers_as_prompts_of_a_classifier_are_explained_and_said() -> None:
    model = classifiers.wrap(timm.create_model("test_vit", img_size=32, num_classes=4).eval())
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    found = heatproof.explain(model, images, weights)
    logits = model.image.encode(images)
    torch.testing.assert_close(found.scores, (logits[:, :1] - logits[:, 1:2]).detach())
    assert any("sum of all class logits" in notice for notice in found.record.notices)
    plain = heatproof.explain(model, images, ["0"])
    assert not any("sum of all class logits" in notice for notice in plain.record.notices)


def test_windowed_attention_is_refused_by_the_reading() -> None:
    build = timm.models.SwinTransformer
    sizes = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 1, 1)}
    model = classifiers.wrap(build(img_size=56, window_size=7, num_classes=5, **sizes).eval())
    with pytest.raises(ReadingError, match="windowed"):
        find_attention_layers(model.module, lambda: model.image.encode(torch.rand(1, 3, 56, 56)), 1)


def test_only_timms_and_torchvisions_models_are_recognised() -> None:
    assert classifiers.recognises(module_of("vit"))
    assert classifiers.recognises(module_of("torchvision"))
    assert not classifiers.recognises(nn.Linear(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_large_patch14_clip_224"])
def test_true_sizes_are_read_as_they_are(name: str) -> None:
    model = loading.load(name)
    images = torch.rand(1, 3, *native(model), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = model.image.encode(images)
        with reading(model.module) as trace:
            read = model.image.encode(images)
    assert trace.layers[-1].key.shape[2] == model.image.layout(*native(model)).tokens
    assert (read - untouched).norm() / untouched.norm() < 1e-5
