"""Models in forms that are not the plain one: each gives the plain one's maps, or one line.

Every test runs the whole catalogue on both sides, or says why not. A method whose plain map is zero
but for rounding is held to zero, not to what rounding left of it.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import peft
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPImageProcessor, CLIPProcessor

import heatproof
import openai_twin
import tiny_hf
from families import FAMILIES, TEXT_FAMILIES, ids_for, picture, prompts_for, worded
from heatproof import methods
from heatproof.errors import HeatproofError, InputError, ModelError, ReadingError
from heatproof.models import Model, wrap
from heatproof.models.projection import affine_of
from heatproof.reading.attention_weights import attention_weights
from method_cases import QUICK, REFUSES

NAMES = list(methods.catalogue())
SIDES = ("image", "text")
GRADIENTS = ["attcat", "attention-eclip", "attnlrp", "gae", "grad-eclip", "legrad", "libragrad"]
FEW = ["attention-x-gradient", "grad-eclip", "gae", "attnlrp", "rise"]
# Of these a low-precision map of random weights is rounding and little else.
ROUNDED = {"attcat", "smoothgrad", "transformer-attribution", "kernel-shap", "occlusion", "vit-cx"}

Maps = dict[tuple[str, str], Tensor]


def described(family: str, dtype: torch.dtype = torch.float64) -> Model:
    return worded(FAMILIES[family](dtype), vocabulary(family))


def vocabulary(family: str) -> int:
    return tiny_hf.VOCABULARY if family.startswith("hf") else 26


def again(model: Model, module: nn.Module) -> Model:
    """Another form of the model's module, wrapped as a user would."""
    family = "hf" if module_of(module).__module__.startswith("transformers") else "open_clip"
    return worded(wrap(module, preprocess=model.image.preprocess), vocabulary(family))


def module_of(module: Any) -> type:
    return type(module.get_base_model() if isinstance(module, peft.PeftModel) else module)


def runs(family: str, model: Model, names: list[str] = NAMES) -> Iterator[tuple[str, str, Any]]:
    """Each method on each side that it takes, as a function that makes its maps."""
    pixels = picture(FAMILIES[family]())
    for side in SIDES if model.text is not None else SIDES[:1]:
        for name in names:
            method = methods.create(name, **QUICK.get(name, {}))
            refused = REFUSES.get(name, set())
            if side in method.card.sides and family not in refused | {f"{family} words"}:
                if side == "text" and f"{family} words" in refused:
                    continue
                yield side, name, (model, pixels, method, family, side)


def maps_of(model: Model, pixels: Tensor, method: Any, family: str, side: str) -> Tensor:
    if side == "image":
        if model.classes and method.card.name == "clip-surgery":
            return torch.zeros(1)  # needs an empty prompt
        prompts = list(model.classes[:2]) if model.classes else prompts_for(family)
        return heatproof.explain(model, pixels, prompts, method=method).maps
    maps = heatproof.explain_words(model, pixels, ids_for(family), method=method).maps
    return torch.cat([each.flatten() for row in maps for each in row])


def all_maps(family: str, model: Model, names: list[str] = NAMES) -> Maps:
    return {(side, name): maps_of(*run) for side, name, run in runs(family, model, names)}


def same(plain: Maps, odd: Maps, limit: float, floor: float = 1e-6) -> None:
    """Relative to the largest value, or to `floor` where all of the plain map is below it."""
    assert plain.keys() == odd.keys()
    gaps = {
        key: float((plain[key] - odd[key]).abs().max() / plain[key].abs().max().clamp(min=floor))
        for key in plain
    }
    assert max(gaps.values()) < limit, {k: f"{gap:.2g}" for k, gap in gaps.items() if gap >= limit}


_plain: dict[tuple[str, torch.dtype], Maps] = {}


def plain_maps(family: str, dtype: torch.dtype = torch.float64) -> Maps:
    if (family, dtype) not in _plain:
        _plain[family, dtype] = all_maps(family, described(family, dtype))
    return _plain[family, dtype]


def only_errors(family: str, model: Model, kind: type[HeatproofError]) -> set[str]:
    """Every method fails, in one line of this kind; what they say."""
    said = set[str]()
    for _, _, run in runs(family, model):
        with pytest.raises(kind) as caught:
            maps_of(*run)
        said.add(str(caught.value))
    assert not any("\n" in line for line in said)
    return said


