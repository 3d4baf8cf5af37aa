"""Run recorded calls once more with nobody's code around, and compare what the modules return."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heatproof.auditing.comparison import relative_change, unless_refused
from heatproof.auditing.monitor.module_recorder import (
    ModuleCall,
    ModuleRecorder,
    OutputSample,
    TopCall,
)
from heatproof.engine import inputs
from heatproof.models import Model
from heatproof.reading import reading

# How many times this model's rounding (see `rounding`) a difference must exceed.
MARGIN = 30
SOME_ROWS = 512


@dataclass(frozen=True)
class UntouchedPass:
    """A forward pass with nobody's code around: every module's calls, by path, in their order."""

    embedding: Tensor
    calls: dict[str, list[ModuleCall]]

    @property
    def order(self) -> list[str]:
        """The modules' paths in the order of their first calls."""
        return list(self.calls)


@dataclass(frozen=True)
class OutputDifference:
    """Where an output differs from the untouched one, and by how much (relative).

    size: None where the outputs differ in shape.
    phase: see `TopCall`; "own pass" for layers that the code called by itself.
    """

    path: str
    size: float | None
    phase: str


# --- untouched passes -------------------------------------------------------------------------


def untouched_pass(model: Model, pixels: Tensor) -> tuple[UntouchedPass, list[str]]:
    """Record a pass over pixels; also return the paths that the image encoder calls at the top."""
    recorder = ModuleRecorder(model.module, None)
    with torch.no_grad(), recorder.hooked():
        embedding = model.image.encode(pixels)
    return UntouchedPass(embedding, _calls_by_path(recorder.tops)), [t.path for t in recorder.tops]


def _calls_by_path(tops: Iterable[TopCall]) -> dict[str, list[ModuleCall]]:
    by_path: dict[str, list[ModuleCall]] = {}
    for call in (call for top in tops for call in top.calls):
        by_path.setdefault(call.path, []).append(call)
    return by_path


def text_entries(model: Model, prompts: Sequence[str] | Tensor) -> set[str]:
    """Return the paths that the text encoder calls at the top; none where it cannot run."""
    if model.text is None or (isinstance(prompts, Tensor) and prompts.is_floating_point()):
        return set()
    recorder = ModuleRecorder(model.module, None)
    with torch.no_grad(), recorder.hooked():
        inputs.prompts(model, prompts[:1])
    return with_holders([top.path for top in recorder.tops])


def with_holders(paths: Sequence[str]) -> set[str]:
    """Add every module that holds one of these: calling it runs the same pass."""
    holders = {""}
    for path in paths:
        parts = path.split(".")
        holders |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return holders


def rounding(model: Model, pixels: Tensor, untouched: UntouchedPass) -> float:
    """Measure what other arithmetic makes of the same pass: the largest relative difference.

    Once with gradients, once with attention written out: user code may cause both honestly.
    """
    floor = float(torch.finfo(model.dtype).eps)
    with torch.enable_grad():
        floor = max(floor, _largest_gap(model, pixels, untouched))
    with torch.no_grad(), reading(model.module, weights=True):
        return max(floor, _largest_gap(model, pixels, untouched))


def _largest_gap(model: Model, pixels: Tensor, untouched: UntouchedPass) -> float:
    recorder = ModuleRecorder(model.module, None)
    with recorder.hooked():
        model.image.encode(pixels)
    again = _calls_by_path(recorder.tops)
    gaps = [
        _gap(one.sample, other.sample)
        for path, calls in untouched.calls.items()
        for one, other in zip(calls, again.get(path, []), strict=False)
    ]
    return max((gap for gap in gaps if gap is not None), default=0.0)


def _gap(one: OutputSample | None, other: OutputSample | None) -> float | None:
    if one is None or other is None or one.shape != other.shape:
        return None
    return relative_change(one.values, other.values)


# --- passes through the model's own entries -----------------------------------------------------


def changed_passes(
    root: nn.Module, recorder: ModuleRecorder, limit: float
) -> list[OutputDifference]:
    """Return the first difference of each stored entry call from the same call, run again."""
    differences: list[OutputDifference] = []
    for top in recorder.tops:
        if top.entry and top.inputs is not None:
            difference = _first_difference(top, _run_again(root, top), limit)
            if difference is not None:
                differences.append(difference)
    return differences


