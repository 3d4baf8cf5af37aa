"""Dense methods: every token is taken for an embedding and scored like the readout's."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from heatproof.methods.base import Method, Plan, ReadPass, Side
from heatproof.methods.residual import projection_of
from heatproof.methods.tokens import at_readout
from heatproof.reading import AttentionLayer, Intervention, TokenStates, block_of
from heatproof.reading.attention_call import at_least_float32

SURROGATE = (
    "every token put through the final norm and projection, where the model reads one token out"
)


@dataclass(frozen=True)
class DenseMethod(Method):
    """Abstract: E_i = score of token i, put through the model's own final norm and projection."""

    @abstractmethod
    def tokens(self, read: ReadPass) -> TokenStates:
        """Return what stands in for the last block's tokens, in the graph of the pass."""

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        projection_of(read)  # refuse a tower that has none before its tokens are touched
        return self.scores(read, self.tokens(read))

    def scores(self, read: ReadPass, tokens: TokenStates) -> Float[Tensor, "item target token"]:
        """Return each token's value: the chosen score unless a method takes something off."""
        return token_scores(read, tokens)

    def explained(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Return the score that the readout's own token gets."""
        return read.batch.compare(embedded(read, at_readout(read, self.tokens(read))))


@dataclass(frozen=True)
class IntervenedDense(DenseMethod):
    """Abstract: the last attention call is changed, and the last block's tokens are read."""

    @abstractmethod
    def intervention(self) -> Intervention:
        """Return what is done to the last attention call."""

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        del side
        last = layers[-1]
        changes = {last.path: self.intervention()}
        return Plan(paths=(last.path,), interventions=changes, states=(block_of(last),))

    def tokens(self, read: ReadPass) -> TokenStates:
        (state,) = read.states.values()
        return state.output


def embedded(read: ReadPass, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
    """Turn tokens into embeddings by the model's own final norm and projection."""
    project = projection_of(read)
    # In the model's own dtype: the readout's token must get the model's own embedding.
    return at_least_float32(project(tokens.to(project.dtype)))


def token_scores(read: ReadPass, tokens: TokenStates) -> Float[Tensor, "item target token"]:
    """Compute the chosen score of every token."""
    embeddings = embedded(read, tokens)
    flat = read.batch.compare(embeddings.flatten(0, 1))
    return flat.unflatten(0, embeddings.shape[:2]).transpose(1, 2)