# Gradient checkpointing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    ["open_clip vit", "open_clip coca", "open_clip eva", "hf clip"],
)
def test_gradient_checkpointing_left_on_changes_no_map(family: str) -> None:
    """Without `without_checkpoints` six methods end in a CheckpointError."""
    model = described(family)
    module: Any = copy.deepcopy(model.module)
    if hasattr(module, "activation_checkpointing_enable"):
        module.activation_checkpointing_enable()
    else:
        module.set_grad_checkpointing()
    switches = ("grad_checkpointing", "gradient_checkpointing")
    on = [part for part in module.modules() if any(vars(part).get(name) for name in switches)]
    assert on
    names = NAMES if family == "open_clip vit" else GRADIENTS
    same(all_maps(family, model, names), all_maps(family, again(model, module), names), 1e-9)
    assert all(any(vars(part).get(name) for name in switches) for part in on)


class Checkpointed(nn.Module):
    """A block of the user's own that always runs twice."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return checkpoint(self.block, x, attn_mask=attn_mask, use_reentrant=False)


def test_checkpointing_without_a_switch_is_one_line() -> None:
    model = described("open_clip vit")
    module: Any = copy.deepcopy(model.module)
    blocks = module.visual.transformer.resblocks
    for number, block in enumerate(blocks):
        blocks[number] = Checkpointed(block)
    odd = again(model, module.eval())
    with pytest.raises(ReadingError, match="runs blocks again in the backward pass"):
        heatproof.explain(odd, picture(odd), prompts_for("open_clip vit"), method="gae")


# Precision ---------------------------------------------------------------------------------------


def low(module: Any, dtype: torch.dtype) -> None:
    convert_weights_to_lp(module, dtype)


def low_image(module: Any, dtype: torch.dtype) -> None:
    module.visual.to(dtype)


def low_text(module: Any, dtype: torch.dtype) -> None:
    for part in (module.transformer, module.token_embedding, module.ln_final):
        part.to(dtype)
    for tensor in (module.positional_embedding, module.text_projection):
        tensor.data = tensor.data.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("change", [low, low_image, low_text])
def test_mixed_precision_gives_the_float32_maps(change: Any, dtype: torch.dtype) -> None:
    """`low` is open_clip's own; its `create_model(precision="fp16")` calls it, and OpenAI's
    `convert_weights` does the same."""
    family = "open_clip vit"
    model = described(family, torch.float32)
    module = copy.deepcopy(model.module)
    change(module, dtype)
    odd = again(model, module)
    assert odd.precision == dtype
    assert odd.dtype == (torch.float32 if change is low_text else dtype)
    found, plain = all_maps(family, odd), plain_maps(family, torch.float32)
    assert all(values.isfinite().all() for values in found.values())
    told = [key for key in plain if key[1] not in ROUNDED]
    same({k: plain[k] for k in told}, {k: found[k] for k in told}, 0.06, 1e-5)
    certified = heatproof.explain(odd, picture(odd), prompts_for(family)).certificate
    assert all(check.verdict != "violated" for check in certified.checks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_rounds_the_models_own_pass_and_nothing_else(dtype: torch.dtype) -> None:
    """What is computed from the pass is not rounded: else values miss the sum that they promise."""
    family = "open_clip vit"
    model = described(family, torch.float32)
    with torch.autocast("cpu", dtype):
        found = all_maps(family, model)
        certified = heatproof.explain(model, picture(model), prompts_for(family)).certificate
        words = heatproof.explain_words(model, picture(model), ids_for(family)).certificate
    plain = plain_maps(family, torch.float32)
    told = [key for key in plain if key[1] not in ROUNDED]
    same({k: plain[k] for k in told}, {k: found[k] for k in told}, 0.06, 1e-5)
    assert found["image", "gae"].ne(plain["image", "gae"]).any()  # the pass was in low precision
    for certificate in (certified, words):
        assert all(check.verdict != "violated" for check in certificate.checks)


# LoRA --------------------------------------------------------------------------------------------


def adapted(module: nn.Module, targets: Any) -> tuple[Any, nn.Module]:
    """A model with adapters of random weights, and the same with them merged."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = peft.LoraConfig(target_modules=targets, r=3, init_lora_weights=False)
        adapters: Any = peft.get_peft_model(copy.deepcopy(module), config).eval()
    merged: Any = copy.deepcopy(adapters).merge_and_unload()
    return adapters, merged.eval()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("open_clip vit", ["attn", "c_fc"]),
        ("hf clip", ["q_proj", "v_proj", "out_proj", "fc1", "visual_projection"]),
        ("hf vit", ["q_proj", "o_proj", "classifier"]),
    ],
)
def test_a_model_with_adapters_is_explained_as_the_merged_one(family: str, targets: Any) -> None:
    """In open_clip grad-eclip was off by .41: peft's attention takes its weights out again."""
    model = described(family)
    adapters, merged = adapted(model.module, targets)
    names = [name for name in NAMES if name != "transformer-attribution"]
    expected = all_maps(family, again(model, merged), names)
    same(expected, all_maps(family, again(model, adapters), names), 1e-9)
    assert float((expected["image", "gae"] - plain_maps(family)["image", "gae"]).abs().max()) > 1e-4
    _, _, run = next(runs(family, again(model, adapters), ["transformer-attribution"]))
    with pytest.raises(ReadingError, match=r"merge it first: model.merge_and_unload"):
        maps_of(*run)


