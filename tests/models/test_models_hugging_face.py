"""Hugging Face models: descriptions against the attention and the scores that they compute."""

import json
import pickle
import string
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

import tiny_hf
from heatproof.errors import ModelError, PromptError
from heatproof.models import Model, hugging_face
from heatproof.models.hugging_face import loading
from heatproof.models.hugging_face.families.siglip2 import patched
from heatproof.reading import reading
from ramps import worst_place

FAMILIES = sorted(tiny_hf.MODELS)
SIZES = ((21, 21), (14, 35))
PROMPTS = ("a red dog", "snowball", "cat cat cat cat")
PHOTOS = ((150, 98), (61, 124), (97, 97))


@cache
def tiny(name: str) -> Model:
    return tiny_hf.MODELS[name]()


WITH_TEXT = [name for name in FAMILIES if tiny(name).text is not None]


@cache
def prompted(name: str) -> Model:
    """A tiny model with a tokenizer."""
    begin = not name.startswith("siglip")
    tokenizer = tiny_hf.tokenizer(begin)
    return hugging_face.wrap(tiny(name).module, tokenizer=tokenizer)


def pixels(model: Model, size: tuple[int, int] = (21, 21), images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.rand(images, 3, *size, generator=generator, dtype=torch.float64).to(model.dtype)


def live_rows(embedding: Tensor, output: Tensor) -> list[list[int]]:
    """Which query rows of an attention output each embedding of a batch depends on."""
    direction = torch.linspace(1, 2, embedding.shape[-1], dtype=embedding.dtype)
    (grads,) = torch.autograd.grad((embedding @ direction).sum(), [output])
    live = grads.abs().sum((1, 3)) > 0
    return [rows.nonzero().flatten().tolist() for rows in live]


# The image side --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_layout_is_that_of_the_keys_of_every_attention_call(
    name: str, size: tuple[int, int]
) -> None:
    model = tiny(name)
    with torch.no_grad(), reading(model.module) as trace:
        model.image.encode(pixels(model, size))
    layout = model.image.layout(*size)
    assert (layout.rows, layout.cols) == (size[0] // 7, size[1] // 7)
    assert {layer.key.shape[2] for layer in trace.layers} == {layout.tokens}
    assert all(layer.path.startswith(model.image.path + ".") for layer in trace.layers)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_image_readout_alone_feeds_the_embedding(name: str) -> None:
    model = tiny(name)
    with reading(model.module) as trace:
        embedding = model.image.encode(pixels(model))
    rows = live_rows(embedding, trace.layers[-1].output)
    assert rows == [[model.image.readout.row]] * 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_read_embedding_is_the_untouched_one(name: str, size: tuple[int, int]) -> None:
    model = tiny(name)
    with torch.no_grad():
        untouched = model.image.encode(pixels(model, size))
        with reading(model.module):
            read = model.image.encode(pixels(model, size))
    torch.testing.assert_close(read, untouched, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_lies_where_the_layout_says(name: str) -> None:
    """The token whose embedding a patch of pixels changes most is the one the layout gives it."""
    model = tiny(name)
    height, width = 14, 35
    base, row, col = pixels(model, (height, width), 1), 1, 3
    changed = base.clone()
    changed[:, :, 7 * row : 7 * row + 7, 7 * col : 7 * col + 7] += 1.0
    keys: list[Tensor] = []
    for each in (base, changed):
        with torch.no_grad(), reading(model.module) as trace:
            model.image.encode(each)
        keys.append(trace.layers[0].key)
    moved = (keys[1] - keys[0]).abs().sum((0, 1, 3))
    grid = model.image.layout(height, width).grid(moved) > 1e-9
    assert grid.nonzero().tolist() == [[row, col]]


@pytest.mark.parametrize("name", tiny_hf.WITH_ATTENTION)
def test_attention_written_out_is_read_too(name: str) -> None:
    model, eager = tiny(name), tiny_hf.MODELS[name](attention="eager")
    with torch.no_grad(), reading(eager.module) as trace:
        embedding = eager.image.encode(pixels(model))
    # The library computes eager softmax in float32.
    torch.testing.assert_close(embedding, model.image.encode(pixels(model)), rtol=0, atol=1e-5)
    assert {layer.key.shape[2] for layer in trace.layers} == {model.image.layout(21, 21).tokens}
    assert len(trace) == len(_paths(model))


def _paths(model: Model) -> list[str]:
    with torch.no_grad(), reading(model.module) as trace:
        model.image.encode(pixels(model))
    return list(trace)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_lower_precision_is_close(name: str, dtype: torch.dtype) -> None:
    exact, model = tiny(name), tiny_hf.MODELS[name](dtype)
    with torch.no_grad():
        expected = exact.image.encode(pixels(exact))
        embedding = model.image.encode(pixels(model))
    assert embedding.dtype == dtype == model.dtype
    error = (embedding.double() - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.05)


# Scores ----------------------------------------------------------------------------------------


def cosines(model: Model, images: Tensor) -> Tensor:
    assert model.text is not None
    text = model.text.encode(model.text.tokenize(PROMPTS))
    image = model.image.encode(images)
    return torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_TEXT)
def test_towers_and_scale_give_the_models_own_score(name: str) -> None:
    model, images = prompted(name), pixels(tiny(name))
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    if name == "blip":
        own = model.module(
            tokens.ids[:2],
            images,
            use_itm_head=False,
            attention_mask=tokens.mask[:2].long() if tokens.mask is not None else None,
        ).itm_score
        torch.testing.assert_close(cosines(model, images)[:, :2], own)
        return
    inputs = {"pixel_values": images}
    if name == "siglip 2":
        inputs = {
            "pixel_values": patched(images, 7),
            "pixel_attention_mask": torch.ones(2, 9).int(),
            "spatial_shapes": torch.tensor([[3, 3], [3, 3]]),
        }
    # CLIP's mask changes nothing: what follows the end of text is never attended to.
    mask = None if tokens.mask is None else tokens.mask.long()
    assert mask is None or not name.startswith("clip")
    own = model.module(input_ids=tokens.ids, attention_mask=mask, **inputs).logits_per_image
    torch.testing.assert_close(
        model.logit_scale * cosines(model, images) + model.logit_bias, own, rtol=1e-6, atol=1e-6
    )


@torch.no_grad()
def test_a_classifier_gives_its_own_logits_and_names_its_classes() -> None:
    model = tiny("vit")
    own = model.module(pixels(model)).logits
    assert torch.equal(model.image.encode(pixels(model)), own)
    assert model.text is None
    assert model.classes == tiny_hf.LABELS


def test_a_bias_of_the_logits_makes_a_sigmoid() -> None:
    biased = {name for name in FAMILIES if hasattr(tiny(name).module, "logit_bias")}
    assert {"siglip", "siglip 2"} <= biased
    assert {name for name in FAMILIES if tiny(name).sigmoid} == biased
    assert {name for name in FAMILIES if tiny(name).logit_bias != 0} == biased


# The text side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_TEXT)
def test_the_text_readout_alone_feeds_the_embedding(name: str) -> None:
    model = prompted(name)
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    with reading(model.module) as trace:
        embedding = model.text.encode(tokens)
    rows = live_rows(embedding, trace.layers[-1].output)
    assert rows == [[row] for row in tokens.readout.tolist()]
    assert all(layer.path.startswith(model.text.path + ".") for layer in trace.layers)


def test_the_end_of_text_is_the_readout_of_clip() -> None:
    model = prompted("clip")
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    ends = tokens.ids[torch.arange(3), tokens.readout]
    assert ends.tolist() == [tiny_hf.VOCABULARY - 1] * 3
    assert model.text.from_ids(tokens.ids).readout.tolist() == tokens.readout.tolist()


@pytest.mark.parametrize("name", WITH_TEXT)
def test_pieces_spell_the_prompt(name: str) -> None:
    model = prompted(name)
    assert model.text is not None
    tokens = model.text.tokenize(["A Red snowball"])
    assert [piece.text for piece in tokens.pieces[0]] == ["A", "Red", "snow", "ball"]
    assert tokens.cut == ("",)
    for piece in tokens.pieces[0]:
        assert int(tokens.ids[0, piece.position]) > 1


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_prompts_embedding_does_not_depend_on_the_others(name: str) -> None:
    model = prompted(name)
    assert model.text is not None
    together = model.text.encode(model.text.tokenize(PROMPTS))
    for index, prompt in enumerate(PROMPTS):
        alone = model.text.encode(model.text.tokenize([prompt]))
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-12)


