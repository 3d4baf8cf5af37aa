"""Gradient methods against captum's and pytorch-grad-cam's, on the same float64 model."""

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import tiny
from families import picture
from heatproof.models import Model
from method_cases import close, texts, token_values


class Scorer(nn.Module):
    """Cosines with fixed prompts as the classes of a classifier: (image, prompt)."""

    def __init__(self, model: Model, prompts: Tensor) -> None:
        super().__init__()
        self.module, self.prompts = model.module, nn.functional.normalize(prompts, dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.module.encode_image(pixels), dim=-1) @ self.prompts.T


def on_grid(pixels: Tensor) -> Tensor:
    """(image, 3, 21, 35) added up over channels and patches of 7 x 7: (image, 15)."""
    return pixels.unflatten(3, (5, 7)).unflatten(2, (3, 7)).sum((1, 3, 5)).flatten(1)


@pytest.mark.parametrize("prompt", [0, 2])
def test_captum_gives_the_same_input_x_gradient_and_integrated_gradients(prompt: int) -> None:
    model, prompts = tiny.open_clip_vit(), texts()
    pixels, scorer = picture(model), Scorer(model, prompts)
    found = token_values(model, "input-x-gradient", {}, "image", pixels, prompts)[:, prompt, 1:]
    peer = captum.attr.InputXGradient(scorer)
    close(found, on_grid(peer.attribute(pixels.clone().requires_grad_(), target=prompt).detach()))
    found = token_values(model, "integrated-gradients", {"steps": 50}, "image", pixels, prompts)
    peer = captum.attr.IntegratedGradients(scorer)
    close(found[:, prompt, 1:], on_grid(peer.attribute(pixels, target=prompt)), 1e-8)


def test_captum_gives_the_same_smoothgrad_for_the_same_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompts = tiny.open_clip_vit(), texts()
    pixels, scorer = picture(model, 1), Scorer(model, prompts)
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([torch.randn(3, 21, 35, generator=generator).double() for _ in range(5)])
    monkeypatch.setattr(torch, "normal", lambda _mean, deviation: noise * deviation)
    peer = captum.attr.NoiseTunnel(captum.attr.Saliency(scorer))
    expected = peer.attribute(pixels.clone().requires_grad_(), target=1, abs=False)
    monkeypatch.undo()
    found = token_values(model, "smoothgrad", {}, "image", pixels, prompts)[:, 1, 1:]
    close(found, on_grid(expected.detach()))


def test_pytorch_grad_cam_gives_the_same_map_up_to_its_scaling() -> None:
    """The peer clips at 0, stretches each map to [0, 1] and resizes it (here: not at all)."""
    model, prompts = tiny.open_clip_vit(), texts()
    pixels, scorer = picture(model), Scorer(model, prompts)
    norm = model.module.visual.transformer.resblocks[-1].ln_1
    reshape = lambda x: x[:, 1:].unflatten(1, (3, 5)).permute(0, 3, 1, 2)  # noqa: E731
    with pytorch_grad_cam.GradCAM(scorer, [norm], reshape_transform=reshape) as peer:
        peer.get_target_width_height = lambda _input: None
        expected = peer(pixels.clone(), [ClassifierOutputTarget(1)] * 2)
    found = token_values(model, "grad-cam", {}, "image", pixels, prompts)[:, 1, 1:]
    maps = found.clamp(min=0).view(2, 3, 5)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(expected, (maps - low) / (high - low), atol=1e-5)
