"""The tower's input as a point: what is differentiated there is the model's own score."""

import pytest
import torch
from torch import Tensor, nn

import heatproof
from families import FAMILIES, ids_for, model_of, picture, prompts_for
from heatproof import methods
from heatproof.errors import ReadingError
from heatproof.methods.input_leaf import input_leaf, token_embedding_path


class AtThePoint(methods.InputXGradient):
    """Keeps the widest gap between the score at the point and the pass's, and the point."""

    def attribute(self, read: methods.ReadPass) -> Tensor:
        leaf = input_leaf(read)
        with torch.no_grad():
            gap = float((leaf.score(leaf.point) - read.scores).abs().max())
            moved = float((leaf.score(leaf.point * 0.5) - read.scores).abs().max())
        object.__setattr__(self, "seen", (gap, moved, leaf.point.shape))
        return super().attribute(read)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_at_the_point_is_the_score_of_the_pass(family: str) -> None:
    model, method = model_of(family), AtThePoint()
    heatproof.explain(model, picture(model), prompts_for(family), method=method, certify=False)
    gap, moved, shape = method.seen
    assert gap < 1e-12
    assert moved > 1e-6
    assert shape == picture(model).shape
    if model.text is not None:
        heatproof.explain_words(
            model, picture(model), ids_for(family), method=method, certify=False
        )
        gap, moved, shape = method.seen
        assert gap < 1e-12
        assert moved > 1e-6
        assert shape[0] == 3


def test_a_model_without_a_table_of_tokens_is_told() -> None:
    with pytest.raises(ReadingError, match=r"Linear has no nn\.Embedding .* try a method that"):
        token_embedding_path(nn.Linear(2, 2))
