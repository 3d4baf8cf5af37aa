"""The catalogue: a metric registered here is listed, offered to the benchmark, and tested."""

from heatproof.metrics.base import Metric, MetricCard
from heatproof.registry import Registry

_METRICS: Registry[Metric] = Registry("metric")
register = _METRICS.register
create = _METRICS.create


def catalogue() -> dict[str, MetricCard]:
    """Return the card of every metric by name."""
    return {name: metric.card for name, metric in _METRICS}


def classes() -> list[type[Metric]]:
    """Return the class of every metric, by name."""
    return [metric for _, metric in _METRICS]
