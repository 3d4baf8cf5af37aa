"""Tokens that are really dropped: the rest scores as if their keys were masked, and costs less."""

from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn

import heatproof
from families import FAMILIES, model_of, picture
from heatproof.auditing.ablation import scores_without
from heatproof.auditing.task import AuditTask
from heatproof.data.scenes.single_attribute import asked
from heatproof.engine import inputs
from heatproof.errors import ReadingError
from heatproof.evaluation.task import EvaluationTask
from heatproof.models import Model
from heatproof.reading import block_path, reading, token_dropping
from heatproof.reading.interventions import masked_keys

VIT = "open_clip vit"
# Means over rows keep masked ones; EVA's rotary positions do not know which rows are left; and a
# ResNet's pool stands in no block.
MASKERS = ["open_clip mean pool", "open_clip resnet", "open_clip eva", "open_clip vitamin",
           "open_clip mobileclip-s"]  # fmt: skip
TAKERS = [family for family in FAMILIES if family not in MASKERS]
FLOAT32 = 1e-5  # of scores between -1 and 1, which a model in float32 gave


class Tower:
    """A tower, pictures, and which tokens each variant keeps."""

    def __init__(self, family: str) -> None:
        self.model: Model = model_of(family)
        self.pixels = picture(self.model, 7)
        self.paths = [layer.path for layer in self.model.attention_layers("image")]
        layout = self.model.image.layout(*self.pixels.shape[-2:])
        self.first, self.tokens = len(layout.prefix), layout.tokens
        self.cells = layout.rows * layout.cols
        self.others = self.tokens - self.cells
        self.encoded: list[Tensor] = []
        self.passes: list[tuple[int, int]] = []

    @property
    def block(self) -> nn.Module:
        return self.model.module.get_submodule(block_path(self.model.module, self.paths[0]))

    def keep(self, *counts: int) -> Tensor:
        """Random cells, so many of them a variant."""
        generator = torch.Generator().manual_seed(len(counts))
        made = torch.ones(len(counts), self.tokens, dtype=torch.bool)
        for row, count in zip(made, counts, strict=True):
            gone = torch.randperm(self.cells, generator=generator)[count:]
            row[self.first + gone] = False
        return made

    def spread(self) -> Tensor:
        """All cells, one, and what is between."""
        cells = self.cells
        return self.keep(cells, 1, cells // 2, cells - 1, cells // 2, 2, cells // 2)

    def run(self, rows: Tensor) -> Tensor:
        self.encoded.append(rows)
        return self.model.image.encode(self.pixels[rows])

    def without(self, keep: Tensor, batch_size: int = 32) -> Tensor:
        """By `removal`, noting how many variants and tokens came out of the first block."""
        self.encoded.clear()
        self.passes.clear()

        def note(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            first = output if isinstance(output, Tensor) else output[0]
            self.passes.append((first.shape[0], first.shape[1]))

        handle = self.block.register_forward_hook(note)
        try:
            with torch.no_grad():
                return token_dropping.without_tokens(
                    self.model.module, self.paths, keep, self.run, batch_size
                )
        finally:
            handle.remove()

    def masked(self, keep: Tensor) -> Tensor:
        changes = dict.fromkeys(self.paths, masked_keys(keep))
        with torch.no_grad(), reading(self.model.module, (), interventions=changes):
            return self.model.image.encode(self.pixels[: len(keep)])


@pytest.fixture(autouse=True)
def nothing_checked_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_dropping, "_seen_to_agree", WeakKeyDictionary())


@pytest.fixture
def vit() -> Tower:
    return Tower(VIT)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_left_scores_as_with_masked_keys(family: str) -> None:
    bench = Tower(family)
    keep = bench.spread()
    masked = bench.masked(keep)
    for _ in range(2):  # the first time both ways are run
        without = bench.without(keep) if family != "open_clip resnet" else no_block(bench, keep)
        torch.testing.assert_close(without, masked, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(masked, bench.masked(torch.ones_like(keep)))


def no_block(bench: Tower, keep: Tensor) -> Tensor:
    with torch.no_grad():
        return token_dropping.without_tokens(bench.model.module, bench.paths, keep, bench.run, 32)


@pytest.mark.parametrize("family", TAKERS)
def test_tokens_that_are_gone_go_through_no_block(family: str) -> None:
    bench = Tower(family)
    cells, others = bench.cells, bench.others
    bench.without(bench.keep(1, 2))
    bench.without(bench.keep(cells // 2, cells // 2, cells, 1))
    assert bench.passes == [(1, 1 + others), (2, cells // 2 + others), (1, cells + others)]


@pytest.mark.parametrize("family", [each for each in MASKERS if each != "open_clip resnet"])
def test_towers_that_cannot_do_without_keep_all_their_rows(family: str) -> None:
    bench = Tower(family)
    bench.without(bench.keep(1, 2))
    bench.without(bench.keep(bench.cells))
    whole = bench.passes[0][1]
    bench.without(bench.keep(2, bench.cells // 2))
    assert {rows for _, rows in bench.passes} == {whole}


def test_variants_of_like_sizes_go_together_and_no_more_than_a_batch(vit: Tower) -> None:
    vit.without(vit.keep(1))
    keep = vit.keep(12, 8, 12, 9, 12, 3, 8)
    vit.without(keep, batch_size=12)
    assert [sorted(rows.tolist()) for rows in vit.encoded] == [[5], [1, 3, 6], [0, 2, 4]]
    assert vit.passes == [(1, 4), (3, 10), (3, 13)]
    vit.without(keep, batch_size=2)
    assert vit.passes == [(1, 4), (2, 9), (1, 10), (2, 13), (1, 13)]


def test_no_pass_is_asked_for_twice_once_it_was_checked(vit: Tower) -> None:
    keep = vit.spread()
    vit.without(keep)
    vit.without(keep)
    assert sorted(torch.cat(vit.encoded).tolist()) == list(range(7))


def test_what_agreed_with_many_tokens_is_checked_again_with_few(vit: Tower) -> None:
    """The second block fails with fewer than five rows."""
    second = vit.model.module.get_submodule(block_path(vit.model.module, vit.paths[1]))
    broken = second.register_forward_pre_hook(
        lambda _, args: (args[0] * (args[0].shape[1] >= 5), *args[1:])
    )
    vit.without(vit.keep(14, 14))
    vit.without(vit.keep(13))
    assert vit.passes == [(1, 13 + vit.others)]
    keep = vit.keep(2, 3)
    torch.testing.assert_close(vit.without(keep), vit.masked(keep))
    broken.remove()


def test_nothing_is_dropped_under_somebody_elses_reading(vit: Tower) -> None:
    vit.without(vit.keep(1))
    with reading(vit.model.module, vit.paths):
        vit.without(vit.keep(2, 3))
    assert vit.passes == [(2, vit.tokens)]


def test_no_token_at_all_is_as_if_all_were_masked() -> None:
    """This tower has no class token that would be left."""
    bench = Tower("hf siglip")
    assert not bench.others
    bench.without(bench.keep(1))
    keep = bench.keep(0, 0)
    torch.testing.assert_close(bench.without(keep), bench.masked(keep), equal_nan=True)
    assert bench.passes == [(2, bench.tokens)]
    bench.without(bench.keep(1))
    assert bench.passes == [(1, 1)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, ReadingError])
def test_no_hook_survives_an_error(vit: Tower, error: type[BaseException]) -> None:
    vit.without(vit.keep(1))

    def run(rows: Tensor) -> Tensor:
        vit.run(rows)
        raise error

    with pytest.raises(error):
        token_dropping.without_tokens(vit.model.module, vit.paths, vit.keep(2), run, 32)
    whole = torch.ones(2, vit.tokens, dtype=torch.bool)
    vit.without(whole)
    assert vit.passes == [(2, vit.tokens)]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tr")],
)
def test_too_little_memory_is_no_reason_to_mask_for_ever(vit: Tower, error: Exception) -> None:
    def run(rows: Tensor) -> Tensor:
        if len(vit.encoded) == 1:
            raise error
        return vit.run(rows)

    with pytest.raises(type(error)):
        token_dropping.without_tokens(vit.model.module, vit.paths, vit.keep(2), run, 32)
    vit.without(vit.keep(2))
    vit.without(vit.keep(2))
    assert vit.passes == [(1, 2 + vit.others)]


# --- those who ask for it -----------------------------------------------------------------------


def test_a_trials_tokens_are_those_of_its_own_pictures() -> None:
    model = heatproof.load("scenes")
    trial = EvaluationTask(model, asked(5)).batch(0, 5)
    cells = trial.task.grid[0] * trial.task.grid[1]
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(23, cells, generator=generator) > torch.linspace(0, 1, 23)[:, None]
    item = torch.randint(0, len(trial), (23,), generator=generator)
    found = trial.tokens(keep, item)
    keys = torch.cat([torch.ones(23, 1, dtype=torch.bool), keep], 1)
    changes = {site.path: masked_keys(keys) for site in trial.task.attention_layers}
    with torch.no_grad(), reading(model.module, (), interventions=changes):
        images = model.image.encode(trial.pixels[item])
    expected = trial.task.paired(images, trial.named[item])
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOAT32)
    assert found.unique().numel() > 20


def test_an_audits_tokens_are_those_of_its_own_pictures() -> None:
    bench = AuditTask(heatproof.load("scenes"), asked(5))
    hidden = torch.rand(5, *bench.grid, generator=torch.Generator().manual_seed(0))
    hidden = hidden > torch.tensor([0.9, 0.1, 0.5, 0.9, 0.3])[:, None, None]
    keys = torch.cat([torch.ones(5, 1, dtype=torch.bool), ~hidden.flatten(1)], 1)
    changes = {site.path: masked_keys(keys) for site in bench.attention_layers}
    texts = inputs.prompts(bench.model, bench.data.prompts).embeddings
    with torch.no_grad(), reading(bench.model.module, (), interventions=changes):
        masked = bench.compare(bench.model.image.encode(bench.pixels), texts)
    found = scores_without(bench, torch.arange(5), hidden, only=("tokens",))["tokens"]
    torch.testing.assert_close(found, masked, rtol=0, atol=FLOAT32)