def test_an_audit_rotates_no_head_whose_output_an_adapter_adds_to() -> None:
    """The adapter's share would not be rotated along: another function."""
    model = described("open_clip vit")
    adapters, merged = adapted(model.module, ["attn"])
    for module, readable in ((merged, True), (adapters.get_base_model(), False)):
        sites = again(model, module).attention_layers("image")
        views, unknown = attention_weights(module, sites)
        assert bool(views) == readable
        assert bool(unknown) != readable


class MergingAttention(nn.MultiheadAttention):
    """Adapters as LoRA-Torch puts them in: added to the weights for the call, and taken off."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        weight = self.out_proj.weight.data
        self.out_proj.weight.data = weight + self.delta
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.out_proj.weight.data = weight


def test_an_output_projection_is_the_one_that_the_call_had() -> None:
    family, model = "open_clip vit", described("open_clip vit")
    module, merged = copy.deepcopy(model.module), copy.deepcopy(model.module)
    for odd, plain in zip(attentions(module), attentions(merged), strict=True):
        generator = torch.Generator().manual_seed(2)
        weight = odd.out_proj.weight
        delta = 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        odd.__class__, odd.delta = MergingAttention, delta
        plain.out_proj.weight.data += delta
    same(all_maps(family, again(model, merged)), all_maps(family, again(model, module)), 1e-9)


def attentions(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, nn.MultiheadAttention)]


def test_what_is_not_linear_is_not_read_as_a_matrix() -> None:
    class Bent(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    torch.manual_seed(0)
    matrix, bias = affine_of(Twice(5, 3))
    assert bias is not None
    twice = Twice(5, 3)
    matrix, bias = affine_of(twice)
    torch.testing.assert_close(matrix, 2 * twice.weight.detach())
    torch.testing.assert_close(bias, 2 * twice.bias.detach())
    with pytest.raises(ReadingError, match="Bent"):
        affine_of(Bent(5, 3))


# int8 --------------------------------------------------------------------------------------------


@pytest.fixture
def quantised() -> nn.Module:
    quantise: Any = torch.ao.quantization.quantize_dynamic
    module = copy.deepcopy(described("hf clip", torch.float32).module)
    with warnings.catch_warnings():  # torch is about to give this up
        warnings.simplefilter("ignore")
        return quantise(module, {nn.Linear}, dtype=torch.qint8).eval()


def test_int8_is_refused_where_gradients_are_asked_for(quantised: nn.Module) -> None:
    """Torch gives none through int8 layers: a map would leave out every MLP, and hold."""
    odd = again(described("hf clip", torch.float32), quantised)
    (image, text) = sorted(only_errors("hf clip", odd, ReadingError), key=len, reverse=True)
    for line, tower in ((image, "vision_model"), (text, "text_model")):
        assert f"has int8 layers ({tower}" in line


def test_int8_is_explained_by_methods_without_gradients(quantised: nn.Module) -> None:
    plain = described("hf clip", torch.float32)
    odd = again(plain, quantised)
    for name in ("occlusion", "rise", "raw-attention"):
        found, expected = (
            heatproof.explain(
                model,
                picture(plain),
                prompts_for("hf clip"),
                method=methods.create(name, **QUICK.get(name, {})),
                certify=False,
            ).maps
            for model in (odd, plain)
        )
        same({("image", name): expected}, {("image", name): found}, 0.2)
    assert len(odd.weights_hash) == 64
    assert odd.weights_hash != plain.weights_hash


def test_a_model_that_fails_by_itself_is_one_line() -> None:
    """open_clip's text tower asks an int8 layer for its weight's dtype."""
    model = described("open_clip vit")
    module: Any = copy.deepcopy(model.module)

    def broken(*_: Any, **__: Any) -> Tensor:
        raise AttributeError("no attribute\nof that name")

    module.ln_final.forward = broken
    said = only_errors("open_clip vit", again(model, module), ModelError)
    assert said == {
        "the text encoder of CLIP fails by itself (AttributeError: no attribute of that name); "
        "expected a model that encodes in its own dtype and on its own device"
    }
    module = copy.deepcopy(model.module)
    module.visual.ln_post.forward = broken
    with pytest.raises(ModelError, match="the image encoder of CLIP fails by itself"):
        heatproof.explain(again(model, module), picture(model), prompts_for("open_clip vit"))


# Hugging Face's switches -------------------------------------------------------------------------


@pytest.mark.parametrize("family", [f for f in TEXT_FAMILIES if f.startswith("hf ")])
def test_outputs_as_tuples_change_no_map(family: str) -> None:
    model = described(family)
    module: Any = copy.deepcopy(model.module)
    for config in (module.config, module.config.vision_config, module.config.text_config):
        config.return_dict = False
    same(all_maps(family, model, FEW), all_maps(family, again(model, module), FEW), 1e-9)


def test_a_classifier_that_the_library_itself_cannot_run_is_one_line() -> None:
    model = described("hf vit")
    module: Any = copy.deepcopy(model.module)
    module.config.return_dict = False
    with pytest.raises(AttributeError):
        module(pixel_values=picture(model))
    only_errors("hf vit", again(model, module), ModelError)


# Grad modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_grad_mode_changes_no_map(mode: Callable[[], Any]) -> None:
    with mode():
        found = all_maps("open_clip vit", described_outside("open_clip vit"))
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    same(plain_maps("open_clip vit"), found, 1e-9)


def described_outside(family: str) -> Model:
    with torch.inference_mode(False):
        return described(family)


def test_pictures_and_embeddings_made_in_inference_mode_are_taken() -> None:
    model = described("open_clip vit")
    with torch.inference_mode():
        pixels = picture(model).clone()
        embeddings = model.image.encode(pixels)
        ids = ids_for("open_clip vit").clone()
    assert pixels.is_inference()
    for name in FEW:
        method = methods.create(name, **QUICK.get(name, {}))
        found = heatproof.explain(model, pixels, embeddings, method=method).maps
        plain = heatproof.explain(model, pixels.clone(), embeddings.clone(), method=method).maps
        assert torch.equal(found, plain)
        words = heatproof.explain_words(model, pixels, ids, method=method) if name != "rise" else 0
        assert words is not None


def test_a_model_made_in_inference_mode_is_loaded_right_or_refused() -> None:
    with torch.inference_mode():
        loaded = heatproof.load("scenes")
        module = copy.deepcopy(described_outside("open_clip vit").module)
    assert not any(each.is_inference() for each in loaded.module.parameters())
    with pytest.raises(ModelError, match=r"made inside torch.inference_mode.*copied outside"):
        wrap(module)
    model = described("open_clip vit")
    same(
        all_maps("open_clip vit", model, FEW),
        all_maps("open_clip vit", again(model, copy.deepcopy(module)), FEW),
        1e-9,
    )


def test_the_meta_device_is_one_line() -> None:
    model = described("open_clip vit")
    with pytest.raises(ModelError, match="meta device and has no weights"):
        wrap(copy.deepcopy(model.module).to("meta"))
    pixels = picture(model)
    torch.set_default_device("meta")
    try:
        for call in (
            lambda: heatproof.load("scenes"),
            lambda: wrap(model.module),
            lambda: heatproof.explain(model, pixels, ["a"]),
        ):
            with pytest.raises(InputError, match="default device is meta"):
                call()
    finally:
        torch.set_default_device(None)


# Wrappers ----------------------------------------------------------------------------------------


class Lightning(nn.Module):
    """A training module around a model, with a head of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net, self.head = model, nn.Linear(3, 2)


