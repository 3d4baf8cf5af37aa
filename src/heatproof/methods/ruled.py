"""Methods under backward rules: their plans and passes with other gradients."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Plan, ReadPass
from heatproof.reading import Edit, Intervention
from heatproof.reading.backward_rules import BackwardRules, frozen_rules
from heatproof.reading.interventions import chain


def ruled_plan(
    plan: Plan, attention: Mapping[str, Intervention], *, keep_biases: bool = False
) -> Plan:
    """Return the plan under frozen norms and gates, with rules of attention by path."""
    merged = merge(plan.interventions, attention)
    rules = partial(BackwardRules, frozen_rules(), attention, keep_biases=keep_biases)
    return replace(plan, interventions=merged, rules=rules)


def ruled_pass(read: ReadPass) -> ReadPass:
    """Return the pass, with further runs of the encoder under its rules too."""
    own = read.rules
    assert isinstance(own, BackwardRules)

    def rerun(
        pixels: Float[Tensor, "variant 3 height width"] | None = None,
        *,
        interventions: Mapping[str, Intervention] | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "variant target"]:
        both = merge(interventions or {}, own.interventions)
        # A fresh context: one that records biases would record those of this run as well.
        with BackwardRules(own.rules, own.interventions):
            return read.rerun(pixels, interventions=both, edits=edits)

    return replace(read, rerun=rerun)


def merge(
    first: Mapping[str, Intervention], then: Mapping[str, Intervention]
) -> dict[str, Intervention]:
    """Return the interventions of both at every path, one after the other."""
    return {
        path: chain(*(changes[path] for changes in (first, then) if path in changes))
        for path in {**first, **then}
    }
