"""Dense methods, LeGrad and the token decomposition: what the twins of `test_methods` leave out."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision.models import VisionTransformer as TorchvisionViT

import by_hand
import by_hand_dense
import heatproof
import tiny
from families import (
    FAMILIES,
    POOLED,
    ROTARY,
    ids_for,
    model_of,
    picture,
    prompts_for,
    worded,
)
from heatproof import methods
from heatproof.errors import InputError, ReadingError
from heatproof.interactions import head_outputs, text_span
from heatproof.methods import residual
from heatproof.models import EmbeddingHead, Model
from heatproof.reading import AttentionLayer, find_attention_layers, reading, record_activations
from heatproof.reading.interventions import one_head, self_attention
from method_cases import CLASSIFIERS, close, texts, token_values

UNPOOLED = [family for family in FAMILIES if family not in POOLED]
SECOND_NORMS = ("ln_2", "norm2", "layer_norm2", "layernorm_after")


@pytest.fixture(scope="module")
def vit() -> Model:
    return worded(tiny.open_clip_vit())


def violated(explanation: Any) -> list[str]:
    return [c.name for c in explanation.certificate.checks if c.verdict == "violated"]


# --- the towers' own ends and streams ---------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_projecting_the_readout_token_gives_the_embedding(family: str) -> None:
    model = model_of(family)
    assert (model.image.project is None) is (family in POOLED)
    towers: list[tuple[EmbeddingHead, Any, Any, Tensor]] = []
    if model.image.project is not None:
        assert model.image.readout.row is not None
        rows = torch.full((2,), model.image.readout.row)
        towers.append((model.image.project, model.image.encode, picture(model), rows))
    if model.text is not None and model.text.project is not None:
        tokens = model.text.from_ids(ids_for(family))
        towers.append((model.text.project, model.text.encode, tokens, tokens.readout))
    for project, encode, given, rows in towers:
        sites = find_attention_layers(model.module, lambda e=encode, g=given: e(g), len(rows))
        block = sites[-1].block
        assert block is not None
        with torch.no_grad(), record_activations(model.module, [block]) as states:
            embedding = encode(given)
        tokens = states[block].output[torch.arange(len(rows)), rows]
        assert torch.allclose(project(tokens), embedding, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_classifiers_of_both_libraries_are_split_exactly(library: str) -> None:
    torch.manual_seed(7)
    if library == "timm":
        sizes = {"embed_dim": 33, "num_heads": 3, "depth": 2, "patch_size": 7, "num_classes": 5}
        module = VisionTransformer(img_size=(21, 35), global_pool="token", **sizes)
    else:
        module = TorchvisionViT(21, 7, 2, 3, 33, 40, num_classes=5)
        torch.nn.init.normal_(module.heads.head.weight)
    model = heatproof.wrap(module.eval().double())
    for name in ("token-decomposition", "maskclip", "legrad"):
        found = heatproof.explain(model, picture(model), ["0", "3"], method=name)
        assert (violated(found) == []) is (name == "token-decomposition")
        assert bool(found.maps.any())


def read_family(family: str) -> tuple[Model, Any, Any, Any]:
    model = model_of(family)
    sites = find_attention_layers(model.module, lambda: model.image.encode(picture(model)), 2)
    wanted = residual.states_wanted(sites)
    second = [
        f"{site.block}.{name}"
        for site in sites
        for name in SECOND_NORMS
        if hasattr(model.module.get_submodule(site.block or ""), name)
    ]
    with (
        torch.no_grad(),
        reading(model.module, [site.path for site in sites]) as trace,
        record_activations(model.module, [*wanted, *second]) as states,
    ):
        model.image.encode(picture(model))
    return model, trace, states, second


@pytest.mark.parametrize("family", [f for f in UNPOOLED if f not in ROTARY])
def test_attention_s_share_is_what_the_second_norm_is_given_less_the_first_input(
    family: str,
) -> None:
    """Layer scale included: the registers' model has one."""
    model, trace, states, second = read_family(family)
    blocks = residual.read_blocks(model.module, trace.layers, states)
    assert len(second) == len(blocks) == 2
    for block, path in zip(blocks, second, strict=True):
        close(block.before + block.added(block.layer.output), states[path].input)
        heads = torch.einsum("ihkc,hwc->ikw", block.layer.output, block.by_head()) + block.bias
        close(heads, states[path].input - block.before)


def test_attention_that_is_no_linear_map_is_refused() -> None:
    with pytest.raises(ReadingError, match="by more than a linear map"):
        methods_on("open_clip eva", "token-decomposition")


@pytest.mark.parametrize("name", ["maskclip", "legrad", "token-decomposition"])
def test_pools_and_means_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(ReadingError, match=r"no residual block.*try attention-x-gradient"):
        methods_on("open_clip siglip", name)
    with pytest.raises(ReadingError, match=r"not one token put through.*try attention-x-gradient"):
        methods_on("open_clip mean pool", name)