class Sentences(nn.Sequential):
    """As SentenceTransformer("clip-ViT-B-32") holds its model: with the processor beside it."""

    def __init__(self, model: nn.Module, processor: Any) -> None:
        part: Any = nn.Module()
        super().__init__(part)
        part.model, part.processor = model, processor


def test_wrappers_that_compute_what_they_wrap_are_looked_through() -> None:
    module = described("open_clip vit").module
    adapters, _ = adapted(module, ["c_fc"])
    for wrapper, inside in (
        (nn.DataParallel(module), module),
        (torch.compile(module), module),
        (nn.DataParallel(adapters), adapters.get_base_model()),
    ):
        model = wrap(wrapper.eval())
        assert model.module is inside
        assert model.notices == ()


def test_the_one_model_inside_a_module_is_taken_and_said() -> None:
    module = described("open_clip vit").module
    for inner in (module, nn.DataParallel(module)):
        model = wrap(Lightning(inner).eval())
        assert model.module is module
        assert model.notices == (
            "the CLIP inside the Lightning is explained (its part 'net'); what the Lightning does "
            "beside it is not",
        )
    openai = openai_twin.twin()
    assert wrap(Lightning(openai).eval()).module is openai
    twice: Any = Lightning(module).eval()
    twice.also = nn.ModuleDict({"same": module})
    assert wrap(twice).module is module


