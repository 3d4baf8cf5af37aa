"""Measure how good a map is: a catalogue of published metrics, each with its definition.

A metric is a card (formula, direction, chance, source) and a function of a `Trial`, which holds one
method's maps of some images and what is needed to judge them. One file holds one family; importing
this package registers all of them. `heatproof.statistics` turns values into figures with intervals.
"""

import importlib
import pkgutil
from typing import Any

from heatproof.metrics.base import Curve, Metric, MetricCard, Trial
from heatproof.metrics.registry import catalogue, classes, create, register

# A new metric is a new file: whatever lies in this folder is imported, and registers itself.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def __getattr__(name: str) -> Any:
    """Return a registered metric's class by its own name (`heatproof.metrics.Deletion`)."""
    for metric in classes():
        if metric.__name__ == name:
            return metric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(metric.__name__ for metric in classes())]


__all__ = ["Curve", "Metric", "MetricCard", "Trial", "catalogue", "create", "register"]
