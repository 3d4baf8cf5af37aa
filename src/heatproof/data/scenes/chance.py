"""Counter-based chance: every number is a hash of (seed, stream, index), free of all others.

A scene is then the same alone, in any batch, at any size and on any device that has 64-bit
integers (SplitMix64, Steele et al. 2014, "Fast splittable pseudorandom number generators").
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(x: Int64[Tensor, "*any"], by: int) -> Int64[Tensor, "*any"]:
    # torch shifts int64 with the sign; the mask makes the shift a logical one.
    return (x >> by) & ((1 << (64 - by)) - 1)


def mixed(x: Int64[Tensor, "*any"]) -> Int64[Tensor, "*any"]:
    """Compute SplitMix64's finaliser."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def hashes(seeds: Int64[Tensor, " scene"], stream: int, count: int) -> Int64[Tensor, "scene count"]:
    """Return `count` hashes per seed; streams of one seed are independent."""
    index = torch.arange(1, count + 1, dtype=torch.int64, device=seeds.device)
    keys = mixed(mixed(seeds) + _signed(0x9E3779B97F4A7C15 * stream % (1 << 64)))
    return mixed(keys[:, None] + _GAMMA * index)


def uniforms(
    seeds: Int64[Tensor, " scene"], stream: int, count: int
) -> Float64[Tensor, "scene count"]:
    """Return numbers in [0, 1)."""
    return _shifted(hashes(seeds, stream, count), 11).double() * 2.0**-53


def grain(
    seeds: Int64[Tensor, " scene"], stream: int, pixels: int
) -> Float64[Tensor, "scene 3 pixels pixels"]:
    """Return uniform noise in [-1, 1) for each channel and pixel: one hash gives all three
    channels."""
    bits = hashes(seeds, stream, pixels * pixels).view(-1, pixels, pixels)
    channels = torch.stack([(bits >> (21 * c)) & 0x1FFFFF for c in range(3)], dim=1)
    return channels.double() * 2.0**-20 - 1.0
