"""The catalogue: a metric registered here is listed, offered to the benchmark, and tested."""

from typing import Any

from heatproof.metrics.base import Metric, MetricCard
from heatproof.registry import Registry

_METRICS: Registry[Metric] = Registry("metric")
register = _METRICS.register


def create(name: str, **settings: Any) -> Metric:
    """Return the metric of that name; settings may be texts, as a command line gives them.

    Raises:
        UnknownName: no such metric, option or value; the nearest names are offered.
        InputError: a value of another kind, or out of bounds.
    """
    return _METRICS.create(name, **settings)


def catalogue() -> dict[str, MetricCard]:
    """Return the card of every metric by name."""
    return {name: metric.card for name, metric in _METRICS}


def classes() -> list[type[Metric]]:
    """Return the class of every metric, by name."""
    return [metric for _, metric in _METRICS]
