"""Other people's explainers, honest and not: callables (pixels, prompt) -> map around a model.

Each maker takes an open_clip model with a class token and the text embeddings by prompt.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stranger = Callable[[Any, str], Tensor]
Texts = Mapping[str, Tensor]


def _score(image: Tensor, text: Tensor) -> Tensor:
    return (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1)).sum()


def _tokens(visual: Any, pixels: Tensor) -> Tensor:
    """Patches and class token, embedded by the model's own layers, one by one."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(pixels), 1, -1)
    return visual.ln_pre(torch.cat([first, patches], 1) + visual.positional_embedding)


def _heads(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def by_its_own_layers(module: Any, texts: Texts, *, one_head: bool) -> Stranger:
    """Grad-ECLIP as people write it: the model's layers called one by one, attention by hand, with
    one head in the last block (`one_head`) or as the model has it. The model is never called."""

    def explain_by_hand(pixels: Tensor, prompt: str) -> Tensor:
        visual = module.visual
        x = _tokens(visual, pixels[None])
        blocks = list(visual.transformer.resblocks)
        for block in blocks[:-1]:
            x = block(x)
        last = blocks[-1]
        packed = F.linear(last.ln_1(x), last.attn.in_proj_weight, last.attn.in_proj_bias)
        heads = 1 if one_head else last.attn.num_heads
        query, key, value = (_heads(each, heads) for each in packed.chunk(3, -1))
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        output = weights @ value
        x = x + last.attn.out_proj(output.transpose(1, 2).flatten(2))
        x = x + last.mlp(last.ln_2(x))
        score = _score(visual.ln_post(x)[:, 0] @ visual.proj, texts[prompt])
        (gradient,) = torch.autograd.grad(score, [output])
        cam = (gradient[:, :, :1] * value).sum((1, 3))[0, 1:]
        return cam.view(visual.grid_size).detach()

    return explain_by_hand


def by_a_patch(module: Any, texts: Texts) -> Stranger:
    """Calls the model as everybody does, with the last block's attention patched meanwhile."""

    def explain_with_a_patch(pixels: Tensor, prompt: str) -> Tensor:
        attention = module.visual.transformer.resblocks[-1].attn
        heads, dim = attention.num_heads, attention.head_dim
        attention.num_heads, attention.head_dim = 1, attention.embed_dim
        try:
            leaf = pixels[None].clone().requires_grad_()
            score = _score(module.encode_image(leaf), texts[prompt])
            (gradient,) = torch.autograd.grad(score, [leaf])
        finally:
            attention.num_heads, attention.head_dim = heads, dim
        return (gradient * leaf).sum((0, 1)).detach()

    return explain_with_a_patch


def by_a_hook(module: Any, texts: Texts) -> Stranger:
    """Replaces the last attention's output by zero through a hook."""

    def explain_with_a_hook(pixels: Tensor, prompt: str) -> Tensor:
        attention = module.visual.transformer.resblocks[-1].attn
        hook = attention.register_forward_hook(lambda *given: (0 * given[-1][0], *given[-1][1:]))
        try:
            leaf = pixels[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(
                _score(module.encode_image(leaf), texts[prompt]), [leaf]
            )
        finally:
            hook.remove()
        return (gradient * leaf).sum((0, 1)).detach()

    return explain_with_a_hook


def that_leaves_a_patch(module: Any, texts: Texts) -> Stranger:
    """Scales a weight and never puts it back."""

    def explain_and_forget(pixels: Tensor, prompt: str) -> Tensor:
        with torch.no_grad():
            module.visual.ln_post.weight.mul_(1.5)
            return pixels.sum(0) * _score(module.encode_image(pixels[None]), texts[prompt])

    return explain_and_forget


def with_its_own_copy(module: nn.Module, texts: Texts) -> Stranger:
    """Has a copy of the weights, and never touches the model that it was given."""
    import copy

    twin: Any = copy.deepcopy(module)

    def explain_a_copy(pixels: Tensor, prompt: str) -> Tensor:
        leaf = pixels[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_score(twin.encode_image(leaf), texts[prompt]), [leaf])
        return (gradient * leaf).sum((0, 1)).detach()

    return explain_a_copy


def with_weights_alone(module: Any, texts: Texts) -> Stranger:
    """Computes with the model's weights and calls none of its modules."""

    def explain_by_weights(pixels: Tensor, prompt: str) -> Tensor:
        visual = module.visual
        patches = F.conv2d(pixels[None], visual.conv1.weight, stride=visual.conv1.stride)
        tokens = patches.flatten(2).transpose(1, 2)
        return (tokens @ visual.proj @ texts[prompt]).view(visual.grid_size).detach()

    return explain_by_weights


class Scored(nn.Module):
    """What captum and pytorch-grad-cam explain: the untouched model's score of one prompt."""

    def __init__(self, module: Any, text: Tensor) -> None:
        super().__init__()
        self.module, self.text = module, text

    def forward(self, pixels: Tensor) -> Tensor:
        image = F.normalize(self.module.encode_image(pixels), dim=-1)
        return image @ F.normalize(self.text, dim=-1)[:, None]


def captum_method(module: Any, texts: Texts, name: str) -> Stranger:
    """captum's attribution on the untouched model."""
    import captum.attr

    def explain_with_captum(pixels: Tensor, prompt: str) -> Tensor:
        scored = Scored(module, texts[prompt])
        grid = module.visual.grid_size
        if name == "LayerGradCam":
            layer = captum.attr.LayerGradCam(scored, module.visual.conv1)
            return layer.attribute(pixels[None].clone(), target=0).detach()[0, 0]
        settings = {"n_steps": 6, "internal_batch_size": 3} if name == "IntegratedGradients" else {}
        method: Any = getattr(captum.attr, name)(scored)
        leaf = pixels[None].clone().requires_grad_()
        made = method.attribute(leaf, target=0, **settings)
        return F.adaptive_avg_pool2d(made.sum(1).detach(), grid)[0]

    return explain_with_captum


def grad_cam(module: Any, texts: Texts) -> Stranger:
    """pytorch-grad-cam on the input norm of the last block."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    grid = module.visual.grid_size

    def as_picture(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)

    def explain_with_grad_cam(pixels: Tensor, prompt: str) -> Tensor:
        layer = module.visual.transformer.resblocks[-1].ln_1
        with GradCAM(Scored(module, texts[prompt]), [layer], reshape_transform=as_picture) as cam:
            made = cam(pixels[None].clone(), [ClassifierOutputTarget(0)])
        return torch.from_numpy(made[0])

    return explain_with_grad_cam
