"""timm's classifiers by name."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from heatproof.errors import ModelError, UnknownName
from heatproof.models import checkpoints
from heatproof.models.classifiers import wrap
from heatproof.models.model import Model

SEED = 0
"""Random weights are drawn from this seed, so that a name always means the same model."""


def load(name: str, *, allow_download: bool = True) -> Model:
    """Load one of timm's classifiers: `NAME`, `NAME.TAG` or `NAME/FILE`.

    `NAME` alone has random weights from a fixed seed, and a notice that says so; `.TAG` names
    pretrained ones, which are downloaded; `FILE` is a local checkpoint.
    """
    architecture, _, file = name.partition("/")
    base, _, tag = architecture.partition(".")
    _check_names(base, tag)
    spec = f"timm:{name}"
    if file:
        path = Path(file).expanduser()
        module, notices = _from_file(architecture, path), _unsaid(base, tag, path)
        return wrap(module, spec=spec, weights="loaded", notices=notices)
    if tag:
        module = _from_hub(architecture, allow_download=allow_download)
        return wrap(module, spec=spec, weights="loaded")
    default = getattr(timm.get_pretrained_cfg(base), "tag", "")
    hint = f"pretrained ones are timm:{base}.{default}" if default else f"weights: {spec}/FILE"
    notice = f"{spec} has random weights (seed {SEED}), so that its maps mean nothing; {hint}"
    return wrap(_built(architecture), spec=spec, weights="random", notices=(notice,))


def _unsaid(base: str, tag: str, path: Path) -> tuple[str, ...]:
    """Say what timm's weights of an architecture differ in and a file does not tell."""
    default = timm.get_pretrained_cfg(base)
    if tag or default is None:
        return ()
    known = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{base}.*")]
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    unlike = [key for key in keys if len({str(getattr(config, key)) for config in known}) > 1]
    if not unlike:
        return ()
    return (
        f"{path} does not say how pictures are preprocessed, and timm's weights of {base} differ "
        f"in {', '.join(unlike)}; those of {base}.{default.tag} are taken (another: "
        f"timm:{base}.TAG/{path})",
    )


def _check_names(base: str, tag: str) -> None:
    if not timm.is_model(base):
        raise UnknownName("timm model", base, timm.list_models())
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in known:
        raise UnknownName(f"pretrained tag of timm's {base}", tag, known)


def _built(architecture: str, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return timm.create_model(architecture, **settings).eval()


def _from_file(architecture: str, path: Path) -> nn.Module:
    weights = checkpoints.read(path)
    head = weights.get("head.bias")
    # A fine-tuned head has as many classes as it has biases.
    settings = {} if head is None else {"num_classes": len(head)}
    module = _built(architecture, **settings)
    checkpoints.install(module, weights, file=path, name=architecture)
    return module


def _from_hub(architecture: str, *, allow_download: bool) -> nn.Module:
    config: Any = timm.get_pretrained_cfg(architecture)
    if not config.hf_hub_id:
        raise ModelError(
            f"timm keeps no weights of {architecture} on the Hugging Face hub; download them from "
            f"{config.url or 'their source'} and name the file: timm:{architecture}/FILE"
        )
    names = ["model.safetensors", "pytorch_model.bin"]
    path = checkpoints.fetch(
        config.hf_hub_id,
        [config.hf_hub_filename] if config.hf_hub_filename else names,
        instead=f"download it and name the file: timm:{architecture}/FILE",
        allow_download=allow_download,
    )
    try:
        overlay = {"state_dict": checkpoints.read(path), "custom_load": False}
        module = _built(architecture, pretrained=True, pretrained_cfg_overlay=overlay)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} does not fit {architecture}: {reason}") from None
    getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return module
