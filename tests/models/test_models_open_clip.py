"""The descriptions of open_clip's families against what the models really compute."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from torch import Tensor, nn
from torch.nn.functional import normalize

import tiny
from heatproof.errors import ModelError
from heatproof.models import Model, load, wrap
from heatproof.models import open_clip as adapter

FAMILIES = list(tiny.FAMILIES)
Call = tuple[Tensor, Tensor]
PROMPTS = ["a dog", "two  small cats on a mat"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """Key and output of each attention call, as the models make them."""
    seen = list[Call]()
    attend = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = attend(query, key, value, *args, **kwargs)
        if output.requires_grad:
            output.retain_grad()
        seen.append((key, output))
        return output

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield seen
    torch.backends.mha.set_fastpath_enabled(fast)


def pixels(model: Model, images: int = 2) -> Tensor:
    size = model.image.preprocess
    shape = (images, 3, size.height, size.width)
    return torch.randn(shape, dtype=model.dtype, generator=torch.Generator().manual_seed(3))


def bigger(model: Model) -> tuple[int, int]:
    """Another size, of another aspect, whose grid fits no other family's."""
    return (96, 64) if model.image.preprocess.height > 21 else (28, 49)


def live_rows(output: Tensor) -> list[set[int]]:
    """For each item of the batch the rows of an attention output that have a gradient."""
    assert output.grad is not None
    moved = output.grad.abs().amax(dim=(1, 3)) > 0
    return [set(row.nonzero().flatten().tolist()) for row in moved]


# The image side ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("native", [True, False])
def test_layout_counts_the_keys_of_the_last_attention(
    family: str, native: bool, calls: list[Call]
) -> None:
    model = tiny.FAMILIES[family]()
    if not native:
        assert model.resized is not None
        model = model.resized(*bigger(model))
    shown = pixels(model)
    model.image.encode(shown)
    layout = model.image.layout(*shown.shape[2:])
    assert calls[-1][0].shape[-2] == layout.tokens


@pytest.mark.parametrize(
    ("family", "rows", "cols", "prefix"),
    [
        ("vit", 3, 5, ("class",)),
        ("mean pool", 3, 5, ("class",)),
        ("coca", 3, 5, ("class",)),
        ("resnet", 2, 2, ("mean",)),
        ("siglip", 3, 5, ()),
        ("eva", 3, 5, ("class",)),
        ("registers", 3, 5, ("class", "register 1", "register 2", "register 3", "register 4")),
        ("vitamin", 3, 5, ()),
        ("mobileclip-b", 3, 5, ("class",)),
        ("mobileclip-s", 3, 5, ()),
    ],
)
def test_layout_has_rows_before_columns_and_names_what_is_no_patch(
    family: str, rows: int, cols: int, prefix: tuple[str, ...]
) -> None:
    model = tiny.FAMILIES[family]()
    size = model.image.preprocess
    layout = model.image.layout(size.height, size.width)
    assert (layout.rows, layout.cols, layout.prefix, layout.suffix) == (rows, cols, prefix, ())


@pytest.mark.parametrize("size", [(65, 130), (127, 95), (96, 161)])
@pytest.mark.parametrize("family", ["resnet", "mobileclip-s"])
def test_convolutional_towers_round_as_they_do(
    family: str, size: tuple[int, int], calls: list[Call]
) -> None:
    model = tiny.FAMILIES[family]()
    trunk: nn.Module = model.module.visual
    if family == "resnet":  # its positions fit one grid: look at what comes to them
        seen = list[torch.Size]()
        trunk.attnpool = Grab(seen)
    model.image.encode(torch.zeros(1, 3, *size, dtype=model.dtype))
    layout = model.image.layout(*size)
    if family == "resnet":
        assert tuple(seen[0][2:]) == (layout.rows, layout.cols)
    else:
        assert calls[-1][0].shape[-2] == layout.rows * layout.cols