def methods_on(family: str, name: str, **settings: Any) -> Any:
    model = model_of(family)
    chosen = methods.create(name, **settings)
    return heatproof.explain(model, picture(model), prompts_for(family), method=chosen)


# --- dense methods ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maskclip", "sclip", "clearclip"])
def test_the_readout_s_own_value_is_the_score_of_the_changed_model(vit: Model, name: str) -> None:
    values = token_values(vit, name, {}, "image", picture(vit), texts())
    found = heatproof.explain(vit, picture(vit), texts(), method=name)
    close(values[:, :, 0].float(), found.explained_scores, 1e-6)
    untouched = heatproof.explain(vit, picture(vit), texts(), certify=False).scores
    close(found.scores, untouched, 1e-6)
    check = found.certificate.checks[0]
    gap = float((found.explained_scores - untouched).abs().max())
    assert check.value == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("name", ["maskclip", "sclip"])
def test_intervened_methods_are_scored_as_the_intervened_encoder(vit: Model, name: str) -> None:
    change = methods.create(name).plan(sites_of_vit(vit), "image").interventions
    with torch.no_grad(), reading(vit.module, [], interventions=change):
        embedding = vit.image.encode(picture(vit))
    cosine = torch.nn.functional.cosine_similarity(embedding[:, None], texts()[None], dim=-1)
    close(heatproof.explain(vit, picture(vit), texts(), method=name).explained_scores, cosine, 1e-6)


def sites_of_vit(vit: Model) -> tuple[AttentionLayer, ...]:
    return find_attention_layers(vit.module, lambda: vit.image.encode(picture(vit, 1)), 1)


def test_surgery_leaves_the_class_token_to_the_model(vit: Model) -> None:
    settings = {"features": "none"}
    values = token_values(vit, "clip-surgery", settings, "image", picture(vit), texts())
    found = heatproof.explain(vit, picture(vit), texts(), method="clip-surgery")
    close(values[:, :, 0].float(), found.scores, 1e-6)
    assert violated(found) == ["native factors"]


@pytest.mark.parametrize("architecture", ["dual", "model"])
def test_feature_surgery_over_a_set_equals_by_hand(vit: Model, architecture: str) -> None:
    settings = {"features": "set", "architecture": architecture}
    pixels, prompts = picture(vit, 1), texts()
    found = token_values(vit, "clip-surgery", settings, "image", pixels, prompts)[0]
    told = by_hand.see(vit.module, pixels[0], prompts[0])
    close(found, by_hand_dense.feature_surgery(told, prompts, architecture, 2))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("clip-surgery", {"features": "set"}), ("token-decomposition", {"contrast": "set"})],
)
def test_null_prompts_change_no_map_of_a_set(
    vit: Model, name: str, settings: dict[str, Any]
) -> None:
    method = methods.create(name, **settings)
    maps = [
        heatproof.explain(vit, picture(vit), texts(), method=method, certify=certify)
        for certify in (True, False)
    ]
    assert torch.equal(maps[0].maps, maps[1].maps)
    assert set(maps[0].certificate.null_prompts) == {"empty", "gibberish", "unrelated"}
    with pytest.raises(InputError, match="got 1 prompt, expected at least 2"):
        heatproof.explain(vit, picture(vit), texts(1), method=method)


def test_a_classifier_has_no_empty_prompt() -> None:
    with pytest.raises(InputError, match="has no text tower and so no empty prompt"):
        methods_on("hf vit", "clip-surgery")
    assert violated(methods_on("hf vit", "clip-surgery", features="none")) == ["native factors"]


def test_self_attention_needs_as_many_queries_as_keys(vit: Model) -> None:
    sites = find_attention_layers(vit.module, lambda: vit.image.encode(picture(vit, 1)), 1)
    path = sites[-1].path
    change = {path: self_attention("query", "key")}
    with torch.no_grad(), reading(vit.module, [path], weights=True, interventions=change) as trace:
        vit.image.encode(picture(vit))
    weights = trace.layers[0].weights
    assert weights is not None
    close(weights.sum(-1), torch.full_like(weights[..., 0], 2))
    siglip = model_of("open_clip siglip")
    change = {"visual.trunk.attn_pool": self_attention("query")}
    with (
        pytest.raises(ReadingError, match="needs as many queries as keys, got 1 and 15"),
        reading(siglip.module, interventions=change),
    ):
        siglip.image.encode(picture(siglip))


# --- LeGrad -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_legrad_on_the_model_s_own_score_holds_everywhere(family: str) -> None:
    assert violated(methods_on(family, "legrad", readout="model")) == []


def test_legrad_s_surrogate_shows_in_its_certificate(vit: Model) -> None:
    found = heatproof.explain(vit, picture(vit), texts(), method="legrad")
    assert violated(found) == ["parity", "native factors", "readout"]
    checks = {check.name: check.evidence for check in found.certificate.checks}
    assert "reads the class token, but 16 to 16 rows feed the score" in checks["readout"]
    assert "mean token" in checks["parity"]


