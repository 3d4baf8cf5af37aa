"""exCLIP (Möller et al., TMLR 2025, arXiv 2408.14153): integrated Jacobians of both towers.

A_ij = (x_i - r_i)' (int J_image)' (int J_text) (y_j - r_j), x and y the states at each tower's last
block, r those of blank inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from heatproof import checking
from heatproof.engine import inputs
from heatproof.engine.inputs import Images, ModelInput, PromptInput
from heatproof.errors import InputError, ReadingError
from heatproof.interactions.result import Interactions, names, prepare, repeated
from heatproof.models.model import Model
from heatproof.models.towers import Tokens
from heatproof.reading import block_path, by_token, edit_activations
from heatproof.reading.attention_call import at_least_float32

Encode = Callable[[int], Tensor]


@torch.inference_mode(False)
def exclip(
    model: ModelInput,
    images: Images,
    prompts: PromptInput,
    *,
    steps: int = 10,
    normalisation: Literal["outside", "inside"] = "outside",
    blank: Tokens | None = None,
) -> Interactions:
    """Find which tokens interact with which patches in the pairs' cosines.

    Args:
        steps: N; Jacobians are averaged over the points k/N, k = 1 to N, as in the authors' code.
        normalisation: `outside` as the authors have it: Jacobians of the embeddings as they are,
            divided by the pair's norms; all A_ij approach (e - e_r)' (f - f_r) / (|e| |f|).
            `inside`: of the embeddings at unit length.
        blank: the text's reference, by default the empty prompt (the authors': one padding token).
            The image's is a preprocessed image of zeros.

    It costs 2 + N passes of either encoder per pair, and one backward pass of the last block per
    coordinate of the embedding (text) and per token of the prompt (image).

    Raises:
        InputError: a classifier; prompts without tokens. ReadingError: a tower of fewer than two
            blocks, or blocks whose tokens are not those of the grid.
    """
    model = inputs.model_of(model)
    checking.whole("steps", steps, least=1)
    checking.choice("normalisation", normalisation, ("outside", "inside"))
    if blank is not None and not isinstance(blank, Tokens):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"got blank={checking.shown(blank)}, expected Tokens of the model's own")
    prompts = inputs.check_prompts(model, prompts)
    shown, asked = prepare(model, images, prompts)
    text, unit = shown.model.text, normalisation == "inside"
    assert text is not None
    reference = text.tokenize([""]) if blank is None else blank
    layout = shown.model.image.layout(*shown.pixels.shape[-2:])
    values: list[list[Tensor]] = [[] for _ in shown.pixels]
    scores, sums, promised = torch.zeros(3, len(values), len(asked.texts), dtype=torch.float64)
    with torch.inference_mode(False), torch.no_grad():
        seen = [_image_path(shown.model, pixels) for pixels in shown.pixels.split(1)]
        for prompt in range(len(asked.texts)):
            # All rows of the text's Jacobian once, then the image's contracted with them.
            read = _text_path(shown.model, inputs.select(asked, prompt, prompt + 1), reference)
            vectors = read.contracted(torch.eye(read.whole.shape[1]).to(read.whole), steps, unit).T
            at = [piece.position for piece in asked.pieces[prompt]]
            for image, path in enumerate(seen):
                scale = 1.0 if unit else float(path.whole.norm() * read.whole.norm())
                pair = path.contracted(vectors, steps, unit).cpu() / scale
                if pair.shape[1] != layout.tokens:
                    raise ReadingError(
                        f"the last image block has {pair.shape[1]} tokens, the grid "
                        f"{layout.tokens}: interactions cannot be laid out"
                    )
                values[image].append(layout.grid(pair[at]).float())
                unit_pair = normalize(path.whole, dim=1), normalize(read.whole, dim=1)
                scores[image, prompt] = float(unit_pair[0] @ unit_pair[1].T)
                sums[image, prompt] = float(pair.sum())
                promised[image, prompt] = float(path.moved(unit) @ read.moved(unit).T) / scale
    return Interactions(
        values=values,
        tokens=names(asked),
        scores=scores.float(),
        sums=sums,
        promised=promised,
        passes=(2 + steps, 2 + steps),
    )


@dataclass(frozen=True, kw_only=True)
class _Path:
    """The straight line from a blank input's state at the output of `block` to an input's own.

    `encode(n)` runs n copies of the input; `whole` and `blank` are the embeddings at either end.
    """

    module: nn.Module
    block: str
    encode: Encode
    start: Float[Tensor, "one *state"]
    end: Float[Tensor, "one *state"]
    whole: Float[Tensor, "one dim"]
    blank: Float[Tensor, "one dim"]

    def moved(self, unit: bool) -> Float[Tensor, "one dim"]:
        """Return how far the embedding moves along the path."""
        if unit:
            return normalize(self.whole, dim=1) - normalize(self.blank, dim=1)
        return self.whole - self.blank

    def contracted(
        self, vectors: Float[Tensor, "vector dim"], steps: int, unit: bool
    ) -> Float[Tensor, "vector token"]:
        """Return (end_i - start_i) . (int J)' vector, for each vector and token i."""
        way = at_least_float32(self.end) - at_least_float32(self.start)
        # The right-hand Riemann sum, as in the authors' code.
        part = torch.arange(1, steps + 1).to(way).view(-1, *[1] * (way.dim() - 1)) / steps
        points = (at_least_float32(self.start) + part * way).to(self.end.dtype).requires_grad_()
        embedding = _put(self.module, self.block, points, self.encode)
        rows: list[Tensor] = []
        with torch.enable_grad():
            embedding = normalize(embedding, dim=1) if unit else embedding
        for vector in vectors.to(embedding):
            (grad,) = torch.autograd.grad(
                embedding, [points], vector.expand_as(embedding), retain_graph=True
            )
            share = way * at_least_float32(grad).mean(0, keepdim=True)
            rows.append(by_token(share).sum(2)[0])
        return torch.stack(rows)