def test_blip_masks_padding_and_reads_no_more_than_the_longest_prompt() -> None:
    model = prompted("blip")
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    assert tokens.mask is not None
    assert tokens.mask.sum(1).tolist() == [5, 4, 6]
    assert tokens.ids.shape == (3, 6)
    again = model.text.from_ids(tokens.ids)
    assert torch.equal(again.ids, tokens.ids)
    assert again.mask is not None
    assert torch.equal(again.mask, tokens.mask)


def test_what_does_not_fit_the_context_is_cut_and_said() -> None:
    model = prompted("clip")
    assert model.text is not None
    tokens = model.text.tokenize([" ".join(["dog"] * 14)])
    assert tokens.ids.shape == (1, tiny_hf.CONTEXT)
    assert tokens.cut == ("dog dog dog",)


def test_no_tokenizer_refuses_prompts_but_takes_ids() -> None:
    text = tiny("clip").text
    assert text is not None
    with pytest.raises(PromptError, match="came without a tokenizer for its 97 tokens"):
        text.tokenize(["a dog"])
    tokens = text.from_ids(torch.tensor([[95, 20, 96] + [0] * 10]))
    assert tokens.readout.tolist() == [2]
    assert [piece.text for piece in tokens.pieces[0]] == ["[20]"]  # start and end are no words


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = tiny_hf.tokenizer()
    tokenizer.add_tokens(["elephant"])
    text = hugging_face.wrap(tiny("clip").module, tokenizer=tokenizer).text
    assert text is not None
    with pytest.raises(PromptError, match="gave the id 97, but the model has 97 tokens"):
        text.tokenize(["an elephant"])


