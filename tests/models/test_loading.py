"""Models by name and models that are there; weights files good, bad and hostile."""

import json
import os
import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torchvision.transforms as transforms
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
from heatproof import specs
from heatproof.errors import HeatproofError, InputError, ModelError, PromptError, UnknownName
from heatproof.models import (
    checkpoints,
    load,
    measured_geometry,
    scenes,
    wrap,
)
from heatproof.models.geometry import Preprocess
from heatproof.models.open_clip import loading as open_clip_loading

CONFIG: dict[str, Any] = {
    "embed_dim": tiny.EMBED,
    "vision_cfg": {**tiny.VIT, "image_size": 21},
    "text_cfg": tiny.TEXT,
}
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(autouse=True)
def small_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip with architectures of our own; `small-siglip` has another tokenizer."""
    siglip = {
        "embed_dim": tiny.EMBED,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": CONFIG["vision_cfg"],
        "text_cfg": {**tiny.TEXT, "hf_tokenizer_name": "nobody/nothing", "pool_type": "last"},
    }
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, "small", deepcopy(CONFIG))
    monkeypatch.setitem(known, "small-siglip", siglip)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub is out of reach; what was asked of it."""
    asked = list[str]()

    def unreachable(url: str, **_: Any) -> None:
        asked.append(url)
        raise OSError("Name or service not known\nand a second line")

    monkeypatch.setattr(checkpoints, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(checkpoints, "try_to_load_from_cache", lambda *_: None)
    return asked


def one_line(call: Callable[[], object], kind: type[HeatproofError] = ModelError) -> str:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


def small_state(seed: int = 5) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(open_clip.CLIP(**CONFIG).state_dict())


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["", "small", "open_clip:", "opn_clip:small", "hf:"])
def test_names_of_no_known_form_are_refused_with_the_forms(spec: str) -> None:
    text = one_line(lambda: load(spec))
    assert repr(spec) in text
    assert "open_clip:NAME" in text
    assert ("did you mean open_clip:small?" in text) == spec.endswith("small")


def test_unknown_names_offer_the_nearest() -> None:
    for spec, near in (("ViT-B16", "ViT-B-16"), ("ViT-B-16/laion2b_s34", "laion2b_s34b_b88k")):
        assert near in one_line(lambda spec=spec: load(f"open_clip:{spec}"), UnknownName)


