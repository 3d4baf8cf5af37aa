"""The null prompts of a model and the references beside them, embedded once and kept."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from heatproof.engine import following, inputs
from heatproof.engine.following import NULL_PROMPTS
from heatproof.engine.inputs import Prompts
from heatproof.errors import PromptError
from heatproof.models.model import Model
from heatproof.models.state import ModuleState
from heatproof.reading import readings_open


@dataclass(frozen=True)
class _Embedded:
    """Null prompts, and what the model was when they were embedded."""

    weights: str
    state: ModuleState
    precision: torch.dtype
    prompts: Prompts


_known: WeakKeyDictionary[Model, _Embedded] = WeakKeyDictionary()


def null_prompts(model: Model, weights: str) -> tuple[Prompts | None, str]:
    """Return the null prompts and the references beside them, or why there are none.

    weights: the hash of the model's weights as they are now.

    They are embedded again where anything has changed in the model that could change them: its
    weights, hooks, modules, their settings, the precision.
    """
    if model.text is None:
        return None, "a classifier has no null prompts"
    if readings_open():  # an intervention may be on
        return _embed(model)
    state, precision = ModuleState(model.module), model.precision
    known = _known.get(model)
    if (
        known is not None
        and known.weights == weights
        and known.precision == precision
        and known.prompts.embeddings.device == model.device
        and known.state.same(state)
    ):
        return known.prompts, ""
    prompts, reason = _embed(model)
    if prompts is not None:
        _known[model] = _Embedded(weights, state, precision, prompts)
    return prompts, reason


def _embed(model: Model) -> tuple[Prompts | None, str]:
    try:
        texts = inputs.embed(model, list(NULL_PROMPTS.values()))
    except PromptError as error:
        return None, f"null prompts were not measured: {error}"
    beside = following.references(texts.embeddings[-1])
    labels = (*texts.labels, "the opposite of that", "a random direction", "its opposite")
    return Prompts(labels, torch.cat([texts.embeddings, beside])), ""