# Other sizes -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_another_size_is_the_librarys_own_interpolation(name: str) -> None:
    model = tiny(name)
    assert model.resized is not None
    before, size = model.weights_hash, (14, 35)
    sized = model.resized(*size)
    images = pixels(model, size)
    assert (sized.image.preprocess.height, sized.image.preprocess.width) == size
    if model.classes:
        own = model.module(images, interpolate_pos_encoding=True).logits
    elif name == "siglip 2":
        own = model.module.get_image_features(
            patched(images, 7),
            pixel_attention_mask=torch.ones(2, 10).int(),
            spatial_shapes=torch.tensor([[2, 5], [2, 5]]),
        ).pooler_output
    elif name == "blip":
        inside = model.module.vision_model(images, interpolate_pos_encoding=True)
        own = model.module.vision_proj(inside.last_hidden_state[:, 0])
    else:
        own = model.module.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    assert torch.equal(sized.image.encode(images), own)
    assert tiny_hf.MODELS[name]().weights_hash == before
    assert sized.module is model.module


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest() -> None:
    model = tiny("clip")
    assert model.resized is not None
    with pytest.raises(ModelError, match=r"got an input size of 20 x 34, .* try 21 x 35"):
        model.resized(20, 34)


# Preprocessing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_view_is_what_the_processor_shows(name: str, photo: tuple[int, int]) -> None:
    model = tiny(name)
    assert model.resized is not None
    assert worst_place(model.image.preprocess, *photo) < 1
    assert worst_place(model.resized(14, 35).image.preprocess, *photo) < 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_usual_processor_is_the_one_that_transformers_names(name: str) -> None:
    module = tiny(name).module
    usual = type(tiny_hf.usual_processor(module)).__name__
    assert usual in str(IMAGE_PROCESSOR_MAPPING_NAMES[module.config.model_type])


def test_a_processor_that_resizes_larger_than_it_crops_is_described() -> None:
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 21, "width": 21}
    )
    model = hugging_face.wrap(tiny("clip").module, preprocess=processor)
    assert model.image.preprocess.resize_to == 30
    assert worst_place(model.image.preprocess, 150, 98) < 1


