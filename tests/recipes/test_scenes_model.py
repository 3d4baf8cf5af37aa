"""The embedded model: open_clip builds it, its tokenizer keeps open_clip's interface."""

import open_clip
import pytest
import torch
from PIL import Image

from heatproof.data.scenes import (
    Caption,
    SceneDataset,
    combinations,
    phrase_of,
    render,
    sample,
    singles,
)
from heatproof.data.scenes.captions import captions_of
from heatproof.models.scenes import (
    CONFIG,
    WEIGHTS,
    SceneTokenizer,
    build,
    checkpoint_file,
    checkpoints,
    state_dict,
)
from heatproof.models.scenes.tokenizer import END, UNKNOWN, VOCABULARY
from heatproof.recipes.scenes.recipe import prepared, text_features


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_tokens_there_and_back():
    tokenizer = SceneTokenizer()
    text = "a photo of a small striped red circle left of a blue star"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    row = tokenizer(text)[0]
    assert row.shape == (20,)
    assert row[0] == tokenizer.sot_token_id
    assert row[len(ids) + 1] == tokenizer.eot_token_id
    assert not row[len(ids) + 2 :].any()
    assert tokenizer.decode(row) == f"<start_of_text> {text} {END}"


def test_end_of_text_is_the_highest_id_and_never_cut_off():
    tokenizer = SceneTokenizer()
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1 == len(VOCABULARY) - 1
    rows = tokenizer(["red", "", "red " * 50], context_length=12)
    assert rows.shape == (3, 12)
    assert rows.argmax(1).tolist() == [2, 1, 11]
    assert (rows.max(1).values == tokenizer.eot_token_id).all()


def test_unknown_words_case_and_punctuation():
    tokenizer = SceneTokenizer()
    unknown = tokenizer.encoder[UNKNOWN]
    assert tokenizer.encode("ljashdbflsabdf") == [unknown]
    assert tokenizer.encode("A RED, circle!") == tokenizer.encode("a red circle")
    assert unknown not in tokenizer.encode("a red circle")
    assert tokenizer.encode("<pad>") == [unknown]  # a special token cannot be written


def test_pieces_say_where_each_word_stands():
    text = "A  red,circle qux"
    found = SceneTokenizer().pieces(text)
    assert [text[start:end] for _, start, end in found] == ["A", "red", "circle", "qux"]
    assert [token for token, _, _ in found] == SceneTokenizer().encode(text)


def test_every_word_of_every_caption_is_known():
    tokenizer = SceneTokenizer()
    captions = [*singles("size"), *singles("texture"), *singles("colour"), *singles("shape")]
    captions += combinations()
    import random

    for scene in sample(torch.arange(20)).described():
        captions += captions_of(scene, random.Random(0))
        captions += [
            Caption(phrase_of(thing), style=k) for thing in scene.objects for k in range(9)
        ]
    for caption in captions:
        assert tokenizer.unknown_token_id not in tokenizer.encode(caption.text), caption.text
        assert len(tokenizer.encode(caption.text)) <= 18, caption.text


def test_open_clip_builds_it_like_any_other_model():
    open_clip.add_model_config(CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms("scenes", pretrained=str(WEIGHTS))
    assert type(model) is open_clip.CLIP
    ours = build()
    for name, value in model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    example = SceneDataset(1)[0]
    picture = Image.fromarray(example["picture"].permute(1, 2, 0).numpy())
    assert torch.allclose(preprocess(picture), prepared(example["picture"][None])[0], atol=1e-6)


def test_heads_are_several_and_the_map_is_eight_by_eight():
    model = build()
    assert model.visual.transformer.resblocks[0].attn.num_heads == 4
    assert model.visual.grid_size == (8, 8)
    assert model.vocab_size == SceneTokenizer().vocab_size
    assert model.context_length == SceneTokenizer().context_length


def test_every_checkpoint_loads_and_the_last_is_the_default():
    names = checkpoints()
    assert names[-1] == "final"
    assert checkpoint_file() == WEIGHTS
    wanted = set(build(None).state_dict())
    for name in names:
        assert set(state_dict(name)) == wanted
        assert checkpoint_file(name).stat().st_size < 3_000_000
    with pytest.raises(KeyError, match="got checkpoint 'best' of scenes; there are step-"):
        state_dict("best")


def test_leaving_out_the_padding_changes_no_text():
    model = build()
    tokens = SceneTokenizer()(["red", "a small red circle", "zzz a blue star"])
    with torch.no_grad():
        whole = model.encode_text(tokens, normalize=True)
        short = text_features(model, tokens)
    assert torch.allclose(whole, short, atol=1e-5)


def test_it_sees_what_it_claims_to():
    """A floor well under the card's figures, on two hundred scenes it never saw."""
    from heatproof.recipes.scenes.scoring import Judge, single_objects

    figures = single_objects(Judge(build()), 200)
    assert figures["colour"].value > 0.9
    assert figures["shape"].value > 0.8
    assert figures["colour and shape"].value > 0.75
    untrained = single_objects(Judge(build(checkpoints()[0])), 200)
    assert untrained["shape"].value < 0.3


def test_pictures_of_any_size_are_seen_alike():
    """The same scenes drawn at 256 pixels, through open_clip's own resizing."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = image_transform_v2(PreprocessCfg(size=64), is_train=False)
    model, drawn = build(), sample(torch.arange(2**60, 2**60 + 24))
    small, _ = render(drawn)
    large, _ = render(drawn, pixels=256)
    shrunk = torch.stack([preprocess(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in large])
    with torch.no_grad():
        a = model.encode_image(prepared(small), normalize=True)
        b = model.encode_image(shrunk, normalize=True)
    assert (a * b).sum(1).mean() > 0.9
