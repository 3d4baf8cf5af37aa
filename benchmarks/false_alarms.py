"""How often checks that need no labels accuse what changes nothing: methods of the catalogue and
honest strangers (captum, pytorch-grad-cam) on 20 random models. It must be never.

    python benchmarks/false_alarms.py [--models 20] [--out benchmarks/results/false_alarms.json]
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import open_clip
import torch

from heatproof import methods
from heatproof.auditing.base import CheckContext
from heatproof.auditing.run import run_checks
from heatproof.errors import ReadingError
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method
from heatproof.models import Model
from heatproof.models import open_clip as adapter

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import strangers

EMBED = 17
CAPTUM = ("IntegratedGradients", "InputXGradient", "Saliency", "LayerGradCam")
# Controls read nothing of a model.
LEFT_OUT = {"random", "blurred-random", "center", "edges"}


def random_model(seed: int) -> Model:
    """Heads, layers, patch and activation differ from seed to seed; dtype float32 or float64."""
    heads, layers, patch = 1 + seed % 4, 1 + seed % 3, (5, 7)[seed % 2]
    vision = {
        "image_size": (3 * patch, 5 * patch),
        "patch_size": patch,
        "head_width": 8,
        "width": 8 * heads,
        "layers": layers,
    }
    text = {"width": 26, "heads": 2, "layers": 2, "context_length": 13}
    torch.manual_seed(seed)
    module = open_clip.CLIP(EMBED, vision, text, quick_gelu=bool(seed % 2)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim:
                parameter += 0.05 * torch.randn_like(parameter)
    module.visual.preprocess_cfg = {"size": module.visual.image_size, "resize_mode": "squash"}
    dtype = (torch.float32, torch.float64)[seed % 3 == 0]
    return adapter.wrap(module.to(dtype), spec=f"random {seed}")


def honest() -> list[str]:
    """Methods that by their own account, as their certificate has it, substitute nothing."""
    named = (name for name in methods.catalogue() if name not in LEFT_OUT)
    return [name for name in named if not methods.create(name).factors("image").substituted]


def subjects(model: Model, prompts: torch.Tensor, names: list[str]) -> list[Method]:
    texts = {f"embedding {n}": each for n, each in enumerate(prompts)}
    made: list[Any] = [strangers.captum_method(model.module, texts, name) for name in CAPTUM]
    made.append(strangers.grad_cam(model.module, texts))
    made.append(strangers.by_its_own_layers(model.module, texts, one_head=False))
    labels = [*(f"captum {name}" for name in CAPTUM), "grad-cam", "own layers, own heads"]
    outside = [Foreign(m, takes="pixels", name=n) for m, n in zip(made, labels, strict=True)]
    return [*map(methods.create, names), *outside]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--methods", nargs="*", help="instead of the catalogue's honest ones")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    verdicts: dict[str, Counter[str]] = {}
    alarms: list[dict[str, Any]] = []
    refused: Counter[str] = Counter()
    for seed in range(asked.models):
        model = random_model(seed)
        height, width = model.module.visual.image_size
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(2, 3, height, width, generator=generator).to(model.dtype)
        prompts = torch.randn(3, EMBED, generator=generator).to(model.dtype)
        for method in subjects(model, prompts, asked.methods or honest()):
            try:
                context = CheckContext(model=model, images=pixels, prompts=prompts)
                findings = run_checks(Subject(method), context, 1)
                findings += run_checks(Subject(method), context, 2, unlabelled=True)
            except ReadingError:  # its mathematics does not apply to this tower, and it says so
                refused[method.card.name] += 1
                continue
            for found in findings:
                verdicts.setdefault(found.check, Counter())[found.verdict] += 1
                if found.verdict == "violated":
                    alarms.append(
                        {"model": seed, "method": method.card.name, "check": found.check}
                        | {"evidence": found.evidence}
                    )
                    print(alarms[-1])
        print(f"{seed + 1} of {asked.models} models, {len(alarms)} false alarms", flush=True)
    summary = {"models": asked.models, "verdicts": verdicts, "refused": refused}
    summary |= {"false alarms": alarms}
    print(json.dumps(summary, indent=1))
    if asked.out is not None:
        asked.out.write_text(json.dumps(summary, indent=1) + "\n")
    return bool(alarms)


if __name__ == "__main__":
    sys.exit(main())
