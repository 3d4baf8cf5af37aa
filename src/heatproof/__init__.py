"""Heat maps that come with proof: explain what a CLIP-like model saw and read."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatproof import data, errors, interactions, methods, metrics, models, scores
    from heatproof.auditing.auditor import audit
    from heatproof.auditing.result import Audit
    from heatproof.benchmarking.result import benchmark
    from heatproof.certificate import Certificate
    from heatproof.errors import (
        HeatproofError,
        ImageError,
        InputError,
        Interrupted,
        ModelError,
        PromptError,
        ReadingError,
        UnknownName,
        UserCodeError,
    )
    from heatproof.explaining import explain, explain_words, jacobian
    from heatproof.explanation import Explanation, WordExplanation
    from heatproof.jacobians import Jacobian, load_jacobian
    from heatproof.methods import Method
    from heatproof.models import Model, load, wrap
    from heatproof.paper.reproducing import reproduce
    from heatproof.proofs.proving import Proof, prove
    from heatproof.streaming import explain_each

__version__ = "0.1.0"
__all__ = [
    "Audit",
    "Certificate",
    "Explanation",
    "HeatproofError",
    "ImageError",
    "InputError",
    "Interrupted",
    "Jacobian",
    "Method",
    "Model",
    "ModelError",
    "PromptError",
    "Proof",
    "ReadingError",
    "UnknownName",
    "UserCodeError",
    "WordExplanation",
    "audit",
    "benchmark",
    "data",
    "errors",
    "explain",
    "explain_each",
    "explain_words",
    "interactions",
    "jacobian",
    "load",
    "load_jacobian",
    "methods",
    "metrics",
    "models",
    "prove",
    "reproduce",
    "scores",
    "wrap",
]

_MODULES = ("data", "errors", "interactions", "methods", "metrics", "models", "scores")
_HOMES = {
    "Audit": "heatproof.auditing.result",
    "Certificate": "heatproof.certificate",
    "Explanation": "heatproof.explanation",
    "HeatproofError": "heatproof.errors",
    "ImageError": "heatproof.errors",
    "InputError": "heatproof.errors",
    "Interrupted": "heatproof.errors",
    "Jacobian": "heatproof.jacobians",
    "Method": "heatproof.methods",
    "Model": "heatproof.models",
    "ModelError": "heatproof.errors",
    "PromptError": "heatproof.errors",
    "Proof": "heatproof.proofs.proving",
    "ReadingError": "heatproof.errors",
    "UnknownName": "heatproof.errors",
    "UserCodeError": "heatproof.errors",
    "WordExplanation": "heatproof.explanation",
    "audit": "heatproof.auditing.auditor",
    "benchmark": "heatproof.benchmarking.result",
    "explain": "heatproof.explaining",
    "explain_each": "heatproof.streaming",
    "explain_words": "heatproof.explaining",
    "jacobian": "heatproof.explaining",
    "load": "heatproof.models",
    "load_jacobian": "heatproof.jacobians",
    "prove": "heatproof.proofs.proving",
    "reproduce": "heatproof.paper.reproducing",
    "wrap": "heatproof.models",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import heatproof` alone imports no torch."""
    if name in _MODULES:
        return import_module(f"heatproof.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'heatproof' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names alone, imported or not."""
    return sorted([*__all__, "__version__"])
