"""While a method runs: does the model's own forward pass stay what it is?

Passes through the model's own doors (`Watch` calls them entries) are run once more afterwards, on
the same input, with nobody's code around: what differs was changed from outside. Layers that code
calls by itself are held against the untouched pass over the pixels (or token ids) that it fed last.
Other inputs than the picture are nobody's fault: a module's output is only ever compared with what
the untouched model computes from the same input.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from heatproof.auditing.base import Finding
from heatproof.auditing.measures import percent, relative_change, unless_refused
from heatproof.auditing.method_proxy import Wrapped
from heatproof.auditing.monitor.module_recorder import Event, Sketch, TopCall, Watch
from heatproof.auditing.monitor.verdict import Difference, Reference, Seen, judge
from heatproof.engine import inputs
from heatproof.evaluation.subject import Subject
from heatproof.methods import Foreign, Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.reading import AttentionLayer, reading
from heatproof.reading.weight_edits import fingerprint, restored

MARGIN = 30
"""How many times this model's rounding (see `_floor`) a difference must exceed."""


class Watched(Wrapped):
    """A method whose pass and attribution are watched, and nothing that is done around them."""

    def __init__(self, method: Method, watch: Watch) -> None:
        super().__init__(method)
        self.watch = watch

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        plan = super().plan(layers, side)
        self.watch.active, self.watch.phase = True, "pass"
        return plan

    def attribute(self, read: ReadPass) -> Tensor:
        self.watch.phase = "attribution"
        try:
            return super().attribute(read)
        finally:
            self.watch.active = False


def _watched(method: Method, watch: Watch) -> Method:
    watch.active = False
    if not isinstance(method, Foreign):
        return Watched(method, watch)

    def call(picture: Any, prompt: str) -> Any:
        watch.active = True
        try:
            return method.call(picture, prompt)
        finally:
            watch.active = False

    return Foreign(call, takes=method.takes, name=method.name)


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    seed: int = 0,
) -> Finding:
    """Watch one picture with the first prompt, then run again what was run, untouched.

    What user code leaves changed in the weights is noted, and put back.
    """
    with restored(model.module) if subject.method.foreign else nullcontext():
        return judge(subject, _watch(subject, model, images, prompts, seed))


def _watch(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    seed: int,
) -> Seen:
    shown = images[:1] if isinstance(images, Tensor) else list(images[:1])
    pixels = inputs.images(model, shown, None).pixels
    sites = model.attention_layers("image", pixels.shape[-2:])
    hash_before, hooks_before = fingerprint(model.module), _hooks(model.module)
    before, tops = _reference(model, pixels)
    entries = {*_with_holders(tops), *_text_entries(model, prompts)}
    limit = MARGIN * _floor(model, pixels, before)
    watch = Watch(model.module, entries)
    method = _watched(subject.method, watch)
    with watch.hooked():
        replace(subject, method=method).maps(model, shown, prompts[:1], seed=seed)
    left = _left_behind(model, pixels, before, limit, hash_before == fingerprint(model.module))
    if _hooks(model.module) > hooks_before:
        left.append("forward hooks of its own")
    changed = _replayed(model.module, watch, limit)
    own, incomparable = _own_pass(model, watch, pixels, limit)
    return Seen(watch, before, left, changed, own, incomparable, limit, sites)


# --- untouched passes -------------------------------------------------------------------------


def _reference(model: Model, pixels: Tensor) -> tuple[Reference, list[str]]:
    """The untouched pass, and the paths of what the image encoder calls at the top."""
    watch = Watch(model.module, None)
    with torch.no_grad(), watch.hooked():
        embedding = model.image.encode(pixels)
    found = Reference(embedding, _by_path(event for top in watch.tops for event in top.events))
    return found, [top.path for top in watch.tops]


def _by_path(events: Iterator[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.path, []).append(event)
    return found


def _text_entries(model: Model, prompts: Sequence[str] | Tensor) -> set[str]:
    if model.text is None or (isinstance(prompts, Tensor) and prompts.is_floating_point()):
        return set()
    watch = Watch(model.module, None)
    with torch.no_grad(), watch.hooked():
        inputs.prompts(model, prompts[:1])
    return _with_holders([top.path for top in watch.tops])


def _with_holders(paths: Sequence[str]) -> set[str]:
    """With every module that holds one of them: those are doors to the same pass."""
    found = {""}
    for path in paths:
        parts = path.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return found


def _floor(model: Model, pixels: Tensor, before: Reference) -> float:
    """What other arithmetic makes of the same pass: with gradients, with attention written out."""
    floor = float(torch.finfo(model.dtype).eps)
    with torch.enable_grad():
        floor = max(floor, _largest(before, _by_path(_tops(model, pixels))))
    with torch.no_grad(), reading(model.module, weights=True):
        return max(floor, _largest(before, _by_path(_tops(model, pixels))))


def _tops(model: Model, pixels: Tensor) -> Iterator[Event]:
    watch = Watch(model.module, None)
    with watch.hooked():
        model.image.encode(pixels)
    return (event for top in watch.tops for event in top.events)


def _largest(before: Reference, events: dict[str, list[Event]]) -> float:
    sizes = [
        _gap(one.sketch, other.sketch)
        for path, ones in before.events.items()
        for one, other in zip(ones, events.get(path, []), strict=False)
    ]
    return max((size for size in sizes if size is not None), default=0.0)


def _gap(one: Sketch | None, other: Sketch | None) -> float | None:
    if one is None or other is None or one.shape != other.shape:
        return None
    return relative_change(one.values, other.values)


def _hooks(module: nn.Module) -> int:
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + ("forward" in part.__dict__)  # pyright: ignore[reportPrivateUsage]
        for part in module.modules()
    )


