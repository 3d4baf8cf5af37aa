"""What perturbing methods promise, beside captum's; methods of other packages; interactions."""

import itertools
import math
from typing import Any

import captum.attr
import pytest
import pytorch_grad_cam
import torch
from skimage.transform import resize
from torch import Tensor

import heatproof
import tiny
from families import ids, model_of, picture
from heatproof import interactions, methods
from heatproof.errors import InputError, PromptError, ReadingError
from heatproof.foreign_packages import ScoreOf, captum_method, grad_cam_method
from heatproof.methods import rise
from heatproof.methods.kernel_shap import solve
from heatproof.methods.linkage import complete_linkage
from heatproof.methods.perturbing import all_coalitions
from heatproof.models import Model
from method_cases import close, texts, token_values

PATCH = 7


@pytest.fixture(scope="module")
def vit() -> Model:
    return tiny.open_clip_vit()


def patches() -> Tensor:
    """The patch of each pixel of a 3 x 5 grid."""
    numbers = torch.arange(15).view(3, 5)
    return numbers.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)


# --- captum's definitions ------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 2)])
def test_occlusion_is_captum_s(vit: Model, window: int, stride: int) -> None:
    pixels, prompts = picture(vit, 1), texts(1)
    found = token_values(
        vit, "occlusion", {"window": window, "stride": stride}, "image", pixels, prompts
    )
    theirs = captum.attr.Occlusion(ScoreOf(vit, prompts)).attribute(
        pixels,
        target=0,
        sliding_window_shapes=(3, window * PATCH, window * PATCH),
        strides=(3, stride * PATCH, stride * PATCH),
    )
    expected = theirs[0, 0, ::PATCH, ::PATCH].detach().flatten()
    close(found[0, 0, 1:], expected, 1e-6)  # captum adds up in float32


def test_kernel_shap_solves_captum_s_regression(vit: Model) -> None:
    """The same coalitions through both: theirs weighs the ends by a million instead of exactly."""
    pixels, prompts = picture(vit, 1), texts(1)
    drawn = torch.Generator().manual_seed(1)
    keep = torch.rand(300, 15, generator=drawn) < 0.5
    keep[:, 0] |= ~keep.any(1)
    module = ScoreOf(vit, prompts)

    def given(original: Tensor, **kwargs: object) -> object:
        del original, kwargs
        ends = torch.tensor([[1] * 15, [0] * 15])
        yield from torch.cat([ends, keep.long()])[:, None]

    with torch.no_grad():
        shap = captum.attr.KernelShap(module)
        shap.perturb_func = given
        shap.is_gen_perturb_func = True
        theirs = shap.attribute(pixels, target=0, feature_mask=patches()[None, None], n_samples=302)
        shown = pixels * keep.double()[:, patches()][:, None]
        scores = module(torch.cat([shown, pixels, pixels * 0]))
    gains, total = scores[:300] - scores[301], scores[300] - scores[301]
    ours = solve(keep, torch.ones(300).double(), gains, total)[:, 0]
    close(ours, theirs[0, 0, ::PATCH, ::PATCH].flatten(), 1e-4)


def test_kernel_shap_of_all_coalitions_is_shapley() -> None:
    """On a grid of 2 x 2: the mean over 24 orders of what a patch adds."""
    model = model_of("open_clip resnet")
    pixels, prompts = picture(model, 1), texts(1)
    module, cells = ScoreOf(model, prompts), torch.arange(4).view(2, 2)
    where = cells.repeat_interleave(32, 0).repeat_interleave(32, 1)
    with torch.no_grad():
        worth = {
            stay: float(module(pixels * torch.isin(where, torch.tensor(stay or (-1,))))[0, 0])
            for size in range(5)
            for stay in itertools.combinations(range(4), size)
        }
    expected = torch.zeros(4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        for n, player in enumerate(order):
            added = worth[tuple(sorted(order[: n + 1]))] - worth[tuple(sorted(order[:n]))]
            expected[player] += added / 24
    found = token_values(model, "kernel-shap", {"samples": 16}, "image", pixels, prompts)
    close(found[0, 0, 1:], expected)


@pytest.mark.parametrize("remove", ["pixels", "tokens"])
def test_kernel_shap_adds_up(vit: Model, remove: str) -> None:
    for found in (
        heatproof.explain(vit, picture(vit), texts(), method=methods.KernelSHAP(remove=remove)),
        heatproof.explain_words(vit, picture(vit), ids(), method=methods.KernelSHAP()),
    ):
        check = {c.name: c for c in found.certificate.checks}["completeness"]
        assert check.verdict == "holds"
        assert check.value is not None
        assert check.value < 1e-12


def test_all_coalitions_of_words_make_rise_an_expectation() -> None:
    """Words of the embedded model's tokenizer: three of them, eight coalitions."""
    model = heatproof.load("scenes")
    pixels = picture(model, 1)
    few, many = (
        heatproof.explain_words(
            model, pixels, ["a red circle"], method=methods.RISE(masks=masks, probability=0.5)
        ).maps[0][0]
        for masks in (8, 100)
    )
    assert torch.equal(few, many)


def test_a_batch_s_size_changes_no_mask(vit: Model) -> None:
    """Chunks of an explanation draw the same masks: seeds do not follow the batches."""
    for name in ("rise", "kernel-shap", "vit-cx"):
        method = methods.create(name, **({"masks": 9} if name == "rise" else {}))
        one, two = (
            heatproof.explain(vit, picture(vit), texts(), method=method, batch_size=size).maps
            for size in (1, 2)
        )
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("cells", "cell"), [(8, 28), (3, 7), (2, 5), (1, 4)])
def test_rise_s_masks_are_enlarged_as_the_authors_skimage_does(cells: int, cell: int) -> None:
    """Their call, `resize(grid, up_size, order=1, mode="reflect", anti_aliasing=False)`: beyond the
    middles of the outer cells it is mirrored, where torch's interpolation stays constant."""
    generator = torch.Generator().manual_seed(4)
    grid = (torch.rand(cells, cells, generator=generator) < 0.5).double()
    length = (cells + 1) * cell
    how: dict[str, Any] = {"order": 1, "mode": "reflect", "anti_aliasing": False}
    expected = torch.from_numpy(resize(grid.numpy(), (length, length), **how))
    matrix = rise._enlarging(cells, length)
    torch.testing.assert_close(matrix @ grid @ matrix.T, expected, rtol=1e-12, atol=1e-12)


