"""Relevance dealt out by functions: results stay, nothing is lost but what biases would take."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import heatproof
from families import FAMILIES, model_of, picture, prompts_for
from heatproof import methods
from heatproof.errors import ReadingError
from heatproof.methods.transformer_attribution import _recording, _starting
from heatproof.reading.lrp_rules import RelevanceRules
from method_cases import close

ITEMS, TOKENS, WIDTH = 2, 23, 29


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).double()


WEIGHT, BIAS = noise(7, WIDTH, seed=1), noise(7, seed=2)
KERNEL = noise(3, TOKENS, 3, 3, seed=3)
CONSERVING: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, WEIGHT, BIAS),
    "constant product": lambda x: x @ WEIGHT.T,
    "constant product from the left": lambda x: noise(3, TOKENS, seed=4) @ x,
    "convolution": lambda x: F.conv2d(x.unsqueeze(3), KERNEL, padding=1),
    "sum": lambda x: x + torch.sin(x.detach()) * x,
    "difference": lambda x: x - 3 * torch.relu(x),
    "product": lambda x: x @ x.transpose(1, 2),
    "branches": lambda x: x * F.silu(x),
    "gate": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "constant": lambda x: 3 * x / 7 + 1,
    "softmax": lambda x: x.softmax(-1),
    "norm": lambda x: F.layer_norm(x, (WIDTH,)),
    "mean": lambda x: x.mean(1),
    "moved about": lambda x: torch.cat([x[:, :2], -x[:, 2:]], dim=1).transpose(0, 1).flatten(1),
}


@pytest.mark.parametrize("name", CONSERVING)
def test_a_function_keeps_its_bits_and_hands_all_relevance_on(name: str) -> None:
    function = CONSERVING[name]
    x = noise(ITEMS, TOKENS, WIDTH)
    leaf = x.clone().requires_grad_()
    with RelevanceRules(ITEMS):
        found = function(leaf)
    assert torch.equal(found.detach(), function(x))
    arriving = noise(*found.shape, seed=9).abs()
    (relevance,) = torch.autograd.grad(found, [leaf], arriving)
    close(relevance.sum(), arriving.sum(), 1e-10)


def test_linear_relevance_goes_to_what_raised_the_result() -> None:
    """x = (2, -1, 3), w = (1, -4, -1): raised by 2 and 4, so that R = 6 falls in 2 and 4."""
    x = torch.tensor([[2.0, -1.0, 3.0]], requires_grad=True)
    with RelevanceRules(1):
        result = F.linear(x, torch.tensor([[1.0, -4.0, -1.0]]), torch.tensor([5.0]))
    (relevance,) = torch.autograd.grad(result, [x], torch.tensor([[6.0]]))
    assert relevance.tolist() == [[2.0, 4.0, 0.0]]


def test_a_sum_is_dealt_out_item_by_item() -> None:
    a, b = noise(ITEMS, TOKENS, WIDTH), noise(ITEMS, TOKENS, WIDTH, seed=5)
    arriving = noise(ITEMS, TOKENS, WIDTH, seed=6)

    def dealt(where: slice) -> tuple[Tensor, ...]:
        leaves = [each[where].clone().requires_grad_() for each in (a, b)]
        with RelevanceRules(len(a[where])):
            total = leaves[0] + leaves[1]
        return torch.autograd.grad(total, leaves, arriving[where])

    together = dealt(slice(0, ITEMS))
    for item in range(ITEMS):
        for one, all_of_them in zip(dealt(slice(item, item + 1)), together, strict=True):
            close(one[0], all_of_them[item])


def test_a_sum_that_is_not_laid_out_by_item_is_refused() -> None:
    x = noise(TOKENS, ITEMS, WIDTH).requires_grad_()
    with (
        pytest.raises(ReadingError, match=r"for 2 item\(s\) cannot be divided by item; try gae"),
        RelevanceRules(ITEMS),
    ):
        x + torch.relu(x)


def test_a_function_without_a_rule_is_refused() -> None:
    x = noise(ITEMS, WIDTH).requires_grad_()
    with (
        pytest.raises(ReadingError, match="no relevance rule is known for torch's pow"),
        RelevanceRules(ITEMS),
    ):
        torch.pow(x, 3)


class Compared(methods.TransformerAttribution):
    """Keeps by how much the scores of the pass that deals out relevance differ from the pass's."""

    def attribute(self, read: methods.ReadPass) -> Tensor:
        paths = [layer.path for layer in read.trace.layers]
        changes = {path: _recording({}, path) for path in paths}
        with torch.no_grad(), RelevanceRules(len(read.scores)), _starting(read, paths[0]):
            scores = read.rerun(interventions=changes)
        assert scores.requires_grad
        object.__setattr__(self, "gap", float((scores - read.scores).detach().abs().max()))
        return super().attribute(read)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pass_that_deals_out_relevance_scores_as_the_model_does(family: str) -> None:
    method, model = Compared(), model_of(family)
    heatproof.explain(model, picture(model), prompts_for(family), method=method)
    assert method.gap < 1e-12
