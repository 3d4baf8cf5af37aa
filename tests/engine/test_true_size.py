"""The common models at true size, with random weights: the read pass against the untouched one."""

import pytest
import torch

import heatproof
from heatproof.tolerances import TOLERANCE

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-B-16-SigLIP"])
def test_read_pass_scores_as_the_untouched_one(name: str) -> None:
    model = heatproof.load(f"open_clip:{name}")
    size = model.image.preprocess
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, size.height, size.width, generator=generator)
    with torch.no_grad():
        width = model.image.encode(pixels).shape[1]
    prompts = torch.randn(2, width, generator=generator)
    for dtype in DTYPES:
        model.module.to(dtype)
        found = heatproof.explain(model, pixels.to(dtype), prompts.to(dtype)).certificate
        assert found.holds
        (parity,) = [check for check in found.checks if check.name == "parity"]
        assert parity.limit == TOLERANCE[dtype]