def test_a_sentence_transformer_brings_its_processor() -> None:
    sizes: Any = {"size": {"shortest_edge": 21}, "crop_size": {"height": 21, "width": 21}}
    pictures = CLIPImageProcessor(**sizes, image_mean=[0.1, 0.2, 0.3])
    module, processor = (
        described("hf clip", torch.float32).module,
        CLIPProcessor(pictures, tiny_hf.tokenizer()),
    )
    model = wrap(Sentences(module, processor).eval())
    assert model.module is module
    black = model.image.preprocess(Image.new("RGB", (30, 30)))[:, 0, 0]
    mean, std = (torch.tensor(getattr(pictures, f"image_{name}")) for name in ("mean", "std"))
    torch.testing.assert_close(black, -mean / std)
    assert model.text is not None
    assert model.text.tokenize(["dog"]).pieces[0][0].text == "dog"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda clip: nn.ModuleList([clip, copy.deepcopy(clip)]), r"2 models \(0, 1\); pass one"),
        (lambda clip: (clip, None), "got a tuple of 2, expected a torch.nn.Module"),
        (lambda clip: Holder(clip), "type Holder, expected a torch.nn.Module; pass its .model"),
        (lambda clip: Lightning(clip.visual), "no model that heatproof knows"),
    ],
)
def test_what_holds_no_one_model_is_one_line(build: Any, says: str) -> None:
    made = build(described("open_clip vit").module)
    with pytest.raises(ModelError, match=says):
        wrap(made.eval() if isinstance(made, nn.Module) else made)


class Holder:
    """A pipeline: no module, but it has one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def test_a_part_that_is_known_is_named() -> None:
    import timm

    with pytest.raises(ModelError, match=r"its part 'net' is one, pass that"):
        wrap(Lightning(timm.create_model("test_vit")).eval())


def test_learned_prompts_are_refused() -> None:
    module = described("open_clip vit").module

    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module
            self.active_peft_config = type("Config", (), {"is_prompt_learning": True})

        def get_base_model(self) -> nn.Module:
            return self.net

    Tuned.__module__ = "peft.peft_model"
    with pytest.raises(ModelError, match="learned tokens before the prompt"):
        wrap(Tuned().eval())
