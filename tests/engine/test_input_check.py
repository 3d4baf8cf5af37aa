"""The input check: the library's own processor and call, against what an explanation reports.

`expected` calls each library by hand, as its documentation does: nothing of heatproof's takes part.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import heatproof
import tiny_hf
from families import ids_for
from heatproof.errors import InputError
from heatproof.models import Model
from heatproof.models import open_clip as open_clip_models
from heatproof.models.library import NoLibrary
from heatproof.specimens import SPECIMENS, model_of
from heatproof.specimens import hugging_face as hf_specimens
from input_photos import input_of, photo

PHOTOS = [(331, 200), (90, 157), (64, 61)]


def prompts_of(family: str, model: Model) -> Any:
    return list(model.classes[:2]) if model.classes else ids_for(family, 2)


# Each library, called by hand --------------------------------------------------------------------


def expected(family: str, module: Any, picture: Image.Image, ids: Any) -> Tensor:
    """The library's own scores of one photo, as (prompt,)."""
    if family.startswith("open_clip"):
        transform = image_transform_v2(PreprocessCfg(**module.visual.preprocess_cfg), False)
        image = module.encode_image(transform(picture)[None].double(), normalize=True)
        return (image @ module.encode_text(ids, normalize=True).T)[0]
    if family.startswith("timm"):
        size = (3, *module.patch_embed.img_size)
        config = timm.data.resolve_model_data_config(module, {"input_size": size})
        return module(timm.data.create_transform(**config)(picture)[None].double())[0, :2]
    if family.startswith("torchvision"):
        weights = torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
        pixels = weights.transforms(crop_size=21, resize_size=24)(picture)
        return module(pixels[None].double())[0, :2]
    processor = hf_specimens.usual_processor(module)
    inputs = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in processor(images=picture, return_tensors="pt").items()
    }
    if "ForImageClassification" in type(module).__name__:
        return module(**inputs).logits[0, :2]
    if family == "hf blip":
        mask = (ids != 0).long()
        found = module(input_ids=ids, attention_mask=mask, use_itm_head=False, **inputs)
        return found.itm_score[0]
    found = module(input_ids=ids, **inputs)
    bias = getattr(module, "logit_bias", torch.zeros(()))
    return ((found.logits_per_image - bias) / module.logit_scale.exp())[0]


@torch.no_grad()
@pytest.mark.parametrize("family", SPECIMENS)
def test_the_librarys_processor_and_call_give_the_scores(family: str) -> None:
    model = model_of(family)
    prompts = prompts_of(family, model)
    for number, size in enumerate(PHOTOS):
        picture = photo(*size, seed=number)
        explanation = heatproof.explain(model, picture, prompts)
        own = expected(family, model.module, picture, prompts)
        torch.testing.assert_close(explanation.scores[0].double(), own, rtol=0, atol=1e-5)
        check = input_of(explanation)
        assert check.verdict == "holds", check.evidence
        assert check.value is not None
        assert check.value < 1e-10
        assert explanation.certificate.holds


