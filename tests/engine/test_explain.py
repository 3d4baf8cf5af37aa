"""`explain` and `explain_words`: scores, prompts, sizes, words, and a certificate that can fail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

import heatproof
from families import FAMILIES, TEXT_FAMILIES, ids, ids_for, model_of, picture, prompts_for
from heatproof import scores
from heatproof.certificate import Certificate, Check
from heatproof.engine.api import merge
from heatproof.engine.following import change
from heatproof.errors import ImageError, InputError, PromptError, ReadingError, UnknownName
from heatproof.methods import AttentionXGradient, MethodCard, Plan, RawAttention, ReadPass, Side
from heatproof.models import Piece, Readout, TokenLayout, wrap
from heatproof.reading import AttentionLayer, reading
from heatproof.reading.interventions import knock_out
from heatproof.scores import Contrast, Cosine, Logit, Margin, Pairs
from heatproof.tolerances import TOLERANCE

VIT = "open_clip vit"


def checks(certificate: Certificate) -> dict[str, Check]:
    return {check.name: check for check in certificate.checks}


def violated(certificate: Certificate) -> list[str]:
    return [check.name for check in certificate.checks if check.verdict == "violated"]


# --- parity of the read pass, in every dtype ---------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_read_pass_scores_as_the_untouched_one(family: str, dtype: torch.dtype) -> None:
    model = FAMILIES[family](dtype)
    pixels = picture(model)
    prompts = prompts_for(family)
    prompts = prompts.to(dtype) if isinstance(prompts, Tensor) else prompts
    found = [heatproof.explain(model, pixels, prompts)]
    if model.text is not None:
        found.append(heatproof.explain_words(model, pixels, ids_for(family)))
    for each in found:
        check = checks(each.certificate)["parity"]
        assert check.verdict == "holds", check
        assert check.value is not None
        assert check.limit is not None
        assert check.value <= check.limit
        assert check.limit <= 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("family", FAMILIES)
def test_certified_scores_are_those_of_the_models_own_encoders(family: str) -> None:
    model = model_of(family)
    pixels, prompts = picture(model), prompts_for(family)
    found = heatproof.explain(model, pixels, prompts).scores
    with torch.no_grad():
        image = model.image.encode(pixels)
    if isinstance(prompts, list):
        expected = image[:, :3]
    else:
        expected = torch.cosine_similarity(image[:, None], prompts[None], dim=-1)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


# --- scores ------------------------------------------------------------------------------------

PAIRS = Pairs(
    cosine=torch.tensor([[0.1, 0.3, 0.2]]),
    logit=torch.tensor([[1.0, 3.0, 2.0]]),
    rivals=torch.tensor([[1.0, 3.0, 2.0]]),
    against=torch.tensor([[0.5]]),
    own=True,
)


def test_scores_of_known_pairs() -> None:
    assert Cosine()(PAIRS) is PAIRS.cosine
    assert Logit()(PAIRS).tolist() == [[1, 3, 2]]
    assert Margin()(PAIRS).tolist() == [[-2, 1, -1]]
    assert Contrast("a cat")(PAIRS).tolist() == [[0.5, 2.5, 1.5]]
    null = replace(PAIRS, cosine=None, logit=torch.tensor([[2.5]]), own=False)
    assert Margin()(null).tolist() == [[-0.5]]


def test_logit_is_scale_times_cosine_plus_bias() -> None:
    model = model_of("open_clip siglip")
    pixels, prompts = picture(model), prompts_for("open_clip siglip")
    cosine = heatproof.explain(model, pixels, prompts, score="cosine", certify=False).scores
    for name in ("logit", "sigmoid-logit"):
        logit = heatproof.explain(model, pixels, prompts, score=name, certify=False).scores
        expected = cosine * model.logit_scale + model.logit_bias
        torch.testing.assert_close(logit, expected, rtol=1e-5, atol=1e-5)
    assert model.logit_bias != 0


def test_margin_map_is_the_difference_of_two_logit_maps() -> None:
    """The map is linear in the score's gradient: the best rival's map is taken away."""
    model = model_of(VIT)
    pixels, prompts = picture(model, 1), prompts_for(VIT)
    logit = heatproof.explain(model, pixels, prompts, score="logit", certify=False)
    margin = heatproof.explain(model, pixels, prompts, score="margin", certify=False)
    order = logit.scores[0].argsort(descending=True)
    best, second = int(order[0]), int(order[1])
    expected = logit.maps[0, best] - logit.maps[0, second]
    torch.testing.assert_close(margin.maps[0, best], expected, rtol=1e-4, atol=1e-7)


def test_contrast_map_is_the_difference_to_the_other_prompt() -> None:
    model = heatproof.load("scenes", dtype="float64")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    both = heatproof.explain(model, pixels, ["red", "blue"], score="logit", certify=False)
    found = heatproof.explain(model, pixels, ["red"], score="contrast:blue", certify=False)
    torch.testing.assert_close(found.maps[0, 0], both.maps[0, 0] - both.maps[0, 1])
    assert found.record.score == "contrast:blue"


def test_words_of_a_margin_are_explained_by_their_own_prompt_alone() -> None:
    """Rivals are constants there: the margin's word values are the logit's."""
    model = model_of(VIT)
    by = {
        name: heatproof.explain_words(model, picture(model), ids(), score=name, certify=False)
        for name in ("logit", "margin")
    }
    for row, other in zip(by["logit"].maps, by["margin"].maps, strict=True):
        for one, two in zip(row, other, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("family", "score", "said"),
    [
        (VIT, "margn", "unknown score 'margn'; did you mean margin"),
        (VIT, "sigmoid-logit", "was not trained with a sigmoid; try score 'logit'"),
        (VIT, "class-logit", "is no classifier; try score 'cosine' or 'logit'"),
        (VIT, "contrast:", "needs the other prompt"),
        ("hf vit", "cosine", "a classifier has no cosine"),
    ],
)
def test_scores_that_do_not_fit(family: str, score: str, said: str) -> None:
    model = model_of(family)
    with pytest.raises(InputError, match=said):
        heatproof.explain(model, picture(model), prompts_for(family), score=score)


def test_margin_of_one_prompt_is_refused() -> None:
    model = model_of(VIT)
    with pytest.raises(InputError, match="got 1, expected at least 2"):
        heatproof.explain(model, picture(model), prompts_for(VIT, 1), score="margin")


def test_score_names_come_back() -> None:
    for name in ("cosine", "logit", "margin", "contrast:a cat", "sigmoid-logit", "class-logit"):
        assert scores.create(name).name == name


# --- prompts -----------------------------------------------------------------------------------


def test_texts_ids_and_embeddings_of_a_prompt_agree() -> None:
    model = heatproof.load("scenes", dtype="float64")
    assert model.text is not None
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    texts = ["a red circle", "a blue square"]
    tokens = model.text.tokenize(texts)
    with torch.no_grad():
        embeddings = model.text.encode(tokens)
    ways = [texts, tokens.ids, torch.nn.functional.normalize(embeddings, dim=-1)]
    found = [heatproof.explain(model, pixels, way, certify=False) for way in ways]
    for other in found[1:]:
        torch.testing.assert_close(other.maps, found[0].maps)
        torch.testing.assert_close(other.scores, found[0].scores)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "got no prompt"),
        (["a dog", "  "], "prompt 2 is empty"),
        (torch.zeros(3), r"got a prompt tensor of shape \(3,\)"),
        (torch.randn(2, 5), "got embeddings of width 5, tiny vit has 17"),
    ],
)
def test_prompts_that_cannot_be_used(prompts: Sequence[str] | Tensor, said: str) -> None:
    model = model_of(VIT)
    with pytest.raises(PromptError, match=said):
        heatproof.explain(model, picture(model), prompts)


def test_unknown_class_is_offered_the_nearest() -> None:
    model = model_of("hf vit")
    with pytest.raises(UnknownName, match="ostrich"):
        heatproof.explain(model, picture(model), ["ostritch"])


def test_embeddings_have_no_words() -> None:
    model = model_of(VIT)
    with pytest.raises(InputError, match="embeddings have no words"):
        heatproof.explain_words(model, picture(model), prompts_for(VIT))


def test_a_classifier_reads_no_words() -> None:
    model = model_of("hf vit")
    with pytest.raises(InputError, match="reads no words"):
        heatproof.explain_words(model, picture(model), ["hen"])


# --- pictures and sizes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.zeros(2, 4, 21, 35), "expected preprocessed floats of shape"),
        (torch.zeros(2, 3, 21, 35, dtype=torch.uint8), "torch.uint8"),
        ([], "got no image"),
    ],
)
def test_pictures_that_cannot_be_used(pixels: Tensor | list[str], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        heatproof.explain(model_of(VIT), pixels, prompts_for(VIT))


def test_one_picture_without_a_batch_axis_is_a_batch_of_one() -> None:
    model = model_of(VIT)
    found = heatproof.explain(model, picture(model)[0], prompts_for(VIT), certify=False)
    assert found.maps.shape == (1, 3, 3, 5)


RESIZED = [
    "open_clip vit",
    "open_clip siglip",
    "open_clip resnet",
    "hf clip",
    "hf siglip",
    "hf vit",
]


@pytest.mark.parametrize("family", RESIZED)
def test_another_size_gives_its_grid_and_says_the_drift(family: str) -> None:
    model = model_of(family)
    size = model.image.preprocess
    layout = model.image.layout(size.height, size.width)
    patch = size.height // layout.rows
    pixels = torch.randn(2, 3, 2 * patch, 4 * patch, generator=torch.Generator().manual_seed(1))
    found = heatproof.explain(model, pixels.to(model.dtype), prompts_for(family))
    assert found.maps.shape[-2:] == (2, 4)
    assert found.certificate.holds, violated(found.certificate)
    assert any("the scores drift by up to" in each for each in found.certificate.warnings)
    native = heatproof.explain(model, picture(model), prompts_for(family))
    assert not any("drift" in each for each in native.certificate.warnings)


def photo(tmp_path: Path, width: int, height: int) -> Path:
    path = tmp_path / f"{width}x{height}.png"
    noise = torch.randint(0, 255, (height, width, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(path)
    return path


def test_keep_follows_the_aspect_of_the_photograph(tmp_path: Path) -> None:
    model = heatproof.load("scenes")
    found = heatproof.explain(model, photo(tmp_path, 300, 100), ["red"], image_size="keep")
    assert found.maps.shape == (1, 1, 8, 24)
    assert found.record.image_size == "keep"
    (view,) = found.views
    assert (view.left, view.top, view.right, view.bottom) == (0, 0, 300, 100)


def test_words_are_explained_at_another_image_size(tmp_path: Path) -> None:
    """The text tower is the same at every image size; the scores are those of `explain`.

    Break: read the resized model's module in place of the native one's (no attention passes).
    """
    model, wide = heatproof.load("scenes"), photo(tmp_path, 300, 100)
    found = heatproof.explain_words(model, wide, ["red"], image_size="keep")
    assert found.certificate.holds
    assert found.record.image_size == "keep"
    image = heatproof.explain(model, wide, ["red"], image_size="keep", certify=False)
    torch.testing.assert_close(found.scores, image.scores)


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    model = heatproof.load("scenes")
    wide, tall = photo(tmp_path, 300, 100), photo(tmp_path, 100, 300)
    with pytest.raises(InputError, match="one aspect ratio, got 2 different ones"):
        heatproof.explain(model, [wide, tall], ["red"], image_size="keep")
    with pytest.raises(InputError, match="too long and thin"):
        heatproof.explain(model, photo(tmp_path, 900, 2), ["red"], image_size="keep")
    with pytest.raises(InputError, match="got image size 'big'"):
        heatproof.explain(model, wide, ["red"], image_size="big")
    fixed = replace(model, resized=None)
    with pytest.raises(InputError, match="takes 64 x 64 pixels alone, got 64 x 96"):
        heatproof.explain(fixed, wide, ["red"], image_size=(64, 96))


def test_many_pictures_in_small_batches_are_the_same(tmp_path: Path) -> None:
    model = heatproof.load("scenes")
    paths = [photo(tmp_path, 60 + n, 50) for n in range(5)]
    seen: list[tuple[int, int]] = []
    whole = heatproof.explain(model, paths, ["red", "a square"])
    split = heatproof.explain(
        model, paths, ["red", "a square"], batch_size=2, progress=lambda *at: seen.append(at)
    )
    torch.testing.assert_close(split.maps, whole.maps, rtol=1e-4, atol=1e-7)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [p.source for p in whole.photos] == [str(p) for p in paths]


# --- the certificate ---------------------------------------------------------------------------


def test_published_grad_eclip_fails_with_both_scores() -> None:
    model = model_of(VIT)
    found = heatproof.explain(model, picture(model), prompts_for(VIT), method="grad-eclip")
    assert violated(found.certificate) == ["parity", "native factors"]
    sentence = found.certificate.sentence
    assert sentence.startswith("This map explains another model than yours: one attention head")
    assert " where yours scores " in sentence


def test_grad_eclip_on_the_model_itself_holds() -> None:
    model = model_of(VIT)
    for spatial in ("attention", "none"):
        method = heatproof.methods.GradECLIP(heads="model", spatial=spatial)
        found = heatproof.explain(model, picture(model), prompts_for(VIT), method=method)
        assert found.certificate.holds
        assert not found.certificate.substituted


def test_a_wrong_description_of_the_readout_is_found() -> None:
    model = model_of(VIT)
    wrong = replace(model, image=replace(model.image, readout=Readout("class token", 3)))
    found = heatproof.explain(wrong, picture(model), prompts_for(VIT))
    # Nor does a gradient reach the weights of the row that it is said to read.
    assert violated(found.certificate) == ["readout", "gradient reach"]


def test_a_wrong_description_of_the_grid_is_found() -> None:
    model = model_of(VIT)
    wrong = replace(
        model, image=replace(model.image, layout=lambda *_: TokenLayout(3, 4, ("class",)))
    )
    with pytest.raises(ReadingError, match="got 16 key tokens for a 3 x 4 grid with 1 other"):
        heatproof.explain(wrong, picture(model), prompts_for(VIT))


@dataclass(frozen=True)
class Broken(AttentionXGradient):
    """Values that are off by `shift`, or no numbers."""

    shift: float = 0.0
    card: ClassVar[MethodCard] = replace(AttentionXGradient.card, name="broken")

    def attribute(self, read: ReadPass) -> Tensor:
        return super().attribute(read) + self.shift


def test_a_broken_promise_and_nan_are_found() -> None:
    model = model_of(VIT)
    for shift, wrong in ((1e-6, ["completeness"]), (float("nan"), ["completeness", "finite"])):
        found = heatproof.explain(
            model, picture(model), prompts_for(VIT), method=Broken(shift=shift)
        )
        assert violated(found.certificate) == wrong


def test_a_layer_without_gradient_is_found() -> None:
    """All values knocked out in an outer reading: no attention weight moves the score."""
    model = model_of(VIT)
    path = "visual.transformer.resblocks.1.attn"
    with reading(model.module, [], interventions={path: knock_out(range(3))}):
        found = heatproof.explain(model, picture(model), prompts_for(VIT))
    assert violated(found.certificate) == ["gradient reach"]
    assert path in found.certificate.sentence


@dataclass(frozen=True)
class Meddler(RawAttention):
    """Changes the forward pass and keeps silent about it."""

    card: ClassVar[MethodCard] = replace(RawAttention.card, name="meddler")

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(sites, side)
        return replace(plan, interventions={sites[-1].path: knock_out([0])})


def test_a_silent_change_of_the_forward_pass_is_found() -> None:
    model = model_of(VIT)
    found = heatproof.explain(model, picture(model), prompts_for(VIT), method=Meddler())
    assert violated(found.certificate) == ["parity"]


def test_null_prompts_change_a_map_that_reads_the_prompt_and_no_other() -> None:
    model = heatproof.load("scenes")
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for method, blind in (("attention-x-gradient", False), ("raw-attention", True)):
        found = heatproof.explain(model, pixels, ["a red circle"], method=method).certificate
        assert set(found.null_prompts) == {"empty", "gibberish", "unrelated"}
        assert (
            any("do not read it as evidence for yours" in each for each in found.warnings) is blind
        )
        assert found.holds


def test_change_of_known_maps() -> None:
    maps = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    found = change(maps, torch.tensor([[3.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0, 1.0, 1.0]]))
    assert float(change(maps[:, 3:], torch.zeros(1, 2))) == 0


def test_nothing_is_checked_where_nothing_was_asked() -> None:
    model = model_of(VIT)
    found = heatproof.explain(model, picture(model), prompts_for(VIT), certify=False)
    assert found.certificate.checks == ()
    assert found.certificate.null_prompts == {}


def test_the_certificate_names_versions_weights_and_seed() -> None:
    model = model_of(VIT)
    found = heatproof.explain(model, picture(model), prompts_for(VIT), seed=7)
    environment = found.certificate.environment
    assert environment["seed"] == 7
    assert environment["dtype"] == "float64"
    assert environment["weights_sha256"] == model.weights_hash
    other = FAMILIES[VIT]()
    with torch.no_grad():
        next(other.module.parameters()).view(-1)[0] += 1e-9
    assert other.weights_hash != model.weights_hash


def test_inside_inference_mode() -> None:
    model = model_of(VIT)
    with torch.inference_mode():
        found = heatproof.explain(model, picture(model), prompts_for(VIT))
    assert found.certificate.holds


def test_a_wrapped_model_in_training_mode_is_refused() -> None:
    module = FAMILIES[VIT]().module.train()
    with pytest.raises(InputError, match=r"call .*eval\(\)"):
        wrap(module)


# --- words -------------------------------------------------------------------------------------


def test_merge_adds_the_tokens_of_a_word() -> None:
    text = "A cat's toy, unbelievably red"
    cuts = ["A", "cat", "'s", "toy", ",", "unbe", "liev", "ably", "red"]
    pieces, at = [], 0
    for n, cut in enumerate(cuts):
        start = text.index(cut, at)
        at = start + len(cut)
        pieces.append(Piece(n + 1, cut, start, at))
    words = list(merge(text, pieces, torch.arange(1.0, 10.0)))
    assert [w.text for w in words] == ["A", "cat's", "toy", ",", "unbelievably", "red"]
    assert [w.value for w in words] == [1, 2 + 3, 4, 5, 6 + 7 + 8, 9]
    assert all(text[w.start : w.end] == w.text for w in words)


def test_words_leave_out_bos_end_of_text_and_padding() -> None:
    model = heatproof.load("scenes")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    found = heatproof.explain_words(model, pixels, ["a red circle", "blue"])
    assert found.tokens == [("a", "red", "circle"), ("blue",)]
    assert [[len(values) for values in row] for row in found.maps] == [[3, 1], [3, 1]]
    assert [w.text for w in found.words[1][0]] == ["a", "red", "circle"]
    assert found.words[1][0][2].value == pytest.approx(float(found.maps[1][0][2]))
    assert found.certificate.holds


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_padding_does_not_change_what_a_prompt_is_explained_by(family: str) -> None:
    """The same prompt beside longer ones: a batch pads it, its values stay."""
    model = model_of(family)
    pixels = picture(model, 1)
    together = heatproof.explain_words(model, pixels, ids_for(family), certify=False)
    alone = heatproof.explain_words(model, pixels, ids_for(family)[:1], certify=False)
    torch.testing.assert_close(together.maps[0][0], alone.maps[0][0], rtol=1e-5, atol=1e-9)
