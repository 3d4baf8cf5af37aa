"""The catalogue: a metric registered here is listed, offered to the benchmark, and tested."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from heatproof.metrics.base import Card, Metric
from heatproof.options import Register, Switch, switches_of

_M = TypeVar("_M", bound=type[Metric])
_REGISTER: Register[Metric] = Register("metric")


@dataclass(frozen=True)
class Entry(Card):
    """A metric's card with its switches."""

    switches: dict[str, Switch] = dataclasses.field(default_factory=dict[str, Switch])


def register(metric: _M) -> _M:
    """Put a metric class into the catalogue under its card's name."""
    _REGISTER.add(metric.card.name, metric)
    return metric


def catalogue() -> dict[str, Entry]:
    """Every metric: its card and its switches."""
    return {
        name: Entry(**vars(metric.card), switches=dict(switches_of(metric)))
        for name, metric in _REGISTER
    }


def create(name: str, **settings: Any) -> Metric:
    """The metric of that name; settings may be strings, as they come from a command line.

    Raises:
        UnknownName: no such metric, switch or value; the nearest names are offered.
    """
    return _REGISTER.create(name, settings)
