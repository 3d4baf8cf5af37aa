"""Encode images in batches and score every image with every prompt, by the model as it now is."""

import torch
from jaxtyping import Float
from torch import Tensor

from heatproof import scores
from heatproof.models import Model


def encode_images(
    model: Model, pixels: Float[Tensor, "image 3 height width"], batch_size: int
) -> Float[Tensor, "image dim"]:
    """Return the unnormalised embeddings of preprocessed images, without gradients.

    They are float32, or float64 where the model is: scores of half-precision models are compared
    with each other, and rounding them to the model's own precision would make ties.
    """
    with torch.no_grad():
        # The tower is on its own device, and user code may hand in pixels from another one.
        parts = [
            model.image.encode(part.to(model.device, model.dtype))
            for part in pixels.split(batch_size)
        ]
    embeddings = torch.cat(parts)
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def score_pairs(
    model: Model, images: Float[Tensor, "image dim"], prompts: Float[Tensor, "prompt dim"]
) -> Float[Tensor, "image prompt"]:
    """Return the score of every pair of embeddings: the cosine, or a classifier's logit."""
    score = scores.create(scores.default(model))
    return score(scores.pairs(model, images.to(prompts.dtype), prompts))
