"""Hugging Face models from a folder, or from the hub where the user names one.

No code of a repository is ever run and nothing is unpickled: weights are read by
`heatproof.models.checkpoints`, configurations and tokenizers by the library's own classes.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn
from transformers.utils import logging

from heatproof import specs
from heatproof.errors import ModelError
from heatproof.models import checkpoints, hugging_face, tokenizers
from heatproof.models.hugging_face.families import ARCHITECTURES
from heatproof.models.model import Model

# The hub's HTTP library changes between its versions; its base error is this one's base.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def load(name: str, *, allow_download: bool = True) -> Model:
    """Load the model in the folder `name`, or of that id on the hub, in float32 on the CPU."""
    folder = _folder(name, allow_download)
    kind, config = _kind(folder)
    module = _module(kind, config, folder)
    processor, notices = _image_processor(folder)
    takes_text = "text_config" in config
    return hugging_face.wrap(
        module,
        spec=f"hf:{name}",
        preprocess=processor,
        tokenizer=_tokenizer(folder) if takes_text else None,
        weights="loaded",
        notices=notices,
    )


# Where it is -----------------------------------------------------------------------------------


def _folder(name: str, allow_download: bool) -> Path:
    folder = specs.hugging_face_folder(name)
    return _downloaded(name, allow_download) if folder is None else folder


def _downloaded(name: str, allow_download: bool) -> Path:
    """Return the folder of the hub's files in its cache; where all are there, without network."""
    instead = (
        f"no folder of that name is here either; run `hf download {name} --local-dir DIR` where "
        "there is a network and name the folder, hf:DIR (config.json, model.safetensors, "
        "preprocessor_config.json and the tokenizer's files)"
    )
    config = checkpoints.fetch(
        name, ["config.json"], instead=instead, allow_download=allow_download
    )
    found = config.parent
    # A folder in the cache may hold the configuration alone, from another program's look.
    if _first(found, WEIGHTS) and _first(found, (*IMAGE_PROCESSOR, *TOKENIZER)):
        return found
    if not allow_download:
        raise ModelError(f"{WEIGHTS[0]} of {name} is not on this computer; {instead}")
    found = _snapshot(name, ["*.json", "*.txt", "*.model", "model*.safetensors"], instead)
    if not _first(found, WEIGHTS):
        found = _snapshot(name, ["*.json", "*.txt", "*.model", "pytorch_model*.bin"], instead)
    return found


def _snapshot(name: str, patterns: list[str], instead: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError, _HTTP_ERROR) as error:
        raise ModelError(f"cannot download {name} ({_one_line(error)}); {instead}") from None


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


# What it is ------------------------------------------------------------------------------------


def _kind(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the class of transformers that a folder is for, and its configuration."""
    config = _json(folder / "config.json")
    known = ARCHITECTURES.get(config.get("model_type", ""))
    expected = ", ".join(architecture.model_class for architecture in ARCHITECTURES.values())
    if known is None:
        raise ModelError(
            f"{folder} holds a model of type {config.get('model_type')!r}, "
            f"expected one of {expected}"
        )
    # A folder without a head (ViTModel) has the same `model_type`.
    named = config.get("architectures") or [known.model_class]
    if known.model_class not in named:
        raise ModelError(f"{folder} holds a {named[0]}, expected one of {expected}")
    return known.model_class, config


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} holds no {path.name}; expected a folder as save_pretrained or "
            "`hf download` leaves it (config.json, model.safetensors, ...)"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({_one_line(error)})") from None
    if not isinstance(read, dict):
        raise ModelError(f"{path} holds a {type(read).__name__}, expected an object of settings")
    return read


def _module(kind: str, config: dict[str, Any], folder: Path) -> nn.Module:
    built: Any = getattr(transformers, kind)
    weights = _weights(folder)
    try:
        with _quietly():
            settings = built.config_class.from_dict(config)
            module, report = built.from_pretrained(
                None,
                config=settings,
                state_dict=weights,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise _misfit(folder, kind, _one_line(error)) from None
    # transformers would draw what is missing at random, with a warning.
    absent = sorted(report["missing_keys"])
    if absent:
        raise _misfit(folder, kind, f"{absent[0]} and {len(absent) - 1} more are not there")
    return module.eval()


def _misfit(folder: Path, kind: str, reason: str) -> ModelError:
    return ModelError(
        f"the weights in {folder} do not fit the {kind} of its config.json: {reason}; are both of "
        "one model?"
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    found = _first(folder, WEIGHTS)
    if found is None:
        raise ModelError(
            f"{folder} holds no weights; expected model.safetensors beside config.json"
        )
    if found.suffix != ".json":
        return checkpoints.read(found)
    shards = sorted(set(_json(found).get("weight_map", {}).values()))
    weights: dict[str, Tensor] = {}
    for shard in shards:
        # An index could name any file of the disk.
        if Path(shard).name != shard:
            raise ModelError(
                f"{found} names {shard}, expected the name of a file in its own folder"
            )
        weights |= checkpoints.read(folder / shard)
    return weights


# Its processors --------------------------------------------------------------------------------


def _image_processor(folder: Path) -> tuple[Any, tuple[str, ...]]:
    if _first(folder, IMAGE_PROCESSOR) is None:
        notice = f"{folder} holds no {IMAGE_PROCESSOR[0]}; the family's usual one is taken"
        return None, (notice,)
    try:
        with _quietly():
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the image processor in {folder} cannot be used ({_one_line(error)})"
        ) from None
    return processor, ()


def _tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, or what to tell whoever prompts a model without one."""
    if _first(folder, TOKENIZER) is None:
        return None
    try:
        with _quietly():
            return transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except ImportError as error:
        return tokenizers.Missing(
            f"the tokenizer in {folder} needs another package ({_one_line(error)}); for SigLIP's "
            "run `pip install sentencepiece protobuf`, or pass token ids"
        )
    except Exception as error:  # noqa: BLE001 (the tokenizers library raises no other kind)
        return tokenizers.Missing(
            f"the tokenizer in {folder} cannot be used ({_one_line(error)}); pass token ids"
        )


@contextmanager
def _quietly() -> Generator[None]:
    """Run without the library's progress bars and reports: what matters of them is raised."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