# --- what is at fault ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("rise", {"probability": 0.0}, r"got probability=0.0 for rise, .* above 0, at most 1"),
        ("rise", {"masks": 0}, "got masks=0 for rise, expected a whole number, at least 1"),
        ("kernel-shap", {"samples": 2}, "expected a whole number, at least 3"),
        ("occlusion", {"window": 4}, "expected 1 to 3 patches"),
        ("occlusion", {"stride": 2}, "every token must come under a window"),
        ("m2ib", {"steps": 0}, "got steps=0 for m2ib"),
        ("m2ib", {"layer": 2}, "expected 0 to 1"),
        ("vit-cx", {"distance": 0.0}, "got distance=0.0"),
    ],
)
def test_settings_out_of_range_are_told(
    vit: Model, name: str, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        heatproof.explain(vit, picture(vit), texts(), method=methods.create(name, **settings))


@pytest.mark.parametrize("family", ["open_clip mean pool", "open_clip vitamin"])
def test_tokens_of_a_mean_cannot_be_taken_away(family: str) -> None:
    model = model_of(family)
    with pytest.raises(ReadingError, match="its readout is a mean over the rows"):
        heatproof.explain(model, picture(model), texts(), method=methods.Occlusion(remove="tokens"))


def test_information_is_finite_where_nothing_is_withheld(vit: Model) -> None:
    """The authors' ln (1 - lambda)^2 is minus infinity there."""
    maps = heatproof.explain(vit, picture(vit), texts(), method=methods.M2IB(alpha=800.0)).maps
    assert maps.isfinite().all()


def test_complete_linkage_on_a_line() -> None:
    """0, 1 and 3, 4 join; then their farthest ends are 4 apart."""
    points = torch.tensor([0.0, 3.0, 1.0, 4.0, 100.0])
    apart = (points[:, None] - points[None, :]).abs()
    assert complete_linkage(apart, 1.5).tolist() == [0, 1, 0, 1, 2]
    assert complete_linkage(apart, 4.0).tolist() == [0, 1, 0, 1, 2]
    assert complete_linkage(apart, 4.1).tolist() == [0, 0, 0, 0, 1]


# --- other packages ------------------------------------------------------------------------------


def test_a_captum_class_is_a_method(vit: Model) -> None:
    pixels, prompts = picture(vit), texts()
    shape = {"sliding_window_shapes": (3, PATCH, PATCH), "strides": (3, PATCH, PATCH)}
    method = captum_method(captum.attr.Occlusion, vit, prompts, arguments=shape)
    found = heatproof.explain(vit, pixels, prompts, method=method)
    ours = heatproof.explain(vit, pixels, prompts, method="occlusion", certify=False)
    torch.testing.assert_close(found.maps, 3 * ours.maps, rtol=1e-5, atol=1e-7)
    assert found.record.method == "Occlusion"
    with pytest.raises(PromptError, match="the method was made for"):
        heatproof.explain(vit, pixels, ids(), method=method)


def test_a_cam_class_is_a_method_and_leaves_no_gradient(vit: Model) -> None:
    pixels, prompts = picture(vit), texts()
    layer = vit.module.visual.transformer.resblocks[-1].ln_1
    kept = vit.module.visual.proj
    kept.grad = torch.ones_like(kept)
    method = grad_cam_method(pytorch_grad_cam.GradCAM, vit, prompts, [layer])
    found = heatproof.explain(vit, pixels, prompts, method=method).maps
    assert torch.equal(kept.grad, torch.ones_like(kept))
    kept.grad = None
    assert all(p.grad is None for p in vit.module.parameters())
    assert not any(m._forward_hooks for m in vit.module.modules())
    assert found.shape == (2, 3, 3, 5)
    assert (found >= 0).all()
    assert found.std() > 0


# --- interactions --------------------------------------------------------------------------------


def test_a_bilinear_score_is_found_exactly() -> None:
    """Planted: 3 + z a + w b + z C w, from few coalitions and from all of them, any weights."""
    generator = torch.Generator().manual_seed(4)
    a, b, c = (torch.randn(*size, generator=generator).double() for size in ((6,), (3,), (6, 3)))
    for z in (all_coalitions(6), torch.rand(20, 6, generator=generator) < 0.5):
        w = all_coalitions(3)
        scores = 3 + (z @ a if z.is_floating_point() else z.double() @ a)[:, None]
        scores = scores + w.double() @ b + z.double() @ c @ w.double().T
        weight = torch.rand(len(z), generator=generator).double() + 0.1
        found = interactions.pair_fit(z, weight, w, torch.ones(8).double(), scores)
        close(found[1:, 1:], c)
        close(found[0, 1:], b)
        close(found[1:, 0], a)
        assert math.isclose(float(found[0, 0]), 3)


def test_fixlip_tells_its_budget(vit: Model) -> None:
    model = heatproof.load("scenes")
    found = interactions.fixlip(model, picture(model, 1), ["red circle"], budget=400)
    assert found.passes == (100, 4)
    assert found.values[0][0].shape == (2, 8, 8)
    assert found.tokens == [("red", "circle")]
    expected = heatproof.explain(model, picture(model, 1), ["red circle"], certify=False).scores
    torch.testing.assert_close(found.scores, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="got budget=40 for 64 patches and 2 words"):
        interactions.fixlip(model, picture(model, 1), ["red circle"], budget=40)
    with pytest.raises(InputError, match="embeddings have no words"):
        interactions.fixlip(vit, picture(vit, 1), texts())


def blank(model: Model) -> object:
    assert model.text is not None
    empty = torch.zeros(1, 13, dtype=torch.long)
    empty[0, :2] = torch.tensor([24, 25])
    return model.text.from_ids(empty)


@pytest.mark.parametrize("normalisation", ["outside", "inside"])
def test_exclip_s_interactions_add_up(vit: Model, normalisation: str) -> None:
    """With more steps the sum over all tokens and patches comes to what it should."""
    gaps = []
    for steps in (4, 64):
        found = interactions.exclip(
            vit, picture(vit, 1), ids(1), steps=steps, normalisation=normalisation, blank=blank(vit)
        )
        assert found.promised is not None
        gaps.append(float((found.sums - found.promised).abs() / found.promised.abs()))
    assert gaps[1] < gaps[0] / 8
    assert gaps[1] < 0.05
    assert found.values[0][0].shape == (13, 3, 5)


def test_exclip_by_one_step_is_a_product_of_gradients(vit: Model) -> None:
    """Of the pair itself: A_ij = (x_i - r_i)' J' J (y_j - r_j), each entry by its own gradients."""
    pixels, prompt = picture(vit, 1), vit.text.from_ids(ids(1))
    found = interactions.exclip(vit, pixels, ids(1), steps=1, blank=blank(vit)).values[0][0]

    def ends(module: str, run: object, other: object) -> tuple[Tensor, Tensor, Tensor]:
        from heatproof.reading import record_activations

        with torch.no_grad(), record_activations(vit.module, [module]) as states:
            other()
        far = states[module].input
        with record_activations(vit.module, [module], leaf=module) as states:
            embedding = run()
        return embedding, states[module].input, far

    e, x, r = ends(
        "visual.transformer.resblocks.1",
        lambda: vit.image.encode(pixels),
        lambda: vit.image.encode(pixels * 0),
    )
    f, y, s = ends(
        "transformer.resblocks.1",
        lambda: vit.text.encode(prompt),
        lambda: vit.text.encode(blank(vit)),
    )
    jacobians = [
        torch.stack(
            [
                ((here - far) * torch.autograd.grad(emb[0, d], here, retain_graph=True)[0])[0].sum(
                    1
                )
                for d in range(emb.shape[1])
            ]
        )
        for emb, here, far in ((e, x, r), (f, y, s))
    ]
    expected = jacobians[1].T @ jacobians[0] / (e.norm() * f.norm()).detach()
    close(found, expected[:, 1:].unflatten(1, (3, 5)).float(), 1e-5)
