"""While a method runs: does the model's own forward pass stay what it is?

Passes through the model's own doors (`Watch` calls them entries) are run once more afterwards, on
the same input, with nobody's code around: what differs was changed from outside. Layers that code
calls by itself are held against the untouched pass over the pixels (or token ids) that it fed last.
Other inputs than the picture are nobody's fault: a module's output is only ever compared with what
the untouched model computes from the same input.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from heatproof import inputs
from heatproof.auditing.finding import Finding, Verdict
from heatproof.auditing.in_place import fingerprint, restored
from heatproof.auditing.measures import code_of, percent, relative_change
from heatproof.auditing.subject import Subject
from heatproof.auditing.watch import Event, Sketch, TopCall, Watch
from heatproof.errors import HeatproofError
from heatproof.methods import Factors, Foreign, Method, Plan, ReadPass, Side
from heatproof.models import Model
from heatproof.passes import sites_of
from heatproof.reading import Site, reading

QUESTION = "While it runs, do the model's modules give what they give in an untouched pass?"
MARGIN = 30
"""How many times this model's rounding (see `_floor`) a difference must exceed."""


class Watched(Method):
    """A method whose pass and attribution are watched, and nothing that is done around them."""

    def __init__(self, method: Method, watch: Watch) -> None:
        self.method, self.card, self.watch = method, method.card, watch  # pyright: ignore[reportAttributeAccessIssue]

    def plan(self, sites: Sequence[Site], side: Side) -> Plan:
        plan = self.method.plan(sites, side)
        self.watch.active, self.watch.phase = True, "pass"
        return plan

    def attribute(self, read: ReadPass) -> Tensor:
        self.watch.phase = "attribution"
        try:
            return self.method.attribute(read)
        finally:
            self.watch.active = False

    def factors(self, side: Side) -> Factors:
        return self.method.factors(side)

    def settings(self) -> dict[str, Any]:
        return self.method.settings()


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


@dataclass(frozen=True)
class Reference:
    """The untouched pass over one picture: every module's outputs, by path, as they came."""

    embedding: Tensor
    events: dict[str, list[Event]]

    @property
    def order(self) -> list[str]:
        return list(self.events)


@dataclass(frozen=True)
class Difference:
    """Where an output differs from the untouched one, how much (relative), in which kind of pass.

    `size` is None where the module ran in one of the two passes alone.
    """

    path: str
    size: float | None
    phase: str


def check(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    *,
    seed: int = 0,
) -> Finding:
    """Watch one picture with the first prompt, then run again what was run, untouched.

    What a stranger leaves changed in the weights is noted, and put back.
    """
    with restored(model.module) if subject.method.foreign else nullcontext():
        return _judge(subject, _watch(subject, model, images, prompts, seed))


def _watch(
    subject: Subject,
    model: Model,
    images: Sequence[Image.Image] | Tensor,
    prompts: Sequence[str] | Tensor,
    seed: int,
) -> "_Seen":
    shown = images[:1] if isinstance(images, Tensor) else list(images[:1])
    pixels = inputs.pictures(model, shown, None).pixels
    sites = sites_of(model, "image", lambda: model.image.encode(pixels))
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
    return _Seen(watch, before, left, changed, own, incomparable, limit, sites)


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
    """The untouched pass over what the stranger fed last: pixels, or token ids below the text."""
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
    try:
        with torch.no_grad(), watch.hooked():
            if fed.is_floating_point():
                embedding = model.image.encode(fed.to(model.device, model.dtype))
            else:
                embedding = inputs.prompts(model, fed).embeddings
    except (HeatproofError, RuntimeError, ValueError, AssertionError):
        return None  # an input that the model itself does not take
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


# --- the verdict ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    watch: Watch
    before: Reference
    left: list[str]
    changed: list[Difference]
    own: list[Difference]
    incomparable: int
    limit: float
    sites: Sequence[Site]

    @property
    def entries(self) -> list[TopCall]:
        return [top for top in self.watch.tops if top.entry]

    @property
    def own_calls(self) -> list[TopCall]:
        return [top for top in self.watch.tops if not top.entry]

    @property
    def skipped(self) -> list[str]:
        """Attention modules that the stranger's own pass went around, while it ran their block."""
        ran = {event.path for top in self.own_calls for event in top.events}
        paths = dict.fromkeys(site.path.split("#")[0] for site in self.sites)
        return [path for path in paths if path not in ran and _siblings(path) & ran]

    @property
    def saw_picture(self) -> bool:
        """Whether any module of the image tower ran at the model's own door."""
        image = set(self.before.events)
        return any(event.path in image for top in self.entries for event in top.events) or any(
            top.path in image for top in self.entries
        )

    @property
    def unfollowed(self) -> list[str]:
        """Modules inside the image tower whose weights were used directly, and after which no
        layer was called whose output would show what came of it."""
        order = self.before.order
        used = {name.rpartition(".")[0] for name in self.watch.weights}
        used = {path for path in used if path in order and path not in (self.watch.entries or ())}
        ran = [order.index(e.path) for t in self.own_calls for e in t.events if e.path in order]
        last = max(ran, default=-1)
        return sorted(path for path in used if order.index(path) > last)

    def numbers(self) -> dict[str, Any]:
        first = (self.changed or self.own or [None])[0]
        return {
            "passes": len(self.entries),
            "passes run again": sum(top.args is not None for top in self.entries),
            "changed passes": [vars(each) for each in self.changed],
            "own calls": len(self.own_calls),
            "own calls that differ": [vars(each) for each in self.own],
            "own calls not comparable": self.incomparable,
            "skipped": self.skipped,
            "weights used directly": dict(sorted(self.watch.weights.items())),
            "left behind": self.left,
            "first place": None if first is None else first.path,
            "limit": self.limit,
        }


