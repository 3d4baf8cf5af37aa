"""Weights from files and from the Hugging Face hub, with nothing unpickled and nothing unasked.

A file is read as safetensors or with `torch.load(weights_only=True)`, which builds tensors and
plain containers only. A download happens only where the caller says so, and says first whether the
hub can be reached, so that being offline costs seconds.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor, nn

from heatproof.errors import ModelError

# The hub's HTTP library changes between its versions; its base error is this one's base.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")  # from DataParallel, from torch.compile


# Files -------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise ModelError(f"got {path} as weights, which is {what}; expected a weights file")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if not start:
        raise ModelError(f"{path} is empty; expected weights, was the download cut short?")
    # A safetensors file begins with the length of its JSON header: whatever it is called.
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    return _named_tensors(_read_torch(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return _unprefixed(safetensors.torch.load_file(path))
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, error) from None


def _read_torch(path: Path) -> Any:
    if _is_torchscript(path):
        raise ModelError(
            f"{path} is a TorchScript archive, which holds code and is not opened; name the same "
            "weights by their tag (open_clip:ViT-B-16/openai has plain tensors), or save "
            "torch.jit.load(FILE).state_dict() with safetensors where you trust the file"
        )
    try:
        with warnings.catch_warnings():  # that it is an uncommon pickle: it is read or refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _refused(path: Path, error: Exception) -> ModelError:
    """Return the error for a pickle that would run code, or for what is no pickle at all."""
    named = re.search(r"(?:GLOBAL|global|class) `?([\w.]+\.[\w.]+)", str(error))
    if named is None and not _is_pickle(path):
        return _damaged(path, error)
    calls = f"that calls {named[1]}" if named else "of objects, not of tensors"
    return ModelError(
        f"{path} is refused: it is a pickle {calls}, and unpickling it could run any code; "
        "expected plain tensors, so save its state_dict with safetensors where you trust it"
    )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = _first_line(error)
    return ModelError(
        f"{path} cannot be read as weights ({reason}); expected safetensors or a PyTorch state "
        "dict, was the download cut short?"
    )


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")[:100]
    return line if re.search(r"[A-Za-z]{2}", line) else f"{type(error).__name__} {line}".strip()


def _named_tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors inside a training checkpoint."""
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not any(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(
            f"{path} holds {_described(loaded)}, expected tensors by name "
            "(a state dict, on its own or under 'state_dict')"
        )
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return _unprefixed(tensors)


def _described(loaded: Any) -> str:
    if not isinstance(loaded, dict):
        return f"a {type(loaded).__name__}"
    return f"a dict of {', '.join(map(repr, list(loaded)[:4])) or 'nothing'}"


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def install(module: nn.Module, weights: dict[str, Tensor], *, file: Path, name: str) -> None:
    """Put weights into the model they are for; where they do not fit, say at which key."""
    expected = module.state_dict()
    mismatch = _first_mismatch(expected, weights)
    if mismatch is not None:
        raise ModelError(f"{file} does not fit {name}: {mismatch}; is it another architecture's?")
    module.load_state_dict(weights)


def _first_mismatch(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> str | None:
    for key, tensor in expected.items():
        if key in weights and weights[key].shape != tensor.shape:
            return f"{key} is {_shape(weights[key])} in the file, {_shape(tensor)} in the model"
    absent = [key for key in expected if key not in weights]
    if absent:
        shape = _shape(expected[absent[0]])
        return (
            f"{absent[0]} ({shape}) is not in the file, nor {len(absent) - 1} others of the model's"
        )
    extra = [key for key in weights if key not in expected]
    if extra:
        shape = _shape(weights[extra[0]])
        return (
            f"{extra[0]} ({shape}) is not in the model, nor {len(extra) - 1} others of the file's"
        )
    return None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


# The hub -----------------------------------------------------------------------------------------


def cached(repository: str, files: Iterable[str]) -> Path | None:
    """Return the first of these files of a hub repository that is already on this computer."""
    for name in files:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(repository: str, files: Iterable[str], *, instead: str, allow_download: bool) -> Path:
    """Return the first of these files that a hub repository has, from the cache or downloaded.

    `instead` says what else the user can do; it ends the error's one line.
    """
    files = list(files)
    found = cached(repository, files)
    if found is not None:
        return found
    where = f"https://huggingface.co/{repository}"
    if not allow_download:
        raise ModelError(f"{files[0]} of {where} is not on this computer; {instead}")
    for name in files:
        try:
            # Asked first and shortly: a download without a network would be tried for minutes.
            get_hf_file_metadata(hf_hub_url(repository, name), timeout=10)
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (OSError, _HTTP_ERROR, ValueError) as error:
            raise ModelError(
                f"cannot download {files[0]} from {where} ({_first_line(error)}); {instead}"
            ) from None
    raise ModelError(f"{where} has none of {', '.join(files)}; {instead}")