def test_without_weights_a_model_is_random_reproducibly_and_says_so(
    no_network: list[str],
) -> None:
    before = torch.random.get_rng_state()
    models = [load("open_clip:small") for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert models[0].weights_hash == models[1].weights_hash
    assert models[0].weights == "random"
    assert not models[0].module.training
    (notice,) = models[0].notices
    assert "random" in notice
    assert models[0].spec == "open_clip:small"
    assert not no_network


def test_the_weights_hash_follows_the_weights() -> None:
    model, other = load("open_clip:small"), load("open_clip:small")
    with torch.no_grad():
        other.module.logit_scale += 1e-3
    assert model.weights_hash != other.weights_hash


def test_nothing_is_logged_or_printed(capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    load("open_clip:small")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("name", ["float64", "bfloat16", torch.float16])
def test_dtype_is_as_asked(name: Any) -> None:
    assert str(load("open_clip:small", dtype=name).dtype).removeprefix("torch.") in str(name)


def test_what_cannot_be_had_is_refused() -> None:
    assert "float32" in one_line(lambda: load("open_clip:small", dtype="float23"), UnknownName)
    assert "there is cpu" in one_line(lambda: load("open_clip:small", device="gpu"), InputError)
    if not torch.cuda.is_available():
        text = one_line(lambda: load("open_clip:small", device="cuda"), InputError)
        assert "'cuda'" in text
        assert "there is cpu" in text


def test_another_image_size_keeps_the_way_of_cropping() -> None:
    model = load("open_clip:small", image_size=28)
    preprocess = model.image.preprocess
    assert (preprocess.height, preprocess.width, preprocess.resize) == (28, 28, "shortest")
    assert model.image.layout(28, 28).rows == 4
    wide = load("open_clip:small", image_size=(21, 35)).image.preprocess
    assert wide(Image.new("RGB", (90, 60))).shape == (3, 21, 35)
    assert (
        load("open_clip:small", image_size=21).weights_hash == load("open_clip:small").weights_hash
    )


# Named weights -----------------------------------------------------------------------------------


def test_offline_a_tag_fails_at_once_and_says_what_to_put_where(no_network: list[str]) -> None:
    text = one_line(lambda: load("open_clip:RN50/openai"))
    assert "https://huggingface.co/timm/resnet50_clip.openai" in text
    assert WEIGHTS in text
    assert "open_clip:RN50/FILE" in text
    assert len(no_network) == 1


def test_without_leave_nothing_is_asked_of_the_network(no_network: list[str]) -> None:
    text = one_line(lambda: load("open_clip:RN50/openai", allow_download=False))
    assert "not on this computer" in text
    assert not no_network


def test_a_file_on_this_computer_is_used_first(
    monkeypatch: pytest.MonkeyPatch, no_network: list[str]
) -> None:
    monkeypatch.setattr(checkpoints, "try_to_load_from_cache", lambda _, name: f"/there/{name}")
    found = checkpoints.fetch("a/b", ["one", "two"], instead="", allow_download=True)
    assert found == Path("/there/one")
    assert not no_network


def test_a_tag_brings_its_preprocessing_and_its_activation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = open_clip.CLIP(**CONFIG, quick_gelu=True).state_dict()
    save_file(state, tmp_path / WEIGHTS)
    monkeypatch.setattr(checkpoints, "cached", lambda *_: tmp_path / WEIGHTS)
    known = {"hf_hub": "timm/small/", "mean": (0.5,) * 3, "resize_mode": "squash"}
    monkeypatch.setattr(
        open_clip_loading, "get_pretrained_cfg", lambda *_: {**known, "quick_gelu": True}
    )
    model = load("open_clip:small/best")
    assert model.weights == "loaded"
    assert "QuickGELU" in model.notices[0]
    assert any(type(part).__name__ == "QuickGELU" for part in model.module.modules())
    assert model.image.preprocess.resize == "squash"
    assert model.image.preprocess.transform.transforms[-1].mean == (0.5,) * 3  # type: ignore


def test_weights_from_a_file_take_the_preprocessing_that_all_published_ones_share() -> None:
    usual = open_clip_loading._usual_preprocess
    assert usual("ViT-B-16-SigLIP")["mean"] == (0.5, 0.5, 0.5)
    assert usual("ViT-B-16-SigLIP")["resize_mode"] == "squash"
    assert usual("ViT-B-32")["resize_mode"] == "shortest"
    assert usual("no such model") == {}


# Files -------------------------------------------------------------------------------------------


def as_safetensors(state: dict[str, Tensor], file: Path) -> None:
    save_file(state, file)


def as_training_checkpoint(state: dict[str, Tensor], file: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, file)


def as_old_zip_less_file(state: dict[str, Tensor], file: Path) -> None:
    torch.save(state, file, _use_new_zipfile_serialization=False)


def as_compiled(state: dict[str, Tensor], file: Path) -> None:
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, file)


def as_one_number_lists(state: dict[str, Tensor], file: Path) -> None:
    torch.save({**state, "logit_scale": state["logit_scale"].reshape(1)}, file)


def as_half(state: dict[str, Tensor], file: Path) -> None:
    torch.save({name: value.half() for name, value in state.items()}, file)


@pytest.mark.parametrize(
    ("save", "suffix"),
    [
        (as_safetensors, ".safetensors"),
        (as_safetensors, ".bin"),
        (as_training_checkpoint, ".pt"),
        (as_old_zip_less_file, ".pth"),
        (as_compiled, ".bin"),
        (as_one_number_lists, ".pt"),
        (as_half, ".ckpt"),
    ],
)
def test_weights_files_of_every_form(save: Any, suffix: str, tmp_path: Path) -> None:
    state, file = small_state(), tmp_path / f"weights{suffix}"
    save(state, file)
    model = load(f"open_clip:small/{file}")
    close = 1e-3 if save is as_half else 0
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=close, rtol=close)
    assert model.weights == "loaded"
    assert model.notices == ()
    assert model.dtype == torch.float32


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(bare: bool, tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"state_dict": {"a": Hostile(mark)}}
    if bare:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    text = one_line(lambda: load(f"open_clip:small/{file}"))
    assert "refused" in text
    assert "run any code" in text
    assert not mark.exists()


