"""Weighted Banzhaf interactions of patches and words by least squares, in the manner of FIxLIP
(Baniecki et al., NeurIPS 2025, arXiv 2508.05430)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from heatproof import checking
from heatproof.engine import inputs
from heatproof.engine.inputs import Images, ModelInput, PromptInput
from heatproof.errors import InputError
from heatproof.interactions.result import Interactions, names, prepare, repeated
from heatproof.methods.perturbing import BATCH, all_coalitions
from heatproof.models.model import Model
from heatproof.models.towers import Tokens
from heatproof.reading import reading
from heatproof.reading.attention_call import at_least_float32
from heatproof.reading.interventions import masked_keys


@torch.inference_mode(False)
def fixlip(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    probability: float = 0.5,
    budget: int = 2**14,
    seed: int = 0,
) -> Interactions:
    """Find which tokens interact with which patches in the pairs' cosines.

    Patches (painted over with zeros) and words (nothing attends to them) stay with `probability`,
    independently of each other. The cosines of all pairs of an image's and a prompt's coalitions
    are fitted by c + sum a_i z_i + sum b_j w_j + sum A_ij z_i w_j. The authors' fit has pairs
    within an image and within a prompt as well; as players are independent, both tend to the same
    A_ij.

    Args:
        probability: the authors try 0.3, 0.5 and 0.7.
        budget: pairs that are scored (the authors take 2**21); the encoders run once a coalition,
            `passes` times. Where a side's share allows, all its coalitions are taken, weighed.
        seed: decides which coalitions are drawn.

    Raises:
        InputError: a classifier; prompts without tokens; a budget too small for the fit.
    """
    model = inputs.model_of(model)
    if not 0 < checking.number("probability", probability, least=0) <= 1:
        raise InputError(f"got probability={probability}, expected more than 0 and at most 1")
    checking.whole("budget", budget, least=1)
    checking.seed(seed)
    prompts = inputs.check_prompts(model, prompts)
    shown, asked = prepare(model, images, prompts)
    layout = shown.model.image.layout(*shown.pixels.shape[-2:])
    grid, count = (layout.rows, layout.cols), layout.rows * layout.cols
    values: list[list[Tensor]] = [[] for _ in shown.pixels]
    scores, sums = torch.zeros(2, len(values), len(asked.texts), dtype=torch.float64)
    passes = (0, 0)
    with torch.inference_mode(False), torch.no_grad():
        for prompt, pieces in enumerate(asked.pieces):
            tokens = inputs.select(asked, prompt, prompt + 1)
            # Prompts differ in words, and so in how many coalitions the fit needs.
            counts = _coalition_counts(budget, count, len(pieces))
            patches, words = (
                _drawn(count, counts[0], probability, seed),
                _drawn(len(pieces), counts[1], probability, seed),
            )
            passes = (len(patches[0]), len(words[0]))
            at = [piece.position for piece in pieces]
            read = _texts(shown.model, tokens, at, words[0])
            whole = _texts(shown.model, tokens, at, torch.ones(1, len(at)).bool())
            for image, pixels in enumerate(shown.pixels):
                seen = _pictures(shown.model, pixels, grid, patches[0])
                pair = pair_fit(*patches, *words, seen @ read.T)[1:, 1:]
                values[image].append(pair.T.unflatten(1, grid).float())
                sums[image, prompt] = pair.sum()
                # The score with nothing removed, which the fit does not see by itself.
                full = _pictures(shown.model, pixels, grid, torch.ones(1, count).bool())
                scores[image, prompt] = (full @ whole.T).sum()
    return Interactions(
        values=values,
        tokens=names(asked),
        scores=scores.float(),
        sums=sums,
        promised=None,
        passes=passes,
    )


def pair_fit(
    first: Bool[Tensor, "one player"],
    first_weight: Float[Tensor, " one"],
    second: Bool[Tensor, "two word"],
    second_weight: Float[Tensor, " two"],
    scores: Float[Tensor, "one two"],
) -> Float[Tensor, "player_and_constant word_and_constant"]:
    """Fit scores by weighted least squares to (1, z) x (1, w); row and column 0 are the constants.

    All products of the two designs' columns are in the model and the weights multiply, so that the
    fit to all pairs is one fit on either side.
    """
    for name, value, axes in (
        ("first", first, "coalition player"),
        ("first_weight", first_weight, "coalition"),
        ("second", second, "coalition word"),
        ("second_weight", second_weight, "coalition"),
        ("scores", scores, "first second"),
    ):
        inputs.numbers(name, value, axes, truths=name in ("first", "second"))
    if scores.shape != (len(first_weight), len(second_weight)) or scores.shape != (
        len(first), len(second)
    ):  # fmt: skip
        raise InputError(
            f"got {tuple(scores.shape)} scores of {len(first)} and {len(second)} coalitions, "
            "expected one of each pair"
        )
    # The design is the product of one per side, so that each side is solved for itself.
    sides: list[Tensor] = []
    for keep, weight in ((first, first_weight), (second, second_weight)):
        design = torch.cat([torch.ones(len(keep), 1).double(), keep.double()], dim=1)
        root = weight.double().sqrt()
        sides.append(torch.linalg.pinv(root[:, None] * design) * root)
    return sides[0] @ scores.double() @ sides[1].T


def _coalition_counts(budget: int, patches: int, words: int) -> tuple[int, int]:
    """Return how many coalitions either side gets: enough for the fit, in proportion to players."""
    text = max(4 * (words + 1), math.isqrt(budget) * words // max(patches, 1))
    text = min(2**words, text)
    if budget // text <= patches:
        raise InputError(
            f"got budget={budget} for {patches} patches and {words} words, expected at least "
            f"{text * (patches + 1)}"
        )
    return budget // text, text


def _drawn(
    count: int, most: int, probability: float, seed: int
) -> tuple[Bool[Tensor, "coalition player"], Float[Tensor, " coalition"]]:
    """Draw coalitions in which each player stays with `probability`; return their weights, too."""
    if count <= math.log2(most):  # all of them, weighed by their probability
        keep = all_coalitions(count)
        size = keep.double().sum(1)
        return keep, probability**size * (1 - probability) ** (count - size)
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(most, count, generator=generator) < probability
    return keep, torch.full((most,), 1 / most, dtype=torch.float64)


def _pictures(
    model: Model,
    pixels: Float[Tensor, "3 height width"],
    grid: tuple[int, int],
    keep: Bool[Tensor, "coalition player"],
) -> Float[Tensor, "coalition dim"]:
    """Return unit embeddings of an image with zeros where patches are gone."""
    # Patches may not fill the image: what lies beyond the last one stays.
    high, wide = pixels.shape[1] // grid[0], pixels.shape[2] // grid[1]
    rest = (0, pixels.shape[2] - wide * grid[1], 0, pixels.shape[1] - high * grid[0])
    parts: list[Tensor] = []
    for part in keep.split(BATCH):
        mask = part.unflatten(1, (1, *grid)).to(pixels)
        mask = mask.repeat_interleave(high, 2).repeat_interleave(wide, 3)
        embedding = model.image.encode(pixels * F.pad(mask, rest, value=1.0))
        parts.append(F.normalize(at_least_float32(embedding), dim=1).cpu().double())
    return torch.cat(parts)


def _texts(
    model: Model, tokens: Tokens, at: list[int], keep: Bool[Tensor, "coalition word"]
) -> Float[Tensor, "coalition dim"]:
    """Return unit embeddings of a prompt whose words at positions `at` stay or are masked."""
    assert model.text is not None
    encode = model.text.encode
    sites = model.attention_layers("text", tokens.ids.shape[-1:])
    parts: list[Tensor] = []
    for part in keep.split(BATCH):
        masks = torch.ones(len(part), sites[0].keys, dtype=torch.bool, device=model.device)
        masks[:, at] = part.to(masks.device)
        change = dict.fromkeys([site.path for site in sites], masked_keys(masks))
        nothing: list[str] = []
        with reading(model.module, nothing, interventions=change):
            embedding = encode(repeated(tokens, len(part)))
        parts.append(F.normalize(at_least_float32(embedding), dim=1).cpu().double())
    return torch.cat(parts)