def _run_again(root: nn.Module, top: TopCall) -> TopCall:
    assert top.inputs is not None
    args, kwargs = top.inputs
    recorder = ModuleRecorder(root, None)
    with torch.set_grad_enabled(top.grad), _autocast(root, top.autocast), recorder.hooked():
        root.get_submodule(top.path)(*args, **kwargs)
    return recorder.tops[0]


def _autocast(root: nn.Module, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(root.parameters()).device.type, dtype=dtype)


def _first_difference(top: TopCall, again: TopCall, limit: float) -> OutputDifference | None:
    recorded = _calls_by_path([top])
    for path, calls in _calls_by_path([again]).items():
        # A call that is missing was skipped: what comes after tells whether that matters.
        for theirs, ours in zip(recorded.get(path, []), calls, strict=False):
            one, other = theirs.sample, ours.sample
            gap = _gap(one, other)
            if gap is not None and not gap <= limit:
                return OutputDifference(path, gap, top.phase)
            if one is not None and other is not None and one.shape != other.shape:
                return OutputDifference(path, None, top.phase)
    return None


# --- layers called one by one -----------------------------------------------------------------


def own_pass(
    model: Model, recorder: ModuleRecorder, pixels: Tensor, limit: float
) -> tuple[list[OutputDifference], int]:
    """Compare layers that were called outside any entry with the untouched pass.

    Returns:
        The largest difference per path, in the order of the untouched pass; and how many calls
        could be compared with nothing.
    """
    untouched: dict[int, UntouchedPass | None] = {}
    worst: dict[str, float] = {}
    incomparable, order = 0, list[str]()
    for call in (call for top in recorder.tops if not top.entry for call in top.calls):
        reference = _reference_of(model, call, pixels, untouched)
        gap = None if reference is None else _nearest(call, reference.calls.get(call.path, []))
        if reference is None or gap is None:
            incomparable += 1
            continue
        # Code may feed several inputs: their passes need not have the same modules.
        order += [path for path in reference.order if path not in order]
        worst[call.path] = max(worst.get(call.path, 0.0), gap)
    differing = [path for path in order if worst.get(path, 0) > limit]
    return [OutputDifference(path, worst[path], "own pass") for path in differing], incomparable


def _reference_of(
    model: Model, call: ModuleCall, pixels: Tensor, untouched: dict[int, UntouchedPass | None]
) -> UntouchedPass | None:
    """Return the untouched pass over what the code fed last: pixels, or ids in the text tower."""
    in_text = model.text is not None and _holds(model.text.path, call.path)
    if in_text and not _holds(model.image.path, call.path):
        fed = call.ids
    else:
        fed = pixels if call.pixels is None else call.pixels
    if fed is None:
        return None
    # By identity: the recorder clones what is fed, so that one id is one input.
    if id(fed) not in untouched:
        untouched[id(fed)] = _untouched_pass_over(model, fed)
    return untouched[id(fed)]


def _holds(outer: str, path: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _untouched_pass_over(model: Model, fed: Tensor) -> UntouchedPass | None:
    """Return the pass with whole outputs; None where the model refuses what the code fed."""
    recorder = ModuleRecorder(model.module, set())

    def encode() -> Tensor:
        if fed.is_floating_point():
            return model.image.encode(fed.to(model.device, model.dtype))
        return inputs.prompts(model, fed).embeddings

    with torch.no_grad(), recorder.hooked():
        embedding = unless_refused(encode)
    if embedding is None:
        return None
    return UntouchedPass(embedding, _calls_by_path(recorder.tops))


def _nearest(call: ModuleCall, candidates: list[ModuleCall]) -> float | None:
    """Return the smallest difference from any call of the same module; None: nothing comparable."""
    gaps = [_whole_gap(call, other) for other in candidates]
    return min((gap for gap in gaps if gap is not None), default=None)


def _whole_gap(call: ModuleCall, other: ModuleCall) -> float | None:
    """Return the relative difference of two whole outputs.

    For other shapes (some rows, another order of axes, an image many times) that is the largest
    distance of a row to the nearest row of the untouched output.
    """
    if call.whole is None or other.whole is None:
        return None
    if call.whole.shape == other.whole.shape:
        return relative_change(call.whole, other.whole)
    if call.whole.shape[-1] != other.whole.shape[-1]:
        return None
    rows = call.whole.double().flatten(0, -2)[:SOME_ROWS]
    known = other.whole.double().flatten(0, -2)
    # The faster formula by matrix products loses the small distances that are looked for here.
    nearest = torch.cdist(rows, known, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    length = known.norm(dim=1).square().mean().sqrt()
    return float(nearest.max() / length) if float(length) else None
