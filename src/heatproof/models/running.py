"""Find out whether a model can run at all, before its passes are read."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from heatproof.errors import HeatproofError, InputError, ModelError


@contextmanager
def own_encoder(spec: str, side: str) -> Generator[None]:
    """Run a model's own encoder, with nothing read, inside: whatever it raises becomes one line.

    Raises:
        ModelError: the encoder fails. A full memory and our own errors are let through.
    """
    try:
        yield
    except (HeatproofError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the {side} encoder of {spec} fails by itself ({type(error).__name__}: {line}); "
            "expected a model that encodes in its own dtype and on its own device"
        ) from error


def find_out_why(spec: str, side: str, encode: Callable[[], object]) -> None:
    """Run the encoder once more with nothing read: where it fails there too, say so.

    Raises:
        ModelError: see `own_encoder`.
    """
    with own_encoder(spec, side), torch.no_grad():
        encode()


def check_default_device() -> None:
    """Raise an `InputError` where torch makes tensors without values by default."""
    # torch.get_default_device() of torch 2.6 fails after set_default_device(None).
    if torch.empty(0).device.type == "meta":
        raise InputError(
            "torch's default device is meta, where tensors have no values; "
            "call torch.set_default_device('cpu') first"
        )
