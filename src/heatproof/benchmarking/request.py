"""What a benchmark is asked for: methods and metrics by name, with their options, and the data."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof import checking
from heatproof import methods as methods_of
from heatproof.benchmarking.main_metrics import MAIN
from heatproof.code_hash import code_sha256
from heatproof.data.dataset import LabelledImages
from heatproof.errors import InputError
from heatproof.index import parse_metric
from heatproof.methods import Foreign, Method
from heatproof.metrics import registry
from heatproof.metrics.base import Metric
from heatproof.models import Model

Entry = str | Method | Callable[[Any, str], Any]
Entries = Entry | Sequence[Entry] | Mapping[str, Entry]
UNUSED = (
    *("auditing", "proofs", "recipes"),
    *(f"benchmarking/{name}.py" for name in ("figures", "files", "page", "summary_text")),
)
"""Code that changes no value: a run resumes under another version of it."""
METHODS = "names, method objects or callables (image, prompt) -> map"
CONTROLS = ("random", "blurred-random", "center", "edges")
"""Maps that no model was asked for: they stand in every table."""


@dataclass(frozen=True, eq=False)
class Entrant:
    """A method in the table, under its `label`."""

    label: str
    method: Method

    @property
    def control(self) -> bool:
        return self.label in CONTROLS

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on; of user code, its text."""
        told = {"name": self.method.card.name, "settings": plain(self.method.settings())}
        if isinstance(self.method, Foreign):
            told["code"] = _text(self.method.call)
        return told


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric in the table, under its `label`: its name, and the options that are not default."""

    label: str
    metric: Metric

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.metric.card.name, "settings": plain(self.metric.settings())}


def entrants(given: Entries, options: Mapping[str, str] | None = None) -> list[Entrant]:
    """The methods that were asked for, and the controls behind them.

    Args:
        given: "all", names with commas, a method object, a callable (picture, prompt) -> map, a
            list of these, or a dict of them by the name that they get in the table.
        options: of methods that are named, as METHOD.OPTION -> value.
    """
    named = dict(options or {})
    labelled: list[tuple[str | None, Entry]] = []
    if isinstance(given, Mapping):
        labelled = [(checking.text("a method's name", label), x) for label, x in given.items()]
    else:
        one = isinstance(given, str | Method) or callable(given)
        many: list[Any] = [given] if one else checking.several("methods", given, METHODS)
        labelled = [(None, each) for each in many for each in _split(each)]
    found: dict[str, Entrant] = {}
    for label, each in labelled:
        made = _method(each, named) if isinstance(each, str) else each
        made = methods_of.method_of(made)
        if "image" not in made.card.sides:
            raise InputError(f"method {made.card.name} explains no pictures; the benchmark does")
        name = label or label_of(made.card.name, made.settings(), _defaults(made))
        if name in found and label is None and isinstance(each, str):
            continue
        if name in found or (name in CONTROLS and not _is_control(made)):
            raise InputError(
                f"two methods are called {name!r}; give them names: {{'mine': method}}"
            )
        found[name] = Entrant(name, made)
    if not found:
        raise InputError("got no method, expected at least one; try --methods gae,rollout")
    if named:
        raise InputError(f"got --set {next(iter(named))}: that method is not in the benchmark")
    for control in CONTROLS:
        found.setdefault(control, Entrant(control, methods_of.create(control)))
    return sorted(found.values(), key=lambda each: each.control)


def measures(given: str | Metric | Sequence[str | Metric]) -> list[Measure]:
    """The metrics that were asked for: "main", "all", names with commas (NAME:OPTION=VALUE:...),
    objects, or a list of these."""
    one = isinstance(given, Metric)
    many = [given] if one else checking.several("metrics", given, "names or metric objects")
    found: dict[str, Measure] = {}
    for each in many:
        if not isinstance(each, str | Metric):
            raise InputError(
                f"got the metric {checking.shown(each)}, expected a name or a metric object"
            )
        parts = _metrics(each) if isinstance(each, str) else [each]
        for metric in parts:
            default = _defaults(metric)
            label = label_of(metric.card.name, metric.settings(), default)
            found.setdefault(label, Measure(label, metric))
    if not found:
        raise InputError("got no metric, expected at least one; try --metrics main")
    return list(found.values())


def identity(
    chosen: Iterable[Entrant],
    metrics: Iterable[Measure],
    model: Model,
    data: LabelledImages,
    count: int,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Everything that decides a value, in plain words: the order that a folder belongs to."""
    import torch

    from heatproof import __version__

    prompts = hashlib.sha256("\0".join(data.prompts).encode()).hexdigest()[:16]
    return {
        "images": count,
        "data": data.name,
        "prompts": f"{len(data.prompts)} ({prompts})",
        "seed": seed,
        "batch_size": batch_size,
        "model": model.spec,
        "weights": model.weights_hash,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "methods": {each.label: each.identity for each in chosen},
        "metrics": {each.label: each.identity for each in metrics},
        "code": code_sha256(*UNUSED),
        "versions": {"heatproof": __version__, "torch": torch.__version__},
    }


def label_of(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The name, and what is not as usual."""
    own = [
        f"{key}={value}"
        for key, value in plain(settings).items()
        if key not in defaults or plain(defaults)[key] != value
    ]
    return " ".join([name, *own])


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it; what it has not becomes its text."""
    return {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in settings.items()
    }


def _split(each: Entry) -> list[Entry]:
    """A text may hold several names."""
    if not isinstance(each, str):
        return [each]
    if each == "all":
        return [n for n, e in methods_of.catalogue().items() if "image" in e.sides]
    return [name.strip() for name in each.split(",") if name.strip()]


def _method(name: str, options: dict[str, str]) -> Method:
    """Created by name; the options that are its own are taken out of `options`."""
    own = [key for key in options if key.rpartition(".")[0] == name]
    return methods_of.create(name, **{key.rpartition(".")[2]: options.pop(key) for key in own})


def _metrics(text: str) -> list[Metric]:
    if text == "all":
        return [registry.create(name) for name in registry.catalogue()]
    names = MAIN if text == "main" else [n.strip() for n in text.split(",") if n.strip()]
    return [
        each for name in names for each in ([_metric(name)] if name != "main" else _metrics(name))
    ]


def _metric(text: str) -> Metric:
    name, settings = parse_metric(text)
    return registry.create(name, **settings)


def _defaults(made: Method | Metric) -> dict[str, Any]:
    """Settings of the class as its bare name runs; none where it has no bare name."""
    try:
        return type(made)().settings()
    except TypeError:
        return made.settings() if isinstance(made, Foreign) else {}


def _is_control(made: Method) -> bool:
    return made.card.name in CONTROLS and made.settings() == _defaults(made)


def _text(call: Callable[..., Any]) -> str:
    """A hash of the code where Python can find it, else its name."""
    try:
        return hashlib.sha256(inspect.getsource(call).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return str(getattr(call, "__qualname__", type(call).__qualname__))
