"""Read what a benchmark is asked for: methods and metrics by name, with their options."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heatproof import checking
from heatproof import methods as methods_of
from heatproof.code_hash import code_sha256
from heatproof.data.dataset import LabelledImages
from heatproof.errors import InputError
from heatproof.index import parse_metric
from heatproof.methods import Foreign, Method
from heatproof.metrics import registry
from heatproof.metrics.base import Metric
from heatproof.models import Model

MethodInput = str | Method | Callable[[Any, str], Any]
MethodInputs = MethodInput | Sequence[MethodInput] | Mapping[str, MethodInput]
_SHOWN = ("figures", "files", "page", "summary_text", "text_tables")
UNUSED = (
    *("auditing", "parallel", "proofs", "recipes", "runs", "store"),
    *(f"benchmarking/{name}.py" for name in _SHOWN),
)
"""Code that changes no value: a run resumes under another version of it."""
METHODS = "names, method objects or callables (image, prompt) -> map"
CONTROLS = ("random", "blurred-random", "center", "edges")
"""Maps that depend on no model: they stand in every table."""
IMPUTERS = ("mean", "blur", "tokens")


def main_metrics(steps: int = 10) -> tuple[str, ...]:
    """Return the metrics that a table shows by default, with `steps` of each perturbation curve.

    Perturbation stands there under three imputers, so that a ranking that belongs to one imputer
    shows; localisation, because its chance level is known. `mif` costs nothing beside `srg`.
    """
    return (
        f"deletion:steps={steps}",
        f"insertion:steps={steps}",
        *(f"srg:imputer={imputer}:steps={steps}" for imputer in IMPUTERS),
        *(f"mif:imputer={imputer}:steps={steps}" for imputer in IMPUTERS),
        "pointing",
        "energy-pointing",
        "average-precision",
        "multi-object-pointing",
    )


@dataclass(frozen=True, eq=False)
class MethodEntry:
    """A method in the table, under its `label`."""

    label: str
    method: Method

    @property
    def control(self) -> bool:
        """Whether it is one of the `CONTROLS`."""
        return self.label in CONTROLS

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to resume; of user code, a hash of its text."""
        identity = {"name": self.method.card.name, "settings": plain(self.method.settings())}
        if isinstance(self.method, Foreign):
            identity["code"] = _code_of(self.method.call)
        return identity