def _left_behind(
    model: Model, pixels: Tensor, before: Reference, limit: float, same_weights: bool
) -> list[str]:
    """What the method left changed when it was done."""
    left = [] if same_weights else ["changed weights"]
    with torch.no_grad():
        moved = relative_change(model.image.encode(pixels), before.embedding)
    if moved > limit:
        left.append(f"an embedding that moved by {percent(moved)}")
    return left


# --- passes through the model's own doors -----------------------------------------------------


def _replayed(root: nn.Module, watch: Watch, limit: float) -> list[Difference]:
    """The first difference of each kept entry call from the same call, run again untouched."""
    found: list[Difference] = []
    for top in watch.tops:
        if top.entry and top.args is not None:
            difference = _first_difference(top, _run_again(root, top), limit)
            if difference is not None:
                found.append(difference)
    return found


def _run_again(root: nn.Module, top: TopCall) -> list[Event]:
    assert top.args is not None
    args, kwargs = top.args
    watch = Watch(root, None)
    with torch.set_grad_enabled(top.grad), _autocast(root, top.autocast), watch.hooked():
        root.get_submodule(top.path)(*args, **kwargs)
    return watch.tops[0].events


def _autocast(root: nn.Module, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(root.parameters()).device.type, dtype=dtype)


def _first_difference(top: TopCall, again: list[Event], limit: float) -> Difference | None:
    theirs, ours = _by_path(iter(top.events)), _by_path(iter(again))
    for path, events in ours.items():
        for n, event in enumerate(events):
            if n >= len(theirs.get(path, [])):
                continue  # skipped: what comes after tells whether that made a difference
            one, other = theirs[path][n].sketch, event.sketch
            size = _gap(one, other)
            if size is not None and not size <= limit:
                return Difference(path, size, top.phase)
            if one is not None and other is not None and one.shape != other.shape:
                return Difference(path, None, top.phase)
    return None


# --- layers called one by one -----------------------------------------------------------------


def _own_pass(
    model: Model, watch: Watch, pixels: Tensor, limit: float
) -> tuple[list[Difference], int]:
    """Differences of layers that were called outside any entry, one a path, in the order of the
    untouched pass; and how many of the calls could be compared with nothing."""
    references: dict[int, Reference | None] = {}
    worst: dict[str, float] = {}
    incomparable, order = 0, list[str]()
    for event in (event for top in watch.tops if not top.entry for event in top.events):
        reference = _reference_of(model, event, pixels, references)
        size = None if reference is None else _nearest(event, reference.events.get(event.path, []))
        if size is None:
            incomparable += 1
            continue
        assert reference is not None
        order += [path for path in reference.order if path not in order]
        worst[event.path] = max(worst.get(event.path, 0.0), size)
    differing = [
        Difference(path, worst[path], "own pass") for path in order if worst.get(path, 0) > limit
    ]
    return differing, incomparable


def _reference_of(
    model: Model, event: Event, pixels: Tensor, known: dict[int, Reference | None]
) -> Reference | None:
    """The untouched pass over what user code fed last: pixels, or token ids below the text."""
    below_text = model.text is not None and _holds(model.text.path, event.path)
    if below_text and not _holds(model.image.path, event.path):
        fed = event.ids
    else:
        fed = pixels if event.pixels is None else event.pixels
    if fed is None:
        return None
    if id(fed) not in known:
        known[id(fed)] = _try_reference(model, fed)
    return known[id(fed)]


def _holds(outer: str, path: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _try_reference(model: Model, fed: Tensor) -> Reference | None:
    watch = Watch(model.module, set())

    def encoded() -> Tensor:
        if fed.is_floating_point():
            return model.image.encode(fed.to(model.device, model.dtype))
        return inputs.prompts(model, fed).embeddings

    with torch.no_grad(), watch.hooked():
        embedding = unless_refused(encoded)
    if embedding is None:
        return None
    return Reference(embedding, _by_path(event for top in watch.tops for event in top.events))


def _nearest(event: Event, candidates: list[Event]) -> float | None:
    """The smallest relative difference to any call of the same module; None: nothing comparable."""
    sizes = [_difference(event, other) for other in candidates]
    return min((size for size in sizes if size is not None), default=None)


def _difference(event: Event, other: Event) -> float | None:
    """Of equal shapes: relative difference. Of others (some rows, another order of axes, a picture
    many times): the largest distance of a row to the nearest row of the untouched output."""
    if event.whole is None or other.whole is None:
        return None
    if event.whole.shape == other.whole.shape:
        return relative_change(event.whole, other.whole)
    if event.whole.shape[-1] != other.whole.shape[-1]:
        return None
    rows = event.whole.double().flatten(0, -2)[:SOME_ROWS]
    known = other.whole.double().flatten(0, -2)
    nearest = torch.cdist(rows, known, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    length = known.norm(dim=1).square().mean().sqrt()
    return float(nearest.max() / length) if float(length) else None


SOME_ROWS = 512