def test_a_saved_module_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "module.pt")
    text = one_line(lambda: checkpoints.read(tmp_path / "module.pt"))
    assert "torch.nn.modules.linear.Linear" in text


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "ViT-B-16.pt"
    torch.jit.script(nn.Linear(2, 3)).save(str(file))
    text = one_line(lambda: checkpoints.read(file))
    assert "TorchScript" in text
    assert "open_clip:ViT-B-16/openai" in text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.pt", b"", "is empty"),
        ("text.pt", b"hello there, this is no weights file", "cannot be read as weights"),
        ("text.safetensors", b"hello there, this is no weights file", "cannot be read as weights"),
        ("cut.pt", b"PK\x03\x04 and then the download stopped", "cut short"),
    ],
)
def test_damaged_files_are_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in one_line(lambda: load(f"open_clip:small/{tmp_path / name}"))


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "epoch.pt")
    np.savez(tmp_path / "array.npz", a=np.ones(3))
    assert "holds a list" in one_line(lambda: checkpoints.read(tmp_path / "list.pt"))
    assert "a dict of 'epoch'" in one_line(lambda: checkpoints.read(tmp_path / "epoch.pt"))
    assert "cannot be read" in one_line(lambda: checkpoints.read(tmp_path / "array.npz"))
    assert "a folder" in one_line(lambda: checkpoints.read(tmp_path))
    assert "no such file" in one_line(lambda: load(f"open_clip:small/{tmp_path}/none.pt"))


def misfit(change: Callable[[dict[str, Tensor]], object], file: Path) -> str:
    state = small_state()
    change(state)
    save_file(state, file)
    return one_line(lambda: load(f"open_clip:small/{file}"))


def test_weights_of_another_architecture_name_the_first_key_and_both_shapes(tmp_path: Path) -> None:
    file = tmp_path / WEIGHTS
    bias = "visual.ln_pre.bias"
    wrong = {bias: torch.ones(7), "ln_final.bias": torch.ones(2)}
    text = misfit(lambda state: state.update(wrong), file)
    assert f"{bias} is 7 in the file, 33 in the model" in text
    assert "does not fit small" in text
    text = misfit(lambda state: [state.pop(bias), state.pop("ln_final.bias")], file)
    assert f"{bias} (33) is not in the file, nor 1 others" in text
    text = misfit(lambda state: state.update(extra=torch.ones(2, 3)), file)
    assert "extra (2 x 3) is not in the model" in text


