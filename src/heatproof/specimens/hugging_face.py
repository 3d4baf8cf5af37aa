"""Tiny random Hugging Face models of every family: two layers, small odd sizes, no download.

Each function returns a described `heatproof.models.Model`, in float64 unless told. Grids are square
(the library builds no others); `model.resized` gives ones that are not. Weights are the library's
own random ones, shaken: no bias, scale or residual branch is idle.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from heatproof.models import hugging_face
from heatproof.models.hugging_face.families import architecture_of
from heatproof.models.model import Model
from heatproof.specimens.registering import registering

MODELS: dict[str, Callable[..., Model]] = {}
specimen = registering(MODELS)

PATCH, CONTEXT, VOCABULARY, EMBED = 7, 13, 97, 17
LABELS = (
    "tench",
    "goldfish, Carassius auratus",
    "great white shark, white shark",
    "hen",
    "ostrich",
)

LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 3}
VISION: dict[str, Any] = {
    "hidden_size": 33,
    "intermediate_size": 37,
    "image_size": 3 * PATCH,
    "patch_size": PATCH,
}
TEXT: dict[str, Any] = {
    "hidden_size": 27,
    "intermediate_size": 31,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 1,
    "pad_token_id": 0,
}


@specimen("clip")
def hf_clip(
    dtype: torch.dtype = torch.float64, attention: str = "sdpa", tokenizer: object = None
) -> Model:
    """Build CLIP: class token, causal text read at the first end-of-text token."""
    return _described(transformers.CLIPModel, clip_config(), dtype, attention, tokenizer)


@specimen("clip, legacy")
def hf_clip_legacy(dtype: torch.dtype = torch.float64) -> Model:
    """Build CLIP with the end of text mis-named in its configuration, as OpenAI's are."""
    config: Any = clip_config()
    config.text_config.eos_token_id = 2
    return _described(transformers.CLIPModel, config, dtype)


@specimen("siglip")
def hf_siglip(
    dtype: torch.dtype = torch.float64, attention: str = "sdpa", tokenizer: object = None
) -> Model:
    """Build SigLIP: a pooling probe, a sigmoid, two-way text read at its last token."""
    return _described(transformers.SiglipModel, siglip_config(), dtype, attention, tokenizer)


@specimen("siglip 2")
def hf_siglip2(
    dtype: torch.dtype = torch.float64, attention: str = "sdpa", tokenizer: object = None
) -> Model:
    """Build SigLIP 2 NaFlex: as SigLIP, of any aspect ratio, its pixels cut into patches."""
    return _described(transformers.Siglip2Model, siglip2_config(), dtype, attention, tokenizer)


@specimen("blip")
def hf_blip(dtype: torch.dtype = torch.float64, tokenizer: object = None) -> Model:
    """Build BLIP for retrieval: attention written out, masked text read at its class token."""
    config = blip_config()
    return _described(transformers.BlipForImageTextRetrieval, config, dtype, None, tokenizer)


@specimen("vit")
def hf_vit(dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Model:
    """Build a ViT classifier of five classes."""
    return _described(transformers.ViTForImageClassification, vit_config(), dtype, attention)


@specimen("deit")
def hf_deit(dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Model:
    """Build a DeiT classifier of five classes: class token, then distillation token."""
    config = transformers.DeiTConfig(**VISION, **LAYERS, id2label=dict(enumerate(LABELS)))
    return _described(transformers.DeiTForImageClassification, config, dtype, attention)


# Configurations --------------------------------------------------------------------------------


def clip_config() -> transformers.CLIPConfig:
    """Return the configuration of a tiny CLIP."""
    return transformers.CLIPConfig(
        text_config={**TEXT, **LAYERS}, vision_config={**VISION, **LAYERS}, projection_dim=EMBED
    )


def siglip_config() -> transformers.SiglipConfig:
    """Return the configuration of a tiny SigLIP."""
    text = {**TEXT, **LAYERS, "projection_size": VISION["hidden_size"]}
    return transformers.SiglipConfig(text_config=text, vision_config={**VISION, **LAYERS})


def siglip2_config() -> transformers.Siglip2Config:
    """Return the configuration of a tiny SigLIP 2."""
    text = {**TEXT, **LAYERS, "projection_size": VISION["hidden_size"]}
    vision = {name: VISION[name] for name in ("hidden_size", "intermediate_size", "patch_size")}
    return transformers.Siglip2Config(
        text_config=text, vision_config={**vision, **LAYERS, "num_patches": 9}
    )


def blip_config() -> transformers.BlipConfig:
    """Return the configuration of a tiny BLIP."""
    text = {**TEXT, **LAYERS, "encoder_hidden_size": VISION["hidden_size"]}
    return transformers.BlipConfig(
        text_config={**text, "sep_token_id": VOCABULARY - 1},
        vision_config={**VISION, **LAYERS},
        image_text_hidden_size=EMBED,
        projection_dim=EMBED,
    )


def vit_config() -> transformers.ViTConfig:
    """Return the configuration of a tiny ViT."""
    return transformers.ViTConfig(**VISION, **LAYERS, id2label=dict(enumerate(LABELS)))


# Building --------------------------------------------------------------------------------------


def random_module(kind: Any, config: Any, attention: str | None = None) -> Any:
    """Build a model of transformers, its weights shaken, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(29)
        module = kind._from_config(
            config, **({"attn_implementation": attention} if attention else {})
        )
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def _described(
    kind: Any,
    config: Any,
    dtype: torch.dtype,
    attention: str | None = None,
    tokenizer: object = None,
) -> Model:
    module = random_module(kind, config, attention).to(dtype)
    return hugging_face.wrap(
        module,
        spec=f"tiny {kind.__name__}",
        preprocess=usual_processor(module),
        tokenizer=tokenizer,
        weights="random",
    )


def usual_processor(module: Any) -> Any:
    """Return the image processor that the library gives a model of this class and size."""
    architecture = architecture_of(module)
    assert architecture is not None
    return architecture.usual_processor(architecture.image(module))
