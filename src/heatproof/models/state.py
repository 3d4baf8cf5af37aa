"""What a model is now: enough to know whether what was computed before still holds.

Weights change in place, without a trace where they are written through `.data` or a numpy array. So
they are read again each time, by sums that take a few per cent of a forward pass; hooks, patched
methods and attributes of modules are compared one by one.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# 64-bit words of a row. With the sums of all rows and of all columns, two words that change places
# are seen wherever they are.
ROW = 512
IN_CACHE = 128  # rows
SMALL = 2**16  # bytes; smaller tensors are summed together, for each sum is a call to the device
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, part in _parts(module):
        if isinstance(part, Tensor):
            digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode())
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name} {part}".encode())
    return digest.hexdigest()


def checksum(module: nn.Module) -> str:
    """Return a checksum of all parameters and buffers: sums of their bytes, taken as integers.

    It changes with any one word, and with any two that change places. It is no cryptographic hash:
    it tells whether `weights_sha256` must be computed again.
    """
    digest = hashlib.sha256()
    sums: list[Tensor] = []
    small: dict[torch.device, list[Tensor]] = {}
    for name, part in _parts(module):
        if not isinstance(part, Tensor):
            digest.update(f"{name} {part}".encode())
            continue
        digest.update(f"{name} {tuple(part.shape)} {part.dtype} ".encode())
        flat = part.contiguous().reshape(-1).view(torch.uint8)
        if len(flat) < SMALL:
            small.setdefault(part.device, []).append(flat)
        else:
            sums += _sums(flat)
    for together in small.values():
        sums += _sums(torch.cat(together))
    for device in {part.device: None for part in sums}:
        values = torch.cat([part for part in sums if part.device == device])
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _sums(flat: Tensor) -> list[Tensor]:
    """Return the sums of rows and of columns of bytes, as 64-bit words that wrap around."""
    if flat.data_ptr() % 8:  # a slice of another tensor
        flat = flat.clone()
    words = flat[: len(flat) // 8 * 8].view(torch.int64)
    whole = words[: len(words) // ROW * ROW].view(-1, ROW)
    # On the processor, a piece that was summed one way is in its cache for the other.
    pieces = whole.split(IN_CACHE) if flat.device.type == "cpu" else (whole,)
    sums = [piece.sum(axis) for piece in pieces for axis in (0, 1)]
    return [*sums, words[whole.numel() :], flat[len(words) * 8 :].to(torch.int64)]


def _parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, entry in sorted(module.state_dict().items()):
        for part in entry if isinstance(entry, tuple) else (entry,):  # packed: with its bias
            if isinstance(part, Tensor):
                part = part.detach()
                yield name, part.dequantize() if part.is_quantized else part
            else:
                yield name, part


class ModuleState:
    """All that decides what a module computes but the values of its weights.

    Its parts, their classes' `forward`, and everything that is set on them: hooks, methods and
    functions put in another's place, settings.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = [
            (part, type(part), type(part).forward, list(_settings(vars(part)).items()))
            for part in module.modules()
        ]

    def same(self, other: "ModuleState") -> bool:
        """Return whether nothing differs."""
        if len(self._parts) != len(other._parts):
            return False
        return all(
            part is another
            and kind is another_kind
            and forward is another_forward
            and len(settings) == len(others)
            and all(map(_same, settings, others))
            for (part, kind, forward, settings), (
                another,
                another_kind,
                another_forward,
                others,
            ) in zip(self._parts, other._parts, strict=True)
        )


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the dictionaries and lists among attributes, which are changed in place."""
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, Mapping):
            entries: Mapping[Any, Any] = value
            flat |= {f"{name}.{key}": entry for key, entry in entries.items()}
        elif isinstance(value, list | tuple | set):
            flat |= {f"{name}.{number}": entry for number, entry in enumerate(value)}  # pyright: ignore
        else:
            flat[name] = value
    return flat


def _same(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    (name, value), (other_name, other_value) = one, other
    if name != other_name:
        return False
    same_kind = type(value) is type(other_value) and isinstance(value, PLAIN)
    return value is other_value or (same_kind and value == other_value)