def as_openai(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's state dicts say their sizes beside the weights."""
    keys = ("input_resolution", "context_length", "vocab_size")
    return {
        **state,
        **{key: torch.tensor(size) for key, size in zip(keys, (21, 13, 49408), strict=True)},
    }


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small architecture in open_clip's two activations."""
    config = {**deepcopy(CONFIG), "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-quickgelu", config)


@pytest.mark.parametrize("name", ["small", "small-quickgelu"])
@pytest.mark.usefixtures("quick")
def test_openais_weights_get_their_activation_whatever_the_name(name: str, tmp_path: Path) -> None:
    """Built with GELU their cosines are off by as much as they are large."""
    file = tmp_path / "ViT.pt"
    torch.save(as_openai(small_state()), file)
    model = load(f"open_clip:{name}/{file}")
    kinds = {type(part.mlp.gelu) for part in model.module.visual.transformer.resblocks}
    assert kinds == {open_clip.transformer.QuickGELU}
    expected = open_clip.CLIP(**CONFIG, quick_gelu=True).eval()
    expected.load_state_dict(small_state())
    picture = torch.randn(1, 3, 21, 21, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.image.encode(picture), expected.encode_image(picture))
    said = f"{file} is OpenAI's, trained with QuickGELU: the model is built with it"
    assert model.notices == ((said,) if name == "small" else ())


@pytest.mark.parametrize(
    ("name", "taken", "other"),
    [("small", "GELU", "small-quickgelu"), ("small-quickgelu", "QuickGELU", "small")],
)
@pytest.mark.usefixtures("quick")
def test_a_file_that_does_not_say_its_activation_gets_a_notice(
    name: str, taken: str, other: str, tmp_path: Path
) -> None:
    file = tmp_path / WEIGHTS
    save_file(small_state(), file)
    (notice,) = load(f"open_clip:{name}/{file}").notices
    assert notice.startswith(
        f"{file} does not say its activation; {taken} is taken, as {name} says"
    )
    assert f"open_clip:{other}/{file}" in notice


def test_a_file_whose_preprocessing_has_to_be_guessed_gets_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / WEIGHTS
    save_file(small_state(), file)
    assert load(f"open_clip:small/{file}").notices == ()  # nobody's weights say otherwise
    published = {"a": {"mean": (0.5, 0.5, 0.5)}, "b": {"resize_mode": "squash"}}
    monkeypatch.setattr(open_clip_loading, "list_pretrained_tags_by_model", lambda _: published)
    monkeypatch.setattr(open_clip_loading, "get_pretrained_cfg", lambda _, tag: published[tag])
    (notice,) = load(f"open_clip:small/{file}").notices
    assert "does not say how pictures are preprocessed" in notice
    assert "differ in mean, resize_mode;" in notice


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-H-14"])
def test_published_weights_disagree_where_the_notice_says_so(name: str) -> None:
    """What the notice rests on: open_clip's own list."""
    published = open_clip_loading._published(name)
    assert len({str(sorted(each.items())) for each in published}) > 1


def test_positions_of_another_grid_are_interpolated_and_told(tmp_path: Path) -> None:
    vision = {**CONFIG["vision_cfg"], "image_size": 35}
    save_file(open_clip.CLIP(**{**CONFIG, "vision_cfg": vision}).state_dict(), tmp_path / WEIGHTS)
    (notice,) = load(f"open_clip:small/{tmp_path / WEIGHTS}").notices
    assert "26 position embeddings" in notice
    assert "interpolated" in notice


# The embedded model -----------------------------------------------------------------------------


def test_scenes_and_its_checkpoints_take_the_same_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Words:
        eot_token_id, all_special_ids = 49407, [49406, 49407]

        def __init__(self, context: int) -> None:
            self.inner = open_clip.SimpleTokenizer(context_length=context)

        def __call__(self, texts: list[str]) -> Tensor:
            return self.inner(texts)

        def pieces(self, text: str) -> list[tuple[int, int, int]]:
            (token,) = self.inner.encode(text)
            return [(token, 0, len(text))]

    for number, name in enumerate(("early", "final")):
        state = {key: value.half() for key, value in small_state(number).items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    (tmp_path / "scenes.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(scenes, "CONFIG", tmp_path / "scenes.json")
    monkeypatch.setattr(scenes, "SceneTokenizer", Words)
    monkeypatch.setattr(scenes, "checkpoint_file", lambda name: tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(specs, "checkpoints", lambda: ["early", "final"])
    model, early = load("scenes"), load("scenes:early")
    assert model.weights == "loaded"
    assert model.weights_hash == load("scenes:final").weights_hash != early.weights_hash
    assert (model.spec, early.spec) == ("scenes", "scenes:early")
    assert "open_clip:ViT-B-16/openai" in model.notices[0]
    assert model.text is not None
    assert [piece.text for piece in model.text.tokenize(["dog"]).pieces[0]] == ["dog"]
    assert "early" in one_line(lambda: load("scenes:earlier"), UnknownName)


# Folders and other tokenizers --------------------------------------------------------------------


def test_a_local_folder_of_open_clip_s_is_loaded(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / WEIGHTS)
    preprocess = {"mean": [0.5] * 3, "resize_mode": "squash"}
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = load(f"open_clip:local-dir:{tmp_path}")
    assert model.weights == "loaded"
    assert model.image.preprocess.resize == "squash"
    assert model.weights_hash == load(f"open_clip:small/{tmp_path / WEIGHTS}").weights_hash


def test_a_folder_that_lacks_something_is_refused(tmp_path: Path) -> None:
    assert "holds no weights" in one_line(lambda: load(f"open_clip:local-dir:{tmp_path}"))
    save_file(small_state(), tmp_path / WEIGHTS)
    assert "open_clip_config.json" in one_line(lambda: load(f"open_clip:local-dir:{tmp_path}"))
    assert "huggingface.co/a/b" in one_line(lambda: load("open_clip:hf-hub:a/b"))


def test_a_tokenizer_that_is_elsewhere_is_named_and_all_else_works() -> None:
    model = load("open_clip:small-siglip")
    assert model.text is not None
    with pytest.raises(
        PromptError, match=r"tokenizer.json.*huggingface.co/nobody/nothing.*token ids"
    ):
        model.text.tokenize(["a dog"])
    tokens = model.text.from_ids(torch.ones(1, tiny.CONTEXT, dtype=torch.long))
    assert model.text.encode(tokens).shape == (1, tiny.EMBED)
    assert model.sigmoid
    assert model.logit_bias == -10


def test_a_tokenizer_beside_the_weights_is_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "dog": 2, "[UNK]": 3}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(tmp_path)
    save_file(load("open_clip:small-siglip").module.state_dict(), tmp_path / WEIGHTS)
    model = load(f"open_clip:small-siglip/{tmp_path / WEIGHTS}")
    assert model.text is not None
    tokens = model.text.tokenize(["a dog"])
    assert tokens.ids[0, :3].tolist() == [1, 2, 0]
    assert [piece.text for piece in tokens.pieces[0]] == ["a", "dog"]


# Wrapping ----------------------------------------------------------------------------------------


def clip() -> nn.Module:
    return open_clip.CLIP(**CONFIG).eval()


def test_a_model_that_is_there_is_described_and_left_alone() -> None:
    module = clip()
    state = deepcopy(module.state_dict())
    model = wrap(module, name="mine")
    assert (model.module, model.spec, model.family) == (module, "mine", "vit")
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def half_training(module: nn.Module) -> nn.Module:
    module.visual.train()  # type: ignore[operator]
    return module


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda module: module.train(), r"training mode; call model.eval\(\)"),
        (half_training, r"training mode \(in visual\); call model.eval\(\)"),
    ],
)
def test_models_that_cannot_be_read_as_they_are(change: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        wrap(change(clip()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.script(nn.Linear(2, 3).eval())
    assert "pass the model that was scripted" in one_line(lambda: wrap(scripted))


@pytest.mark.slow
def test_a_compiled_model_within_is_refused() -> None:
    module = clip()
    module.visual = torch.compile(module.visual)  # type: ignore[assignment]
    assert "compiled" in one_line(lambda: wrap(module))


def test_a_preprocessing_of_one_s_own_is_kept() -> None:
    steps = [transforms.Resize(30), transforms.CenterCrop(21), transforms.ToTensor()]
    normalise = transforms.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    transform = transforms.Compose([*steps, normalise])
    model = wrap(clip(), preprocess=transform)
    assert model.image.preprocess == Preprocess(
        height=21, width=21, resize="shortest", resize_to=30, transform=transform
    )
    assert model.resized is not None
    twin = model.resized(28, 35).image.preprocess
    assert twin.transform.transforms[-1].mean == (0.1, 0.2, 0.3)  # type: ignore
    assert wrap(clip(), preprocess=transforms.Compose(steps)).resized is None


# Measured geometry -------------------------------------------------------------------------------


def box(transform: Any, width: int, height: int) -> list[float]:
    view = measured_geometry.MeasuredPreprocess(
        height=1, width=1, resize="squash", resize_to=1, transform=transform
    ).view(width, height)
    return [view.left, view.top, view.right, view.bottom]


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [
        ([transforms.Resize((96, 160))], (640, 480), [0, 0, 640, 480]),
        ([transforms.Resize(256), transforms.CenterCrop(224)], (640, 480), [109, 30, 530, 450]),
        ([transforms.Resize(224), transforms.CenterCrop(224)], (500, 4000), [0, 1750, 500, 2250]),
        ([transforms.Resize(90), transforms.Pad((30, 10))], (90, 90), [-30, -10, 120, 100]),
        ([transforms.CenterCrop(100)], (300, 200), [100, 50, 200, 150]),
    ],
)
def test_what_an_unknown_preprocessing_shows_is_measured(
    steps: list[Any], size: tuple[int, int], expected: list[float]
) -> None:
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(0.4, 0.3)])
    found = box(lambda picture: transform(picture), *size)
    assert found == pytest.approx(expected, abs=0.004 * max(size))


def test_a_measured_preprocessing_is_itself() -> None:
    transform = transforms.Compose([transforms.Resize((21, 21)), transforms.ToTensor()])
    preprocess = measured_geometry.described(lambda picture: transform(picture))
    assert isinstance(preprocess, measured_geometry.MeasuredPreprocess)
    picture = Image.fromarray(np.arange(90 * 60 * 3, dtype=np.uint8).reshape(60, 90, 3))
    assert torch.equal(preprocess(picture), transform(picture))
    assert (preprocess.height, preprocess.width, preprocess.resize) == (21, 21, "squash")


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (lambda _: "pixels", "gave str"),
        (lambda _: torch.zeros(1, 8, 8), r"gave shape \(1, 8, 8\)"),
        (lambda _: torch.zeros(3, 8, 8), "alike"),
        (
            transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()]),
            "random",
        ),
        (
            lambda picture: transforms.functional.to_tensor(picture.resize((32, 32))).roll(9, -1),
            "bends",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(transform: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        measured_geometry.described(transform)