def test_a_processor_without_a_fixed_size_is_refused() -> None:
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 30}, do_center_crop=False)
    with pytest.raises(ModelError, match="no fixed size"):
        hugging_face.wrap(tiny("clip").module, preprocess=processor)


def test_patches_are_cut_as_siglip_2s_processor_cuts_them() -> None:
    picture = torch.randint(0, 256, (3, 21, 14), generator=torch.Generator().manual_seed(3))
    processor = transformers.Siglip2ImageProcessor(patch_size=7, max_num_patches=6)
    own = processor(images=picture.byte(), do_resize=False, return_tensors="pt")
    ours = patched((picture.float() / 255 - 0.5)[None] / 0.5, 7)
    assert own.spatial_shapes.tolist() == [[3, 2]]
    torch.testing.assert_close(ours, own.pixel_values)


# Folders ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each family saved as users have it: weights, image processor, tokenizer."""
    return {name: _saved(name, tmp_path_factory.mktemp("hf")) for name in FAMILIES}


def _saved(name: str, folder: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    module = tiny_hf.MODELS[name](torch.float32).module
    module.save_pretrained(folder)
    module.config.image_processor = None
    tiny_hf.usual_processor(module).save_pretrained(folder)
    if name in WITH_TEXT:
        _tokenizer(name).save_pretrained(folder)
    return folder


def _tokenizer(name: str) -> transformers.PreTrainedTokenizerFast:
    """SigLIP 2's class takes its own kind of vocabulary only; it pads on the left."""
    if name != "siglip 2":
        return tiny_hf.tokenizer(name != "siglip")
    names = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "▁",
        *string.ascii_lowercase,
        "▁d",
        "▁do",
    ]
    merges = [("▁", "d"), ("▁d", "o")]
    return transformers.Siglip2Tokenizer({name: id for id, name in enumerate(names)}, merges)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_gives_the_model_that_was_saved(name: str, folders: dict[str, Path]) -> None:
    saved, model = tiny_hf.MODELS[name](torch.float32), loading.load(str(folders[name]))
    assert (model.weights, model.notices) == ("loaded", ())
    assert model.spec == f"hf:{folders[name]}"
    assert model.weights_hash == saved.weights_hash
    assert torch.equal(model.image.encode(pixels(model)), saved.image.encode(pixels(model)))
    assert worst_place(model.image.preprocess, 150, 98) < 1
    assert model.classes == saved.classes
    if model.text is not None:
        tokens = model.text.tokenize(PROMPTS)
        lengths = {"padding": "max_length", "max_length": tiny_hf.CONTEXT, "truncation": True}
        own = _tokenizer(name)(list(PROMPTS), **lengths)
        expected = torch.tensor(own["input_ids"])[:, : tokens.ids.shape[1]]
        assert torch.equal(tokens.ids, expected)
        assert "".join(piece.text for piece in tokens.pieces[1]).strip() == "snowball"
        assert tokens.cut == ("", "", "at" if name == "siglip 2" else "")
        assert model.text.encode(tokens).shape[0] == len(PROMPTS)


def test_shards_are_put_together(tmp_path: Path) -> None:
    saved = tiny_hf.hf_clip(torch.float32)
    saved.module.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert loading.load(str(tmp_path)).weights_hash == saved.weights_hash


def test_a_plain_pytorch_file_is_read_without_unpickling(tmp_path: Path) -> None:
    saved = tiny_hf.hf_clip(torch.float32)
    saved.module.config.save_pretrained(tmp_path)
    torch.save(saved.module.state_dict(), tmp_path / "pytorch_model.bin")
    assert loading.load(str(tmp_path)).weights_hash == saved.weights_hash


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("unpickled",))


def test_a_pickle_that_calls_is_refused(tmp_path: Path) -> None:
    tiny_hf.clip_config().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Bomb()}, protocol=2))
    with pytest.raises(ModelError, match="is refused: it is a pickle that calls"):
        loading.load(str(tmp_path))