class Grab(nn.Module):
    def __init__(self, seen: list[torch.Size]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, features: Tensor) -> Tensor:
        self.seen.append(features.shape)
        return features.mean(dim=(2, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_the_image_readout_and_no_other_row(
    family: str, calls: list[Call]
) -> None:
    model = tiny.FAMILIES[family]()
    shown = pixels(model)
    embedding = model.image.encode(shown)
    embedding[:, :3].sum().backward()
    layout, readout = model.image.layout(*shown.shape[2:]), model.image.readout
    start = len(layout.prefix)
    patches = set(range(start, start + layout.rows * layout.cols))
    expected = patches if readout.row is None else {readout.row}
    assert live_rows(calls[-1][1]) == [expected] * len(shown)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("vit", "class token"),
        ("mean pool", "mean of tokens"),
        ("coca", "pool probe"),
        ("resnet", "mean query"),
        ("siglip", "pool probe"),
        ("eva", "class token"),
        ("vitamin", "mean of tokens"),
        ("mobileclip-b", "class token"),
        ("mobileclip-s", "mean of tokens"),
    ],
)
def test_readout_is_called_by_its_name(family: str, name: str) -> None:
    assert tiny.FAMILIES[family]().image.readout.name == name


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_each_tower_lies_under_its_path(family: str) -> None:
    model = tiny.FAMILIES[family]()
    assert model.text is not None
    entered = list[str]()
    for name, part in model.module.named_modules():
        if name.endswith(("attn", "attnpool", "attn_pool", "token_mixer")):
            part.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
    model.image.encode(pixels(model))
    image = entered.copy()
    entered.clear()
    encode_text(model)
    for names, path in ((image, model.image.path), (entered, model.text.path)):
        assert names
        assert all(name.startswith(f"{path}.") for name in names)


def encode_text(model: Model, prompts: list[str] | None = None) -> Tensor:
    assert model.text is not None
    return model.text.encode(model.text.tokenize(prompts or PROMPTS))


# The text side -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_the_text_readout_and_no_other_row(family: str, calls: list[Call]) -> None:
    model = tiny.FAMILIES[family]()
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    model.text.encode(tokens)[:, :3].sum().backward()
    assert live_rows(calls[-1][1]) == [{row} for row in tokens.readout.tolist()]


def text_pool(**text: Any) -> Model:
    module = open_clip.CustomTextCLIP(tiny.EMBED, tiny.VIT, {**tiny.TEXT, **text})
    return wrap(module.double().eval())


@pytest.mark.parametrize(
    ("settings", "name", "rows"),
    [
        ({"pool_type": "argmax"}, "end of text", [3, 7]),
        ({"pool_type": "eos", "eos_id": 49407}, "end of text", [3, 7]),
        ({"pool_type": "last", "no_causal_mask": True}, "last token", [12, 12]),
        ({"pool_type": "first", "no_causal_mask": True}, "class token", [0, 0]),
    ],
)
def test_each_way_of_pooling_a_text(
    settings: dict[str, Any], name: str, rows: list[int], calls: list[Call]
) -> None:
    model = text_pool(**settings)
    assert model.text is not None
    tokens = model.text.tokenize(PROMPTS)
    model.text.encode(tokens).sum().backward()
    assert model.text.readout.name == name
    assert tokens.readout.tolist() == rows
    assert live_rows(calls[-1][1]) == [{row} for row in rows]