@dataclass(frozen=True, eq=False)
class MetricEntry:
    """A metric in the table, under its `label`: its name, and the options that are not default."""

    label: str
    metric: Metric

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to resume."""
        return {"name": self.metric.card.name, "settings": plain(self.metric.settings())}


def method_entries(
    given: MethodInputs, options: Mapping[str, str] | None = None
) -> list[MethodEntry]:
    """Return the methods that were asked for, and the controls behind them.

    Args:
        given: "all", names with commas, a method object, a callable (image, prompt) -> map, a
            list of these, or a dict of them by the name that they get in the table.
        options: of methods that are named, as METHOD.OPTION -> value.
    """
    named = dict(options or {})
    labelled: list[tuple[str | None, MethodInput]] = []
    if isinstance(given, Mapping):
        labelled = [(checking.text("a method's name", label), x) for label, x in given.items()]
    else:
        # A Method may be callable, but it is one entry and no sequence.
        one = isinstance(given, str | Method) or callable(given)
        many: list[Any] = [given] if one else checking.several("methods", given, METHODS)
        labelled = [(None, each) for each in many for each in _split(each)]
    entries: dict[str, MethodEntry] = {}
    for label, value in labelled:
        method = methods_of.method_of(_method(value, named) if isinstance(value, str) else value)
        if "image" not in method.card.sides:
            raise InputError(f"method {method.card.name} explains no pictures; the benchmark does")
        name = label or label_of(method.card.name, method.settings(), _defaults(method))
        # The same name twice in a list is one method.
        if name in entries and label is None and isinstance(value, str):
            continue
        # A user method under the name of a control would pass for chance in every table.
        if name in entries or (name in CONTROLS and not _is_control(method)):
            raise InputError(
                f"two methods are called {name!r}; give them names: {{'mine': method}}"
            )
        entries[name] = MethodEntry(name, method)
    if not entries:
        raise InputError("got no method, expected at least one; try --methods gae,rollout")
    if named:
        raise InputError(f"got --set {next(iter(named))}: that method is not in the benchmark")
    for control in CONTROLS:
        # Controls stand in every table: without chance no value can be read.
        entries.setdefault(control, MethodEntry(control, methods_of.create(control)))
    # Sorting is stable: methods keep the order in which they were named.
    return sorted(entries.values(), key=lambda entry: entry.control)


def metric_entries(given: str | Metric | Sequence[str | Metric]) -> list[MetricEntry]:
    """Return the metrics that were asked for.

    Args:
        given: "main", "all", names with commas (NAME:OPTION=VALUE:...), objects, or a list.
    """
    one = isinstance(given, Metric)
    many = [given] if one else checking.several("metrics", given, "names or metric objects")
    entries: dict[str, MetricEntry] = {}
    for value in many:
        if not isinstance(value, str | Metric):
            raise InputError(
                f"got the metric {checking.shown(value)}, expected a name or a metric object"
            )
        for metric in _metrics(value) if isinstance(value, str) else [value]:
            label = label_of(metric.card.name, metric.settings(), _defaults(metric))
            entries.setdefault(label, MetricEntry(label, metric))
    if not entries:
        raise InputError("got no metric, expected at least one; try --metrics main")
    return list(entries.values())


def identity(
    chosen: Iterable[MethodEntry],
    metrics: Iterable[MetricEntry],
    model: Model,
    data: LabelledImages,
    count: int,
    seed: int,
    batch_size: int,
) -> dict[str, Any]:
    """Return everything that decides a value, as JSON has it: what a folder of results is of."""
    import torch

    from heatproof import __version__

    # A hash, since a data set may have thousands of prompts.
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
        "methods": {entry.label: entry.identity for entry in chosen},
        "metrics": {entry.label: entry.identity for entry in metrics},
        "code": code_sha256(*UNUSED),
        "versions": {"heatproof": __version__, "torch": torch.__version__},
    }


def label_of(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return the name, and the settings that are not the defaults."""
    own = [
        f"{key}={value}"
        for key, value in plain(settings).items()
        if key not in defaults or plain(defaults)[key] != value
    ]
    return " ".join([name, *own])


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them; other values become their text."""
    return {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in settings.items()
    }


def _split(value: MethodInput) -> list[MethodInput]:
    """Return the names that a text holds, or the object as it is."""
    if not isinstance(value, str):
        return [value]
    if value == "all":
        return [name for name, card in methods_of.catalogue().items() if "image" in card.sides]
    return [name.strip() for name in value.split(",") if name.strip()]


def _method(name: str, options: dict[str, str]) -> Method:
    """Return the method of that name; its own options are taken out of `options`."""
    # Taken out, so that what is left over is known to be misspelt.
    own = [key for key in options if key.rpartition(".")[0] == name]
    return methods_of.create(name, **{key.rpartition(".")[2]: options.pop(key) for key in own})


def _metrics(text: str) -> list[Metric]:
    if text == "all":
        return [registry.create(name) for name in registry.catalogue()]
    names = main_metrics() if text == "main" else [n.strip() for n in text.split(",") if n.strip()]
    return [
        metric
        for name in names
        for metric in ([_metric(name)] if name != "main" else _metrics(name))
    ]


def _metric(text: str) -> Metric:
    name, settings = parse_metric(text)
    return registry.create(name, **settings)


def _defaults(entry: Method | Metric) -> dict[str, Any]:
    """Return the settings of the class by its bare name; none where it needs arguments."""
    try:
        return type(entry)().settings()
    except TypeError:
        return entry.settings() if isinstance(entry, Foreign) else {}


def _is_control(method: Method) -> bool:
    return method.card.name in CONTROLS and method.settings() == _defaults(method)


def _code_of(call: Callable[..., Any]) -> str:
    """Return a hash of the code where Python finds it, else its name."""
    try:
        return hashlib.sha256(inspect.getsource(call).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return str(getattr(call, "__qualname__", type(call).__qualname__))