def test_missing_processor_files_are_said(tmp_path: Path) -> None:
    tiny_hf.hf_clip(torch.float32).module.save_pretrained(tmp_path)
    model = loading.load(str(tmp_path))
    assert "holds no preprocessor_config.json" in model.notices[0]
    assert model.text is not None
    with pytest.raises(PromptError, match="came without a tokenizer"):
        model.text.tokenize(["a dog"])


def _empty(_folder: Path) -> None:
    pass


def _without_weights(folder: Path) -> None:
    tiny_hf.clip_config().save_pretrained(folder)


def _unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def _headless(folder: Path) -> None:
    config = tiny_hf.vit_config()
    transformers.ViTModel(config).save_pretrained(folder)


def _broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _other_weights(folder: Path) -> None:
    tiny_hf.hf_siglip(torch.float32).module.save_pretrained(folder)
    tiny_hf.clip_config().save_pretrained(folder)


def _incomplete(folder: Path) -> None:
    """Weights without the classifier: the library would make one up."""
    module = tiny_hf.hf_vit(torch.float32).module
    module.config.save_pretrained(folder)
    kept = {name: value for name, value in module.state_dict().items() if "classifier" not in name}
    safetensors.torch.save_file(kept, folder / "model.safetensors")


def _truncated(folder: Path) -> None:
    tiny_hf.hf_vit(torch.float32).module.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _escaping_shard(folder: Path) -> None:
    tiny_hf.clip_config().save_pretrained(folder)
    index = {"weight_map": {"weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_empty, "holds no config.json"),
        (_without_weights, "holds no weights"),
        (_unknown_type, "a model of type 'bert', expected one of .*CLIPModel"),
        (_headless, "holds a ViTModel, expected one of"),
        (_broken_json, "cannot be read as JSON"),
        (_other_weights, "do not fit the CLIPModel"),
        (_incomplete, "classifier.bias and 1 more are not there"),
        (_truncated, "cannot be read as weights"),
        (_escaping_shard, "expected the name of a file in its own folder"),
    ],
)
def test_a_bad_folder_is_one_line(spoil: object, said: str, tmp_path: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    spoil(tmp_path)  # pyright: ignore
    with pytest.raises(ModelError, match=said) as caught:
        loading.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_neither_folder_nor_id_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder .*; expected a folder with config"):
        loading.load(str(tmp_path / "nothing"))


def test_without_leave_to_download_the_folder_to_fill_is_said() -> None:
    with pytest.raises(ModelError, match="hf download no-such/model --local-dir DIR"):
        loading.load("no-such/model", allow_download=False)


def test_loading_leaves_the_librarys_messages_as_they_were(folders: dict[str, Path]) -> None:
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    before = logging.get_verbosity()
    loading.load(str(folders["vit"]))
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == before


# True sizes ------------------------------------------------------------------------------------


def _clip(patch: int, width: int, layers: int, heads: int, text: int) -> transformers.CLIPConfig:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "patch_size": patch}
    vision = {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads}
    written = {
        "hidden_size": text,
        "intermediate_size": 4 * text,
        "num_attention_heads": text // 64,
    }
    return transformers.CLIPConfig(
        vision_config=vision, text_config=written, projection_dim=text if layers == 24 else 512
    )


TRUE_SIZES = {
    "ViT-B/16": lambda: (transformers.CLIPModel, _clip(16, 768, 12, 12, 512), 197),
    "ViT-B/32": lambda: (transformers.CLIPModel, _clip(32, 768, 12, 12, 512), 50),
    "ViT-L/14": lambda: (transformers.CLIPModel, _clip(14, 1024, 24, 16, 768), 257),
    "SigLIP-B/16": lambda: (transformers.SiglipModel, transformers.SiglipConfig(), 196),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE_SIZES)
def test_true_sizes_are_read_as_they_are(name: str) -> None:
    kind, config, tokens = TRUE_SIZES[name]()
    model = hugging_face.wrap(tiny_hf.random_module(kind, config), weights="random")
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = model.image.encode(images)
    with reading(model.module) as trace:
        read = model.image.encode(images)
    assert model.image.layout(224, 224).tokens == tokens == trace.layers[-1].key.shape[2]
    assert (read - untouched).norm() / untouched.norm() < 1e-5
    assert live_rows(read, trace.layers[-1].output) == [[0]]