def _siblings(path: str) -> set[str]:
    """Modules that are known to stand beside an attention module in a residual block."""
    parent = path.rpartition(".")[0]
    names = ("ln_1", "ln_2", "mlp", "norm1", "norm2", "layer_norm1", "layer_norm2")
    return {f"{parent}.{name}" for name in names}


def _judge(subject: Subject, seen: _Seen) -> Finding:
    verdict, text = _verdict(subject, seen)
    code = code_of(subject.method, "plan")
    return Finding("forward monitor", 1, QUESTION, verdict, text, seen.numbers(), code)


def _verdict(subject: Subject, seen: _Seen) -> tuple[Verdict, str]:
    foreign = isinstance(subject.method, Foreign)
    accused = seen.changed
    if not foreign and not subject.method.factors("image").substituted:
        # A perturbation asks the model about other states; the pass it explains is another matter.
        accused = [each for each in seen.changed if each.phase == "pass"]
    if seen.left:
        return "violated", f"It leaves the model changed: {', '.join(seen.left)}."
    if accused:
        return "violated", _changed_text(accused, seen)
    if seen.own:
        return "violated", _own_text(seen)
    if not seen.watch.tops:
        return "cannot tell", _untouched_text(seen)
    compared = seen.saw_picture or len(seen.own_calls) > seen.incomparable
    if not compared:
        if seen.own_calls:
            text = f"It calls {len(seen.own_calls)} of the model's layers by itself, on inputs"
            return "cannot tell", f"{text} that the model's own pass cannot be compared on."
        return "cannot tell", "Only the text tower ran: the picture never went through the model."
    if seen.unfollowed:
        text = f"It computes with weights of {', '.join(seen.unfollowed)} by itself, and runs no"
        return "cannot tell", f"{text} module after that whose output could be compared."
    return "holds", _holds_text(seen)


def _changed_text(accused: list[Difference], seen: _Seen) -> str:
    first = accused[0]
    size = "in shape" if first.size is None else f"by {percent(first.size)}"
    return (
        f"The model's own pass is changed while the method runs: {first.path or 'its output'} "
        f"differs {size} from the same pass left alone (rounding: {seen.limit:.1g}), in "
        f"{len(accused)} of {sum(top.args is not None for top in seen.entries)} passes."
    )


def _own_text(seen: _Seen) -> str:
    first = seen.own[0]
    assert first.size is not None
    largest = max(seen.own, key=lambda each: each.size or 0)
    around = f", going around {', '.join(seen.skipped)}" if seen.skipped else ""
    return (
        f"It runs a forward pass of its own, layer by layer{around}: {first.path} is the first to "
        f"differ from the untouched pass on the same input, by {percent(first.size)}; the most "
        f"{largest.path}, by {percent(largest.size or 0)} (rounding: {seen.limit:.1g})."
    )


def _untouched_text(seen: _Seen) -> str:
    if seen.watch.weights:
        names = list(seen.watch.weights)
        return (
            f"It never runs the model's modules and computes with its weights directly "
            f"({len(names)} of them, {names[0]} first): nothing to compare with."
        )
    return "It never touches the model's modules or weights: whatever it explains is not seen here."


def _holds_text(seen: _Seen) -> str:
    again = sum(top.args is not None for top in seen.entries)
    edited = len(seen.changed)
    parts: list[str] = []
    if again:
        parts.append(
            f"{again} of {len(seen.entries)} passes were run again, untouched: no module differs"
        )
    if seen.own_calls:
        parts.append(f"{len(seen.own_calls)} layers called one by one give what the model's give")
    if edited:
        parts[0] = f"{again} of {len(seen.entries)} passes were run again, untouched"
        parts.append(f"{edited} with an edited state differ: perturbations, not what is explained")
    return f"{'; '.join(parts)} (rounding: {seen.limit:.1g})."