@pytest.mark.parametrize("name", tiny_hf.WITH_TOKENIZER)
def test_texts_go_through_the_librarys_tokenizer_too(name: str) -> None:
    model = tiny_hf.MODELS[name](tokenizer=tiny_hf.tokenizer(begin=name != "siglip"))
    texts = ["a dog", "white snow and a red cat on a ball"]  # one is longer than the context
    explanation = heatproof.explain(model, photo(90, 157), texts, score="logit")
    assert input_of(explanation).verdict == "holds"
    processor = hf_specimens.usual_processor(model.module)
    tokens = tiny_hf.tokenizer(begin=name != "siglip")(
        texts, padding="max_length", truncation=True, max_length=13, return_tensors="pt"
    )
    images = processor(images=photo(90, 157), return_tensors="pt")
    images["pixel_values"] = images["pixel_values"].double()
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        if name == "blip":
            own = model.module(**images, **given, use_itm_head=False).itm_score
        else:
            own = model.module(**images, **given).logits_per_image
    torch.testing.assert_close(explanation.scores.double(), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("score", ["cosine", "logit", "margin", "contrast:a blue star"])
def test_every_score_is_compared(score: str) -> None:
    model = heatproof.load("scenes")
    picture = photo(90, 157)
    explanation = heatproof.explain(model, picture, ["a red circle", "a square"], score=score)
    check = input_of(explanation)
    assert (check.verdict, check.value) == ("holds", pytest.approx(0, abs=1e-5))
    assert explanation.scores.abs().max() > 1e-4


# Planted violations ------------------------------------------------------------------------------


def planted(model: Model, change: Any) -> Model:
    """The model with pixels that its own processor does not make."""
    process = model.image.preprocess
    transform = process.transform
    broken = replace(process, transform=lambda image: change(transform, image))
    return replace(model, image=replace(model.image, preprocess=broken))


def resized(filter: Image.Resampling) -> Any:
    """Another filter, or a squash, before the transform, which then only normalises."""

    def change(transform: Any, image: Image.Image) -> Tensor:
        height, width = transform(image).shape[1:]
        return transform(image.resize((width, height), filter))

    return change


VIOLATIONS = {
    "left and right are swapped": lambda transform, image: transform(image).flip(2),
    "top and bottom are swapped": lambda transform, image: transform(image).flip(1),
    "red and blue are swapped": lambda transform, image: transform(image).flip(0),
    "mean or standard deviation differs": lambda transform, image: 1.1 * transform(image) + 0.2,
    "resizing or cropping differs": resized(Image.Resampling.BICUBIC),
    "resizing or cropping differs ": resized(Image.Resampling.NEAREST),
}
OF_EACH_LIBRARY = ("open_clip vit", "hf clip", "hf siglip 2", "hf deit", "timm vit")


@pytest.mark.parametrize("words", VIOLATIONS)
@pytest.mark.parametrize("family", OF_EACH_LIBRARY)
def test_planted_pixels_are_caught_and_named(family: str, words: str) -> None:
    model = model_of(family)
    if words == "resizing or cropping differs" and family == "open_clip vit":
        return _squash_instead_of_crop()
    broken = planted(model, VIOLATIONS[words])
    explanation = heatproof.explain(broken, photo(331, 200), prompts_of(family, model))
    check = input_of(explanation)
    assert check.verdict == "violated"
    assert words.strip() in check.evidence
    assert check.value is not None
    assert check.limit is not None
    assert check.value > check.limit
    assert explanation.certificate.holds is False
    return None


def _squash_instead_of_crop() -> None:
    """The usual one: the whole photo is squashed where the model's own processor crops it."""
    model = heatproof.load("scenes")
    module: Any = model.module
    module.visual.preprocess_cfg["resize_mode"] = "shortest"
    cropping = open_clip_models.wrap(module, spec="cropping")
    squash = image_transform_v2(
        PreprocessCfg(**{**module.visual.preprocess_cfg, "resize_mode": "squash"}), False
    )
    broken = planted(cropping, lambda _, image: squash(image))
    check = input_of(heatproof.explain(broken, photo(331, 200), torch.randn(2, 128)))
    assert check.verdict == "violated"
    assert "resizing or cropping differs" in check.evidence


def test_pixels_of_another_size_are_named() -> None:
    model = model_of("hf siglip 2")  # squashed to the square that positions were learnt on
    square = transformers.SiglipImageProcessor(size={"height": 21, "width": 21})
    broken = planted(
        model, lambda _, image: square(images=image, return_tensors="pt")["pixel_values"][0]
    )
    check = input_of(heatproof.explain(broken, photo(331, 200), ids_for("hf siglip 2", 2)))
    assert check.verdict == "violated"
    assert "21 x 21 pixels instead of 14 x 28" in check.evidence


def test_a_call_that_gives_another_score_is_caught_where_the_pixels_are_right() -> None:
    model = model_of("open_clip vit")
    twice = replace(model.image, encode=lambda pixels: model.image.encode(pixels.flip(2)))
    check = input_of(
        heatproof.explain(replace(model, image=twice), photo(331, 200), ids_for("open_clip", 2))
    )
    assert check.verdict == "violated"
    assert "the model's own call differs" in check.evidence


# Where nothing can be told -----------------------------------------------------------------------


def test_a_tensor_and_another_size_are_not_compared() -> None:
    model, ids = model_of("open_clip vit"), ids_for("open_clip", 2)
    handed_in = input_of(heatproof.explain(model, torch.randn(1, 3, 21, 35).double(), ids))
    assert (handed_in.verdict, "tensor" in handed_in.evidence) == ("not applicable", True)
    sized = input_of(heatproof.explain(model, photo(64, 61), ids, image_size=(28, 35)))
    assert (sized.verdict, "28 x 35" in sized.evidence) == ("not applicable", True)


def test_a_model_without_its_processor_is_not_established() -> None:
    for name in ("clip", "siglip 2", "vit"):
        module = tiny_hf.MODELS[name]().module
        model = heatproof.wrap(module)
        prompts = list(model.classes[:2]) or ids_for("hf", 2)
        check = input_of(heatproof.explain(model, photo(64, 61), prompts))
        assert check.verdict == "not established"
        assert "came without its image processor" in check.evidence
    plain = torchvision.models.VisionTransformer(21, 7, 2, 3, 36, 37, num_classes=5).eval()
    check = input_of(heatproof.explain(heatproof.wrap(plain), photo(64, 61), ["0"]))
    assert check.verdict == "not established"
    assert "does not name its transform" in check.evidence


def test_a_preprocess_of_ones_own_is_the_one_that_is_asked() -> None:
    module = model_of("open_clip vit").module
    config = {"size": (21, 35), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    own = image_transform_v2(PreprocessCfg(**config, resize_mode="squash"), False)
    model = heatproof.wrap(module, preprocess=own)
    explanation = heatproof.explain(model, photo(331, 200), ids_for("open_clip", 2))
    assert input_of(explanation).verdict == "holds"
    assert "the given preprocess" in input_of(explanation).evidence
    with torch.no_grad():
        image = module.encode_image(own(photo(331, 200))[None].double())
        text = module.encode_text(ids_for("open_clip", 2))
    own_scores = (normalize(image) @ normalize(text).T)[0]
    torch.testing.assert_close(explanation.scores[0].double(), own_scores, rtol=0, atol=1e-6)


def test_a_call_that_fails_is_said_and_no_verdict() -> None:
    model = model_of("open_clip vit")
    library = model.library
    assert not isinstance(library, NoLibrary)

    def failing(*_: object) -> Tensor:
        raise RuntimeError("out of\nmemory")

    broken = replace(model, library=replace(library, match=failing))
    check = input_of(heatproof.explain(broken, photo(64, 61), ids_for("open_clip", 2)))
    assert check.verdict == "not established"
    assert check.evidence == "the model's own call ended in RuntimeError: out of memory"


def test_a_photo_that_would_fill_the_memory_is_not_enlarged_again() -> None:
    model = heatproof.load("scenes")
    module: Any = model.module
    module.visual.preprocess_cfg["resize_mode"] = "shortest"
    cropping = open_clip_models.wrap(module, spec="cropping")
    line = Image.new("RGB", (40_000, 2), "white")
    check = input_of(heatproof.explain(cropping, line, torch.randn(2, 128)))
    assert (check.verdict, "megapixels" in check.evidence) == ("not established", True)


# Many images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_stream_are_compared_too(workers: int) -> None:
    model = model_of("open_clip vit")
    pictures = [photo(*size, seed=n) for n, size in enumerate(PHOTOS)]
    streamed = list(
        heatproof.explain_each(
            model, pictures, ids_for("open_clip", 2), batch_size=2, workers=workers
        )
    )
    assert [len(each.maps) for each in streamed] == [2, 1]
    assert [input_of(each).verdict for each in streamed] == ["holds", "holds"]


# NaFlex ------------------------------------------------------------------------------------------


def test_naflex_images_keep_their_own_grid_and_place() -> None:
    model = model_of("hf siglip 2")
    for size, grid in {(331, 200): (2, 4), (50, 300): (6, 1), (64, 61): (3, 3)}.items():
        explanation = heatproof.explain(model, photo(*size), ids_for("hf", 2))
        assert explanation.maps.shape[2:] == grid
        view = explanation.views[0]
        assert (view.left, view.top, view.right, view.bottom) == (0, 0, *size)
        rows, cols = grid
        assert view.cell(rows - 1, cols - 1, rows, cols)[2:] == size


def test_naflex_puts_the_heat_where_the_patch_is() -> None:
    """Only one patch differs from grey; that patch, and no other, changes the score's pixels."""
    model = model_of("hf siglip 2")
    grey = np.full((200, 331, 3), 128, np.uint8)
    grey[100:200, 83:165] = (255, 0, 0)  # second row, second column of 2 x 4
    explanation = heatproof.explain(
        model, Image.fromarray(grey), ids_for("hf", 1), method="occlusion"
    )
    assert explanation.maps.shape[2:] == (2, 4)
    pixels = model.image.preprocess(Image.fromarray(grey))
    plain = pixels[:, 0, 0, None, None]
    cells = (pixels - plain).abs().sum(0).unflatten(1, (4, 7)).unflatten(0, (2, 7)).sum((1, 3))
    assert divmod(int(cells.argmax()), 4) == (1, 1)


def test_naflex_images_of_different_shape_are_refused_together_and_stream_apart() -> None:
    model, ids = model_of("hf siglip 2"), ids_for("hf", 2)
    pictures = [photo(331, 200), photo(50, 300), photo(60, 320), photo(331, 200, 1)]
    with pytest.raises(InputError, match="4 come to 2 different sizes; explain them one by one"):
        heatproof.explain(model, pictures, ids)
    streamed = list(heatproof.explain_each(model, pictures, ids, batch_size=4))
    assert [tuple(each.maps.shape) for each in streamed] == [
        (1, 2, 2, 4),
        (2, 2, 6, 1),
        (1, 2, 2, 4),
    ]
    for picture, each in zip((pictures[0], pictures[3]), (streamed[0], streamed[2]), strict=True):
        alone = heatproof.explain(model, picture, ids)
        torch.testing.assert_close(each.maps, alone.maps)
        assert input_of(each).verdict == "holds"


def test_naflex_takes_tensors_of_any_whole_number_of_patches() -> None:
    model, ids = model_of("hf siglip 2"), ids_for("hf", 2)
    explanation = heatproof.explain(model, torch.randn(2, 3, 14, 28).double(), ids)
    assert explanation.maps.shape == (2, 2, 2, 4)
    assert not any("drift" in warning for warning in explanation.certificate.warnings)
    with pytest.raises(InputError, match="try 14 x 28"):
        heatproof.explain(model, torch.randn(2, 3, 14, 27).double(), ids)


def test_naflex_of_other_patches_or_of_timm_is_refused_in_one_line() -> None:
    module = tiny_hf.hf_siglip2().module
    with pytest.raises(InputError, match=r"patches of 16 pixels; the model .* patches of 7"):
        heatproof.wrap(module, preprocess=transformers.Siglip2ImageProcessor())
    with pytest.raises(InputError, match="pass its own image processor"):
        heatproof.wrap(tiny_hf.hf_clip().module, preprocess=transformers.Siglip2ImageProcessor())
    naflex = timm.create_model(
        "naflexvit_base_patch16_gap", depth=1, embed_dim=12, num_heads=3, num_classes=3
    ).eval()
    with pytest.raises(InputError, match="NaFlexVit"):
        heatproof.wrap(naflex)
    assert not any("naflex" in name.lower() for name in open_clip.list_models())


# Words and jacobians -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["open_clip vit", "hf siglip 2", "timm vit"])
def test_jacobians_and_words_are_compared_too(family: str) -> None:
    model, picture = model_of(family), photo(331, 200)
    broken = planted(model, lambda transform, image: transform(image).flip(2))
    for each, verdict in ((model, "holds"), (broken, "violated")):
        jacobian: Any = heatproof.jacobian(each, picture)
        assert input_of(jacobian).verdict == verdict
        if model.text is not None:
            words: Any = heatproof.explain_words(each, picture, ids_for(family, 2))
            assert input_of(words).verdict == verdict
