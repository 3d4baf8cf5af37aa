"""The same model, changed in place and put back to the bit: better and worse models to audit with.

A variant is a context: inside it, `model.module` itself is the changed model, so that code which
closes over the module sees the change too. Interventions come through an outer reading: they are
part of the model that is read inside.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatproof.errors import ReadingError
from heatproof.models import Model, scenes
from heatproof.reading import AttentionLayer, Intervention, block_path, reading
from heatproof.reading.interventions import knock_out, one_head
from heatproof.reading.weight_edits import temporary_weights


@dataclass(frozen=True, eq=False)
class Variant:
    """A changed model. `name` says how, and is its key: one name, one change."""

    name: str
    enter: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Usable:
    """Variants, and the reason by name for each that was left out."""

    variants: tuple[Variant, ...]
    left_out: Mapping[str, str]


UNTOUCHED = Variant("as it is", nullcontext)


def family(model: Model, sites: Sequence[AttentionLayer], *, seed: int = 0) -> tuple[Variant, ...]:
    """Return models from chance to the model as it is: its checkpoints, or made by noise."""
    # Its checkpoints are real states of training, which no noise imitates.
    if model.spec == "scenes":
        return (*_checkpoints(model), UNTOUCHED)
    return (
        *(noised(model, share, seed=seed) for share in (1.0, 0.75, 0.5, 0.25)),
        *(reinitialised(model, sites, n, seed=seed) for n in _depths(sites)),
        *(one_headed(model, sites, n) for n in _depths(sites)),
        UNTOUCHED,
    )


def interventions(
    model: Model, sites: Sequence[AttentionLayer], *, seed: int = 0
) -> tuple[Variant, ...]:
    """Return changes that may cost performance: heads merged or knocked out, noise in weights."""
    return (
        *(one_headed(model, sites, n) for n in dict.fromkeys((1, *_depths(sites)))),
        knocked_out(model, sites, _depths(sites)[0]),
        noised(model, 0.25, seed=seed),
    )


def usable(variants: Sequence[Variant], run: Callable[[Variant], object]) -> Usable:
    """Return the variants that this model's layers allow, and why each other one is left out."""
    allowed: list[Variant] = []
    left_out: dict[str, str] = {}
    # A layer with a mask per head refuses one head: the variant is named, not silently dropped.
    for variant in variants:
        try:
            run(variant)
        except ReadingError as error:
            left_out[variant.name] = str(error)
        else:
            allowed.append(variant)
    return Usable(tuple(allowed), left_out)


def _depths(sites: Sequence[AttentionLayer]) -> tuple[int, ...]:
    """Return the depths that are tried: the last half of the layers, and all of them."""
    return tuple(dict.fromkeys((max(1, len(sites) // 2), len(sites))))


def _checkpoints(model: Model) -> tuple[Variant, ...]:
    def enter(name: str) -> Callable[[], AbstractContextManager[None]]:
        return lambda: temporary_weights(model.module, scenes.state_dict(name), restore="copy")

    # The last checkpoint is the model itself, which stands at the end anyway.
    return tuple(Variant(name, enter(name)) for name in scenes.checkpoints()[:-1])


def noised(model: Model, share: float, *, seed: int = 0, path: str | None = None) -> Variant:
    """Blend the weights of the image tower (or below `path`) with their own values, shuffled
    within each tensor.

    share: 1 keeps nothing but each tensor's distribution, so that activations keep their scale.
    """
    # The text tower stays: prompts keep their meaning while the images' side gets worse.
    names = _names(model.module, [model.image.path if path is None else path])
    return Variant(
        f"{share:.0%} noise in the weights",
        lambda: temporary_weights(
            model.module, _blended(model.module, names, share, seed), restore="copy"
        ),
    )


def reinitialised(
    model: Model, sites: Sequence[AttentionLayer], last: int, *, seed: int = 0
) -> Variant:
    """Shuffle the weights of the last `last` blocks within each tensor.

    This is the cascade of Adebayo et al., arXiv 1810.03292, with each tensor's distribution kept.
    """
    names = _names(model.module, [_block(model.module, site.path) for site in sites[-last:]])
    return Variant(
        f"last {last} layer(s) re-initialised",
        lambda: temporary_weights(
            model.module, _blended(model.module, names, 1.0, seed), restore="copy"
        ),
    )


def one_headed(model: Model, sites: Sequence[AttentionLayer], last: int) -> Variant:
    """Use one head over the full width in the last `last` attention layers."""
    changes = {site.path: one_head() for site in sites[-last:]}
    return intervened(model, f"one head in the last {last} layer(s)", changes)


def knocked_out(model: Model, sites: Sequence[AttentionLayer], last: int) -> Variant:
    """Knock out the first half of the heads in the last `last` attention layers."""
    changes = {s.path: knock_out(range(max(1, s.heads // 2))) for s in sites[-last:]}
    return intervened(model, f"half of the heads knocked out in the last {last} layer(s)", changes)


def quantised(model: Model, bits: int) -> Variant:
    """Round the image tower's matrices to `bits` bits, to nearest, symmetric, a scale per output.

    This is the rounding of post-training quantisation without calibration; activations stay.
    """
    steps = 2 ** (bits - 1) - 1

    def rounded(weight: Tensor) -> Tensor:
        scale = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / steps
        scale = scale.view(-1, *[1] * (weight.ndim - 1))
        return (weight / scale).round() * scale

    return _rewritten(model, f"weights of {bits} bits", rounded)


def pruned(model: Model, share: float) -> Variant:
    """Set the smallest entries of each of the image tower's matrices to zero: `share` of them."""

    def cut(weight: Tensor) -> Tensor:
        count = round(share * weight.numel())
        order = weight.flatten().abs().argsort(stable=True)
        return weight.flatten().index_fill(0, order[:count], 0).view_as(weight)

    return _rewritten(model, f"{share:.0%} of the weights pruned", cut)


def _rewritten(model: Model, name: str, change: Callable[[Tensor], Tensor]) -> Variant:
    names = _names(model.module, [model.image.path])

    def enter() -> AbstractContextManager[None]:
        own = dict(model.module.named_parameters())
        # Biases and norms, which are vectors, stay: nobody quantises or prunes them.
        matrices = {name: own[name].detach() for name in names if own[name].ndim > 1}
        changed = {name: change(matrix) for name, matrix in matrices.items()}
        return temporary_weights(model.module, changed, restore="copy")

    return Variant(name, enter)


def intervened(
    model: Model, name: str, changes: Mapping[str, Intervention], *, last: bool = False
) -> Variant:
    """Return the model with these interventions, by path; `last`: after those of every method."""

    @contextmanager
    def enter() -> Generator[None]:
        # A reading of no layer: the intervention alone acts, also on readings inside it.
        with reading(model.module, (), interventions=changes, last=last):
            yield

    return Variant(name, enter)


def _names(module: nn.Module, parts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of floating-point parameters under these paths ("" for all)."""
    return tuple(
        name
        for name, tensor in module.named_parameters()
        if tensor.is_floating_point()
        and any(not part or name == part or name.startswith(f"{part}.") for part in parts)
    )


def _block(module: nn.Module, path: str) -> str:
    return block_path(module, path) or path.split("#")[0]


def _blended(module: nn.Module, names: Sequence[str], share: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = dict(module.named_parameters())
    blended: dict[str, Tensor] = {}
    for name in names:
        weight = own[name].detach()
        # On the CPU, so that the same seed shuffles alike on every device.
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        blended[name] = (1 - share) * weight + share * weight.flatten()[order].view_as(weight)
    return blended
