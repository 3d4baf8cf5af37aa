"""Weights rounded and pruned: by hand on tiny matrices, and put back to the bit."""

import torch

import tiny
from heatproof.evaluation.variants import pruned, quantised


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_a_matrix_of_three_bits_has_seven_values_per_output() -> None:
    """Break: one scale for the whole matrix, or steps of 2 ** bits."""
    model = tiny.open_clip_vit()
    before = weights(model.module)
    with quantised(model, 3).enter():
        name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
        rounded = dict(model.module.named_parameters())[name].detach()
        for row, own in zip(rounded, before[name], strict=True):
            scale = own.abs().max() / 3
            assert torch.allclose(row / scale, (own / scale).round(), atol=1e-9)
            assert row.unique().numel() <= 7
        assert torch.equal(model.module.visual.ln_post.weight, before["visual.ln_post.weight"])
        assert torch.equal(model.module.text_projection, before["text_projection"])
    after = weights(model.module)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_smallest_weights_are_pruned() -> None:
    model = tiny.open_clip_vit()
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    before = weights(model.module)[name]
    with pruned(model, 0.3).enter():
        cut = dict(model.module.named_parameters())[name].detach()
        gone = cut == 0
        assert int(gone.sum()) == round(0.3 * cut.numel())
        assert before[gone].abs().max() <= before[~gone].abs().min()
        assert torch.equal(cut[~gone], before[~gone])
