"""Module states read, edited and started from; methods from outside."""

import pytest
import torch

import heatproof
import tiny
from families import picture
from heatproof.errors import InputError, ReadingError
from heatproof.methods import Foreign
from heatproof.reading import block_path, edit_activations, record_activations
from method_cases import texts

BLOCK = "visual.transformer.resblocks.1"


def test_states_are_those_of_the_pass_and_gradients_start_at_the_leaf() -> None:
    model = tiny.open_clip_vit()
    with record_activations(model.module, [BLOCK, f"{BLOCK}.ln_1"], leaf=BLOCK) as states:
        out = model.image.encode(picture(model))
        assert torch.is_grad_enabled()
    assert states[BLOCK].input.is_leaf
    assert states[BLOCK].input.requires_grad
    assert states[f"{BLOCK}.ln_1"].input is states[BLOCK].input
    (grad,) = torch.autograd.grad(out.sum(), [states[BLOCK].input])
    assert grad.abs().sum() > 0
    with torch.no_grad():
        again = model.module.get_submodule(BLOCK)(states[BLOCK].input)
        torch.testing.assert_close(again, states[BLOCK].output)
        torch.testing.assert_close(model.image.encode(picture(model)), out)


def test_edits_take_the_output_s_place_and_go() -> None:
    model = tiny.open_clip_vit()
    with torch.no_grad():
        plain = model.image.encode(picture(model))
        with edit_activations(model.module, {BLOCK: torch.sin}):
            assert not torch.allclose(model.image.encode(picture(model)), plain)
        assert torch.equal(model.image.encode(picture(model)), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_a_module_that_is_not_there_or_not_run_is_named() -> None:
    model = tiny.open_clip_vit()
    with (
        pytest.raises(ReadingError, match=r"no module 'visual\.blocks'"),
        record_activations(model.module, ["visual.blocks"]),
    ):
        pass
    with (
        pytest.raises(ReadingError, match="never went through the module 'transformer"),
        record_activations(model.module, ["transformer.resblocks.0"]),
    ):
        model.image.encode(picture(model))


def test_a_call_s_block_is_its_entry_in_the_list() -> None:
    model = tiny.open_clip_vit()
    assert block_path(model.module, f"{BLOCK}.attn#2") == BLOCK
    assert block_path(model.module, "visual") is None


def test_a_callable_is_a_method_and_its_map_lands_on_the_grid() -> None:
    model = heatproof.load("scenes")
    pixels = picture(model, 2)
    asked: list[str] = []

    def stripes(given: torch.Tensor, prompt: str) -> list[list[float]]:
        asked.append(prompt)
        assert given.shape == (3, 64, 64)
        return [[float(row // 8) for _ in range(64)] for row in range(64)]

    found = heatproof.explain(
        model, pixels, ["red circle", "blue star"], method=Foreign(stripes, takes="pixels")
    )
    assert asked == ["red circle", "blue star"] * 2
    expected = torch.arange(8.0)[:, None].expand(8, 8)
    torch.testing.assert_close(found.maps[1, 1], expected)
    assert found.certificate.checks == ()


def test_a_callable_that_returns_no_map_or_takes_photos_is_told() -> None:
    model = tiny.open_clip_vit()
    for made, told in ((None, "NoneType"), ([1.0, 2.0], r"shape \(2,\)")):
        with pytest.raises(InputError, match=told):
            heatproof.explain(
                model, picture(model), texts(), method=Foreign(lambda *_, m=made: m, takes="pixels")
            )
    with pytest.raises(InputError, match="takes photos"):
        heatproof.explain(model, picture(model), texts(), method=lambda *_: [[0.0]])
