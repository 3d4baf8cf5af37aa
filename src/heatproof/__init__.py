"""Heat maps of what a CLIP-like model saw and read, each with a certificate.

model = heatproof.load("scenes")
explanation = heatproof.explain(model, "photo.jpg", ["a dog"])
explanation.maps, explanation.certificate.holds
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heatproof import (
        data,
        errors,
        foreign_packages,
        interactions,
        methods,
        metrics,
        models,
        scores,
    )
    from heatproof.auditing.result import Audit
    from heatproof.auditing.run import audit
    from heatproof.benchmarking.result import benchmark
    from heatproof.certificate import Certificate
    from heatproof.engine.api import explain, explain_words, jacobian
    from heatproof.engine.jacobians import Jacobian, load_jacobian
    from heatproof.engine.streaming import explain_each
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
    from heatproof.explanation import Explanation, WordExplanation
    from heatproof.methods import Method
    from heatproof.models import Model, load, wrap
    from heatproof.proofs.prove_methods import prove
    from heatproof.proofs.result import Proof
    from heatproof.recipes.grad_eclip_paper.reproducing import reproduce
    from heatproof.store.store import open_store

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
    "foreign_packages",
    "interactions",
    "jacobian",
    "load",
    "load_jacobian",
    "methods",
    "metrics",
    "models",
    "open_store",
    "prove",
    "reproduce",
    "scores",
    "wrap",
]

_MODULES = (
    "data",
    "errors",
    "foreign_packages",
    "interactions",
    "methods",
    "metrics",
    "models",
    "scores",
)
"""Public names that are modules."""
_HOMES = {
    "Audit": "heatproof.auditing.result",
    "Certificate": "heatproof.certificate",
    "Explanation": "heatproof.explanation",
    "HeatproofError": "heatproof.errors",
    "ImageError": "heatproof.errors",
    "InputError": "heatproof.errors",
    "Interrupted": "heatproof.errors",
    "Jacobian": "heatproof.engine.jacobians",
    "Method": "heatproof.methods",
    "Model": "heatproof.models",
    "ModelError": "heatproof.errors",
    "PromptError": "heatproof.errors",
    "Proof": "heatproof.proofs.result",
    "ReadingError": "heatproof.errors",
    "UnknownName": "heatproof.errors",
    "UserCodeError": "heatproof.errors",
    "WordExplanation": "heatproof.explanation",
    "audit": "heatproof.auditing.run",
    "benchmark": "heatproof.benchmarking.result",
    "explain": "heatproof.engine.api",
    "explain_each": "heatproof.engine.streaming",
    "explain_words": "heatproof.engine.api",
    "jacobian": "heatproof.engine.api",
    "load": "heatproof.models",
    "load_jacobian": "heatproof.engine.jacobians",
    "open_store": "heatproof.store.store",
    "prove": "heatproof.proofs.prove_methods",
    "reproduce": "heatproof.recipes.grad_eclip_paper.reproducing",
    "wrap": "heatproof.models",
}

_EXTRAS = {
    "Proof": "prove",
    "benchmark": "benchmark",
    "open_store": "run",
    "prove": "prove",
    "reproduce": "report",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import heatproof` alone imports no torch."""
    if name in _MODULES:
        return import_module(f"heatproof.{name}")
    if name in _EXTRAS:
        import_module("heatproof.extras").require(_EXTRAS[name])
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'heatproof' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not, and nothing else."""
    return sorted([*__all__, "__version__"])