def test_a_hugging_face_text_tower_is_read_too(calls: list[Call], tmp_path: Any) -> None:
    from transformers import RobertaConfig

    sizes = {"hidden_size": 22, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = RobertaConfig(vocab_size=61, intermediate_size=19, pad_token_id=1, **sizes)
    config.save_pretrained(tmp_path)
    text = {"hf_model_name": str(tmp_path), "hf_model_pretrained": False, "hf_proj_type": "mlp"}
    module = open_clip.CustomTextCLIP(
        tiny.EMBED, tiny.VIT, {**text, "hf_pooler_type": "mean_pooler"}
    )
    model = wrap(module.double().eval())
    assert model.text is not None
    assert model.text.readout.name == "mean of tokens"
    with pytest.raises(Exception, match="without a tokenizer"):
        model.text.tokenize(["a dog"])
    ids = torch.full((1, model.module.text.context_length), 1)
    ids[0, :5] = torch.tensor([0, 7, 11, 13, 2])
    tokens = model.text.from_ids(ids)
    assert tokens.readout.tolist() == [-1]
    model.text.encode(tokens).sum().backward()
    assert live_rows(calls[-1][1]) == [{0, 1, 2, 3, 4}]


# Scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "coca"])
def test_scale_and_bias_give_the_model_s_own_logits(family: str) -> None:
    model = tiny.FAMILIES[family]()
    assert model.text is not None
    shown, tokens = pixels(model), model.text.tokenize(PROMPTS)
    image, text = model.image.encode(shown), model.text.encode(tokens)
    cosines = normalize(image, dim=-1) @ normalize(text, dim=-1).T
    own, _ = model.module.get_logits(shown, tokens.ids)
    torch.testing.assert_close(cosines * model.logit_scale + model.logit_bias, own)
    assert model.sigmoid == (family == "siglip")
    assert (model.logit_bias != 0) == (family == "siglip")


def test_coca_encodes_what_its_forward_pass_scores_and_unnormalised() -> None:
    model = tiny.open_clip_coca()
    assert model.text is not None
    shown, tokens = pixels(model), model.text.tokenize(PROMPTS)
    own = model.module(shown, tokens.ids)
    for mine, theirs in (
        (model.image.encode(shown), own["image_features"]),
        (model.text.encode(tokens), own["text_features"]),
    ):
        torch.testing.assert_close(normalize(mine, dim=-1), theirs)
        assert not torch.allclose(mine, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_runs_in_lower_precision(family: str, dtype: torch.dtype) -> None:
    model = tiny.FAMILIES[family](dtype)  # type: ignore[call-arg]
    exact = tiny.FAMILIES[family]()
    for mine, theirs in (
        (model.image.encode(pixels(model)), exact.image.encode(pixels(model).double())),
        (encode_text(model), encode_text(exact)),
    ):
        assert mine.dtype == dtype
        close = torch.cosine_similarity(mine.double(), theirs, dim=-1)
        assert close.min() > (0.9999 if dtype == torch.float32 else 0.9)


@pytest.mark.parametrize("build", [tiny.open_clip_coca, partial(load, "open_clip:coca_ViT-B-32")])
def test_no_weight_of_coca_is_left_as_memory_was(
    build: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **how: empty(*size, **how).fill_(torch.nan))
    for name, weight in build().module.named_parameters():
        assert weight.isfinite().all(), name


# Other sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_of_the_native_size_is_the_same_model(family: str) -> None:
    model = tiny.FAMILIES[family]()
    assert model.resized is not None
    size = model.image.preprocess
    twin = model.resized(size.height, size.width)
    assert twin.module is not model.module
    torch.testing.assert_close(twin.image.encode(pixels(model)), model.image.encode(pixels(model)))
    torch.testing.assert_close(encode_text(twin), encode_text(model), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_shares_all_but_its_positions_and_leaves_the_model_as_it_was(family: str) -> None:
    model = tiny.FAMILIES[family]()
    assert model.resized is not None
    shown = pixels(model)
    before, state = model.image.encode(shown), deepcopy(model.module.state_dict())
    twin = model.resized(*bigger(model))
    twin.image.encode(pixels(twin))
    torch.testing.assert_close(model.image.encode(shown), before, rtol=0, atol=0)
    assert state.keys() == model.module.state_dict().keys()
    own = dict(model.module.named_parameters())
    for name, parameter in twin.module.named_parameters():
        assert torch.equal(state[name], own[name])
        positions = "visual" in name and name.endswith(("positional_embedding", "pos_embed"))
        assert (parameter is own[name]) == (not positions), name
        assert parameter.requires_grad == own[name].requires_grad


def test_a_resized_vit_is_the_one_that_open_clip_makes_of_its_weights() -> None:
    model = tiny.open_clip_vit(image_size=21)  # open_clip interpolates square grids only
    expected = tiny.open_clip_vit(image_size=(28, 49)).module
    state = model.module.state_dict()
    resize_pos_embed(state, expected)
    expected.load_state_dict(state)
    assert model.resized is not None
    twin = model.resized(28, 49)
    shown = pixels(twin)
    torch.testing.assert_close(twin.image.encode(shown), expected.encode_image(shown))


def test_a_resized_attention_pool_is_interpolated_as_open_clip_does_a_vit_s_positions() -> None:
    model = tiny.open_clip_resnet()
    assert model.resized is not None
    twin = model.resized(96, 160)
    state = {"visual.positional_embedding": model.module.visual.attnpool.positional_embedding}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(3, 5))))
    expected = state["visual.positional_embedding"]
    torch.testing.assert_close(twin.module.visual.attnpool.positional_embedding, expected)


@pytest.mark.parametrize(
    "family", ["siglip", "eva", "registers", "vitamin", "mobileclip-b", "mobileclip-s"]
)
def test_a_resized_trunk_is_the_one_that_timm_makes_of_its_weights(family: str) -> None:
    model, expected = tiny.FAMILIES[family](), tiny.FAMILIES[family]().module.float()
    size = bigger(model)
    if family != "mobileclip-s":  # without positions of a size there is nothing to set
        expected.visual.set_input_size(size)
    assert model.resized is not None
    twin = model.resized(*size)
    shown = pixels(twin)
    torch.testing.assert_close(
        twin.image.encode(shown), expected.double().encode_image(shown), rtol=1e-5, atol=1e-5
    )


def test_a_twin_of_a_twin_goes_back_and_forth() -> None:
    model = tiny.open_clip_vit()
    assert model.resized is not None
    twin = model.resized(28, 49)
    assert twin.resized is not None
    again = twin.resized(35, 14)
    assert again.image.encode(pixels(again)).shape == (2, tiny.EMBED)
    assert again.image.preprocess.height == 35
    assert again.weights_hash != model.weights_hash