# --- the token decomposition ------------------------------------------------------------------


def decompositions() -> Iterator[Any]:
    for family in UNPOOLED:
        if family not in ROTARY:
            kinds = ("class-logit", "margin") if family in CLASSIFIERS else ("cosine",)
            yield from (pytest.param(family, kind, id=f"{family}-{kind}") for kind in kinds)
    yield from (("open_clip vit", kind) for kind in ("logit", "margin"))
    yield ("open_clip registers", "logit")


@pytest.mark.parametrize(("family", "score"), list(decompositions()))
@pytest.mark.parametrize("layers", [None, 1])
def test_values_add_up_to_the_score(family: str, score: str, layers: int | None) -> None:
    model = model_of(family)
    spied: list[Tensor] = []

    class Spied(methods.TokenDecomposition):
        def attribute(self, read: methods.ReadPass) -> Tensor:
            values = super().attribute(read)
            gap = (values.sum(-1) - read.scores).detach().abs().max()
            spied.append(gap / read.scores.detach().abs().max())
            parts = self.parts(read)
            whole = parts.attention.sum((2, 3, 4)) + parts.rest.sum(-1) + parts.constant
            close(whole, read.scores)
            return values

    method = Spied(layers=layers)
    found = heatproof.explain(
        model, picture(model), prompts_for(family), method=method, score=score
    )
    assert violated(found) == []
    assert float(spied[0]) < 1e-10


def test_a_contrasted_decomposition_adds_up_to_the_difference(vit: Model) -> None:
    settings = {"contrast": "set"}
    values = token_values(vit, "token-decomposition", settings, "image", picture(vit), texts())
    plain = token_values(vit, "token-decomposition", {}, "image", picture(vit), texts())
    close(values, plain - plain.mean(1, keepdim=True))
    method = methods.TokenDecomposition(contrast="set")
    assert violated(heatproof.explain(vit, picture(vit), texts(), method=method)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_holds_in_lower_precision(dtype: torch.dtype) -> None:
    model = tiny.open_clip_vit(dtype)
    found = heatproof.explain(
        model, picture(model), texts().to(dtype), method="token-decomposition"
    )
    assert violated(found) == []


# --- TextSpan ---------------------------------------------------------------------------------


def test_text_span_finds_planted_directions_in_order_of_variance() -> None:
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(9, 9, generator=generator).double()).Q
    drawn = torch.randn(4000, 3, generator=generator).double()
    left = torch.linalg.qr(drawn - drawn.mean(0)).Q * 4000**0.5
    data = left @ (torch.tensor([[1.0], [3.0], [2.0]]).double() * basis[[4, 0, 7]])
    found = text_span(data + basis[2], basis, count=5)
    assert found.chosen == (0, 7, 4)
    assert found.explained == pytest.approx((9 / 14, 13 / 14, 1.0))
    # A text that only repeats what was chosen before explains nothing more and is left out.
    again = torch.cat([basis, 0.5 * (basis[0] + basis[7])[None]])
    assert text_span(data, again, count=3).chosen[0] == 0
    assert len(text_span(data, again, count=10).chosen) == 3
    # Texts are cut to the leading directions of the data: the weakest planted one is lost.
    assert 4 not in text_span(data, basis, rank=2).chosen[:2]
    assert text_span(data, basis, count=2, rank=None).chosen == (0, 7)


def test_text_span_refuses_what_it_cannot_span() -> None:
    with pytest.raises(InputError, match="two images at least"):
        text_span(torch.zeros(1, 3), torch.zeros(2, 3))
    model = model_of("open_clip siglip")
    with pytest.raises(ReadingError, match="not one token"):
        head_outputs(model, picture(model))


def test_head_outputs_are_what_each_head_adds_to_the_embedding(vit: Model) -> None:
    pixels = picture(vit, 1)
    found = head_outputs(vit, pixels, layers=2)[0]
    told = by_hand.see(vit.module, pixels[0], texts(1)[0])
    norm, matrix = told.extra["norm"], told.extra["matrix"]
    last = told.layers[-1].left[0]
    deviation = torch.sqrt(((last - last.mean()) ** 2).mean() + norm.eps)
    for number, layer in enumerate(told.layers):
        size = layer.outputs[0].shape[1]
        for h, output in enumerate(layer.outputs):
            part = output[0] @ layer.projection.weight[:, h * size : (h + 1) * size].T
            close(found[number, h], (part * norm.weight / deviation) @ matrix)


def test_token_decomposition_of_a_model_with_one_headed_layers_adds_up() -> None:
    """Layers of unequal heads: what an outer reading intervenes on is part of the model."""
    model = tiny.open_clip_vit()
    path = "visual.transformer.resblocks.1.attn"
    with reading(model.module, [], interventions={path: one_head()}):
        found = heatproof.explain(model, picture(model), texts(), method="token-decomposition")
    checks = {check.name: check for check in found.certificate.checks}
    assert checks["completeness"].verdict == "holds"
    assert checks["completeness"].value < 1e-12