def _put(module: nn.Module, block: str, states: Tensor, encode: Encode) -> Float[Tensor, "n dim"]:
    """Return embeddings with `states` in place of the block's output, in the graph from there."""

    def edit(output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until the surroundings end
        if output.shape[1:] != states.shape[1:]:
            raise ReadingError(
                f"a blank input's state has the shape {tuple(states.shape[1:])}, the input's "
                f"{tuple(output.shape[1:])}; pass a blank of the same length"
            )
        return states

    with torch.no_grad(), edit_activations(module, {block: edit}):
        return at_least_float32(encode(len(states)))


def _run(module: nn.Module, block: str, encode: Encode) -> tuple[Tensor, Tensor]:
    """Return the block's output and the embedding of one input."""
    outputs: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        outputs.append(output.detach())
        return output

    with torch.no_grad(), edit_activations(module, {block: keep}):
        embedding = encode(1)
    return outputs[-1], at_least_float32(embedding)


def _path(module: nn.Module, block: str, encode: Encode, blank: Encode) -> _Path:
    end, whole = _run(module, block, encode)
    start, _ = _run(module, block, blank)
    return _Path(
        module=module,
        block=block,
        encode=encode,
        start=start,
        end=end,
        whole=whole,
        # The blank's state is read out where the input's is: that is where the path starts.
        blank=_put(module, block, start, encode),
    )


def _image_path(model: Model, pixels: Float[Tensor, "one 3 height width"]) -> _Path:
    encode = model.image.encode
    sites = model.attention_layers("image", pixels.shape[-2:])
    block = _before_last(model, [site.path for site in sites])

    def copies(image: Tensor, count: int) -> Tensor:
        return encode(image.expand(count, -1, -1, -1))

    return _path(
        model.module, block, partial(copies, pixels), partial(copies, torch.zeros_like(pixels))
    )


def _text_path(model: Model, tokens: Tokens, blank: Tokens) -> _Path:
    assert model.text is not None
    encode = model.text.encode
    sites = model.attention_layers("text", tokens.ids.shape[-1:])
    block = _before_last(model, [site.path for site in sites])

    def copies(prompt: Tokens, count: int) -> Tensor:
        return encode(repeated(prompt, count))

    return _path(model.module, block, partial(copies, tokens), partial(copies, blank))


def _before_last(model: Model, paths: list[str]) -> str:
    """Return the last but one residual block of a tower: its output is the last one's input."""
    found: dict[str, None] = {}
    for path in paths:
        block = block_path(model.module, path)
        if block is not None:  # not a pool
            found[block] = None
    if len(found) < 2:
        raise ReadingError(f"exclip needs two residual blocks with attention, got {len(found)}")
    return list(found)[-2]