def test_a_twin_is_shown_the_whole_photograph_with_the_model_s_own_normalisation() -> None:
    from PIL import Image

    model = tiny.open_clip_vit()
    model.module.visual.preprocess_cfg.update(mean=(0.5, 0.25, 0.125), std=(0.5, 1.0, 2.0))
    model = wrap(model.module)
    assert model.resized is not None
    preprocess = model.resized(28, 49).image.preprocess
    assert (preprocess.height, preprocess.width, preprocess.resize) == (28, 49, "squash")
    shown = preprocess(Image.new("RGB", (640, 100), (255, 255, 255)))
    assert shown.shape == (3, 28, 49)
    torch.testing.assert_close(shown[:, 0, 0], torch.tensor([1.0, 0.75, 0.4375]))
    view = preprocess.view(640, 100)
    assert (view.left, view.top, view.right, view.bottom) == (0, 0, 640, 100)


@pytest.mark.parametrize("size", [(0, 49), (28, 50), (-7, 7)])
def test_sizes_that_are_no_whole_patches_are_refused(size: tuple[int, int]) -> None:
    model = tiny.open_clip_vit()
    assert model.resized is not None
    with pytest.raises(
        ModelError, match=r"expected positive multiples of the patch size 7 x 7; try \d+ x \d+$"
    ):
        model.resized(*size)


# Preprocessing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_preprocessing_is_the_model_s_own_and_is_described(mode: str) -> None:
    model = tiny.open_clip_vit(image_size=21)
    model.module.visual.preprocess_cfg = {"size": (21, 21), "resize_mode": mode}
    preprocess = wrap(model.module).image.preprocess
    assert (preprocess.resize, preprocess.resize_to, preprocess.width) == (mode, 21, 21)
    steps = [type(step).__name__ for step in preprocess.transform.transforms]  # type: ignore
    assert steps[-1] == "Normalize"


def test_pixels_that_no_patch_covers_are_told() -> None:
    model = tiny.open_clip_vit(image_size=(23, 40))
    assert model.image.preprocess.unpatched == (2, 5)
    assert tiny.open_clip_vit().image.preprocess.unpatched == (0, 0)


# What cannot be described ------------------------------------------------------------------------


def clip(**vision: Any) -> nn.Module:
    return open_clip.CLIP(tiny.EMBED, {**tiny.VIT, **vision}, tiny.TEXT).eval()


def convnext() -> nn.Module:
    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"}
    return open_clip.CustomTextCLIP(tiny.EMBED, vision, tiny.TEXT).eval()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (convnext, "ConvNeXt, which has no global attention"),
        (lambda: clip(pool_type="none"), "pools nothing"),
        (lambda: clip(attentional_pool="parallel", attn_pooler_heads=1), "pools in two steps"),
    ],
)
def test_towers_without_a_readable_readout_are_refused(
    build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        wrap(build())
    assert "\n" not in str(error.value)


# True sizes --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "grid", "prefix", "dim"),
    [
        ("ViT-B-32", (7, 7), 1, 512),
        ("ViT-B-16", (14, 14), 1, 512),
        ("ViT-L-14", (16, 16), 1, 768),
        ("ViT-B-16-SigLIP", (14, 14), 0, 768),
        ("ViT-B-16-SigLIP2", (14, 14), 0, 768),
        ("RN50", (7, 7), 1, 1024),
        ("EVA02-B-16", (14, 14), 1, 512),
        ("coca_ViT-B-32", (7, 7), 1, 512),
        ("ViTamin-S", (14, 14), 0, 384),
        ("MobileCLIP-S1", (8, 8), 0, 512),
        ("MobileCLIP-B", (14, 14), 1, 512),
        ("MobileCLIP2-S0", (8, 8), 0, 512),
    ],
)
def test_the_library_s_own_configurations_are_described(
    name: str, grid: tuple[int, int], prefix: int, dim: int, calls: list[Call]
) -> None:
    model = load(f"open_clip:{name}")
    shown = pixels(model, images=1)
    embedding = model.image.encode(shown)
    embedding.sum().backward()
    layout, readout = model.image.layout(*shown.shape[2:]), model.image.readout
    assert (layout.rows, layout.cols) == grid
    assert len(layout.prefix) == prefix
    assert embedding.shape == (1, dim)
    assert calls[-1][0].shape[-2] == layout.tokens
    rows = set(range(prefix, layout.tokens)) if readout.row is None else {readout.row}
    assert live_rows(calls[-1][1]) == [rows]
    assert adapter.recognises(model.module)
