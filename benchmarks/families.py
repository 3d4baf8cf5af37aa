"""Every model family with random weights: parity of the read pass, methods that ran.

For each model: the largest gap between the score of the read pass and that of the untouched one,
image and text side, in three dtypes; and how many methods of the catalogue ran on it, with how many
certificates that came out as their catalogue entry says. Killed, it goes on where it was.

    python benchmarks/families.py [--only ViT-B-16]      the libraries' own configurations
    python benchmarks/families.py --tiny                 the tests' two-block models, in a minute
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import heatproof
from heatproof.errors import HeatproofError
from heatproof.models import Model
from heatproof.models.hugging_face.families import ARCHITECTURES

RESULTS = Path(__file__).parent / "results"
TESTS = Path(__file__).parent.parent / "tests" / "support"
OPEN_CLIP = (
    "ViT-B-32",
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-L-14",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    "EVA02-B-16",
    "coca_ViT-B-32",
    "RN50",
    "ViTamin-S",
    "MobileCLIP-S1",
    "MobileCLIP-B",
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# Those whose certificate fails by their own account.
UNCERTIFIED = {
    "attention-eclip",
    "center",
    "clearclip",
    "clip-surgery",
    "edges",
    "grad-eclip",
    "legrad",
    "maskclip",
    "random",
    "sclip",
}


def builders() -> dict[str, Callable[[], Model]]:
    made: dict[str, Callable[[], Model]] = {
        f"open_clip:{name}": lambda name=name: heatproof.load(f"open_clip:{name}")
        for name in OPEN_CLIP
    }
    for known in ARCHITECTURES.values():
        name = known.model_class
        made[f"hf:{name}"] = lambda name=name: hugging_face(name)
    made["timm:vit_base_patch16_224"] = lambda: heatproof.load("timm:vit_base_patch16_224")
    made["torchvision vit_b_16"] = torchvision_vit
    return made


def tiny_builders() -> dict[str, Callable[[], Model]]:
    """The models that the tests run on, in float32."""
    sys.path.insert(0, str(TESTS))
    import families  # pyright: ignore

    return {
        name: lambda build=build: build(torch.float32) for name, build in families.FAMILIES.items()
    }


def hugging_face(name: str) -> Model:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    settings = kind.config_class()
    for text in (getattr(settings, "text_config", None),):
        if text is not None and text.vocab_size < 49408:
            text.bos_token_id, text.eos_token_id, text.pad_token_id = 1, text.vocab_size - 1, 0
    return heatproof.wrap(kind(settings).eval(), name=f"hf:{name}")


def torchvision_vit() -> Model:
    from torchvision.models import vit_b_16

    torch.manual_seed(0)
    return heatproof.wrap(vit_b_16().eval(), name="torchvision vit_b_16")


def prompts_of(model: Model) -> torch.Tensor | list[str]:
    """Two class names, or token ids that end in the highest id (OpenAI's end of text)."""
    if model.classes:
        return list(model.classes[:2])
    assert model.text is not None
    end = end_of_text(model)
    for context in (77, 76, 64, 32, 13):
        words = torch.Generator().manual_seed(1)
        ids = torch.randint(5, min(400, end), (2, context), generator=words)
        ids[0, 9:], ids[0, 9] = 0, end
        ids[1, -1] = end
        try:
            model.text.from_ids(ids)
        except HeatproofError:
            continue
        return ids
    raise SystemExit(f"no context fits {model.spec}")


def end_of_text(model: Model) -> int:
    sizes = [m.num_embeddings for m in model.module.modules() if isinstance(m, torch.nn.Embedding)]
    return max(sizes) - 1


def gap(explanation: object) -> float:
    checks = {c.name: c for c in explanation.certificate.checks}  # type: ignore[attr-defined]
    return checks["parity"].value


def measured(build: Callable[[], Model]) -> dict[str, object]:
    model = build()
    size = model.image.preprocess
    pixels = torch.randn(1, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    prompts = prompts_of(model)
    row: dict[str, object] = {"parity": {}, "methods": 0, "as expected": 0, "refused": []}
    for name, entry in heatproof.methods.catalogue().items():
        for side in entry.sides if model.text is not None else ("image",):
            explain = heatproof.explain if side == "image" else heatproof.explain_words
            try:
                found = explain(model, pixels, prompts, method=name)
            except HeatproofError as error:
                row["refused"].append(f"{name}, {side}: {error}")
                continue
            row["methods"] += 1
            row["as expected"] += found.certificate.holds is (name not in UNCERTIFIED)
    for dtype in DTYPES:
        model.module.to(dtype)
        gaps = [gap(heatproof.explain(model, pixels.to(dtype), prompts))]
        if model.text is not None:
            gaps.append(gap(heatproof.explain_words(model, pixels.to(dtype), prompts)))
        row["parity"][str(dtype).removeprefix("torch.")] = max(gaps)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    results = RESULTS / ("families_tiny.json" if asked.tiny else "families.json")
    done = json.loads(results.read_text()) if results.exists() else {}
    results.parent.mkdir(exist_ok=True)
    for name, build in (tiny_builders() if asked.tiny else builders()).items():
        if name in done or asked.only not in name:
            continue
        start = time.perf_counter()
        try:
            done[name] = measured(build)
        except HeatproofError as error:
            print(f"{name}: {error}")
            continue
        results.write_text(json.dumps(done, indent=2) + "\n")
        print(f"{name}: {done[name]} in {time.perf_counter() - start:.0f} s", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
