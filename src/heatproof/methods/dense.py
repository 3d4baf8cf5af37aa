"""What dense methods share: every token is taken for an embedding and scored like the readout's."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Method, Plan, ReadPass, Side
from heatproof.methods.residual import Tokens, at_readout, blocks_of, projection_of
from heatproof.reading import AttentionLayer, Intervention
from heatproof.reading.attention_call import at_least_float32

SURROGATE = (
    "every token put through the final norm and projection, where the model reads one token out"
)


@dataclass(frozen=True)
class Dense(Method):
    """Abstract: E_i = score of token i, put through the model's own final norm and projection."""

    @abstractmethod
    def tokens(self, read: ReadPass) -> Tokens:
        """What stands in for the last block's tokens, in the graph of the pass."""

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        projection_of(read)  # a tower that has none is refused before its tokens are touched
        return self.scores(read, self.tokens(read))

    def scores(self, read: ReadPass, tokens: Tokens) -> Float[Tensor, "item target token"]:
        """What each token is worth; the chosen score unless a method takes something off."""
        return token_scores(read, tokens)

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """The score that the readout's own token gets."""
        return read.batch.compare(embedded(read, at_readout(read, self.tokens(read))))


@dataclass(frozen=True)
class Intervened(Dense):
    """Abstract: the last attention call is changed, and the last block's tokens are read."""

    @abstractmethod
    def intervention(self) -> Intervention:
        """What is done to the last attention call."""

    def plan(self, sites: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        last = sites[-1]
        return Plan(
            (last.path,),
            weights=False,
            start=None,
            interventions={last.path: self.intervention()},
            states=blocks_of((last,)),
        )

    def tokens(self, read: ReadPass) -> Tokens:
        (state,) = read.states.values()
        return state.output


def embedded(read: ReadPass, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
    """Tokens as embeddings, by the model's own end."""
    project = projection_of(read)
    return at_least_float32(project(tokens.to(project.dtype)))


def token_scores(read: ReadPass, tokens: Tokens) -> Float[Tensor, "item target token"]:
    """The chosen score of every token."""
    made = embedded(read, tokens)
    flat = read.batch.compare(made.flatten(0, 1))
    return flat.unflatten(0, made.shape[:2]).transpose(1, 2)
