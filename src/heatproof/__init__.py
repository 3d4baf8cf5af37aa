"""Heat maps that come with proof: explain what a CLIP-like model saw and read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatproof import data, interactions, methods, scores
    from heatproof.auditing.auditor import audit
    from heatproof.benchmarking.result import benchmark
    from heatproof.explaining import explain, explain_words, jacobian
    from heatproof.jacobians import load_jacobian
    from heatproof.models import load, wrap
    from heatproof.proofs.proving import prove
    from heatproof.streaming import explain_each

__version__ = "0.1.0"
__all__ = [
    "audit",
    "benchmark",
    "data",
    "explain",
    "explain_each",
    "explain_words",
    "interactions",
    "jacobian",
    "load",
    "load_jacobian",
    "methods",
    "prove",
    "scores",
    "wrap",
]

_HOMES = {
    "audit": "heatproof.auditing.auditor",
    "benchmark": "heatproof.benchmarking.result",
    "explain": "heatproof.explaining",
    "explain_each": "heatproof.streaming",
    "explain_words": "heatproof.explaining",
    "jacobian": "heatproof.explaining",
    "load": "heatproof.models",
    "load_jacobian": "heatproof.jacobians",
    "prove": "heatproof.proofs.proving",
    "wrap": "heatproof.models",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import heatproof` alone imports no torch."""
    if name in ("data", "interactions", "methods", "scores"):
        return import_module(f"heatproof.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'heatproof' has no attribute {name!r}")
