"""Methods that remove parts of an input and score what is left by the untouched model.

Players are the tokens that stand for the input: patches on the image side, words on the text side.
A coalition says which of them stay. Changed inputs are made and scored `BATCH` at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from heatproof.errors import InputError, ReadingError
from heatproof.imputers.fills import blurred
from heatproof.methods.base import Factors, Method, Plan, ReadPass, Side, last_paths
from heatproof.reading import AttentionLayer
from heatproof.reading.interventions import masked_keys
from heatproof.reading.token_dropping import without_tokens

Remove = Literal["pixels", "tokens"]
Fill = Literal["zero", "black", "mean", "blur"]
Coalitions = Bool[Tensor, "_ _"]
"""(coalition, player), True where the player stays. Items differ in both numbers."""

BATCH = 32


@dataclass(frozen=True)
class Perturbing(Method):
    """Abstract: a method of scores of the untouched model on inputs with parts removed.

    remove: `pixels` paints patches over; `tokens` lets nothing attend to them, in any layer, with
        no pixel changed. Words are always taken away as tokens. Where convolutions mixed patches
        before attention (ResNets, hybrids), others still know of a token that is gone.
    fill: what is painted: `zero` of the preprocessed image (about the grey that images have on
        average), `black`, the `mean` colour of the image, or the image under a `blur` one patch
        wide.
    """

    remove: Remove = "pixels"
    fill: Fill = "zero"

    def plan(self, layers: Sequence[AttentionLayer], side: Side) -> Plan:
        paths = last_paths(layers, 1, 1)
        if side == "text" or self.remove == "tokens":
            paths = tuple(layer.path for layer in layers)
        return Plan(paths=paths)

    def factors(self, side: Side) -> Factors:
        what = "images with parts taken away" if side == "image" else "prompts with words masked"
        return Factors((f"scores of {what}",))

    def paints(self, read: ReadPass) -> bool:
        """Return whether pixels are painted over, rather than tokens removed."""
        return read.batch.side == "image" and self.remove == "pixels"

    def scores_of(
        self, read: ReadPass, keep: Sequence[Coalitions]
    ) -> list[Float[Tensor, "_ target"]]:
        """Compute the scores of each item's own coalitions, in float64 on the CPU."""
        if self.paints(read):
            return [
                image_scores(read, item, _pixel_masks(read, some), fill_of(read, item, self.fill))
                for item, some in enumerate(keep)
            ]
        check_removable(read)
        masks = [_key_masks(read, item, some) for item, some in enumerate(keep)]
        if read.batch.side == "image":
            return [_image_token_scores(read, item, mask) for item, mask in enumerate(masks)]
        return _text_token_scores(read, masks)

    def empty_scores(self, read: ReadPass) -> Float[Tensor, "item target"]:
        """Compute the scores of the items with all their players removed."""
        # Always in one and the same batch, so that every call gives the same bits.
        none = [torch.zeros(1, len(p), dtype=torch.bool) for p in players(read)]
        with torch.no_grad():
            if not self.paints(read):
                check_removable(read)
                keys = [_key_masks(read, item, some) for item, some in enumerate(none)]
                return _masked(read, None, torch.cat(keys))
            assert read.batch.pixels is not None
            visible = torch.cat([next(iter(_pixel_masks(read, some))) for some in none])
            fills = torch.stack([fill_of(read, n, self.fill) for n in range(len(none))])
            return _exact(read.rerun(_painted(read.batch.pixels, visible, fills)))


def players(read: ReadPass) -> list[Int[Tensor, "_"]]:
    """Return which key tokens are each item's players."""
    keys, items = read.last.key.shape[2], read.last.key.shape[0]
    positions = torch.arange(keys)
    if read.batch.side == "image" or read.batch.words is None:
        return [positions[read.batch.content]] * items
    return [words.cpu().nonzero()[:, 0] for words in read.batch.words]


def placed(
    read: ReadPass, values: Sequence[Float[Tensor, "_ target"]]
) -> Float[Tensor, "item target token"]:
    """Put the players' values on all key tokens, with zeros for the others."""
    tokens = torch.zeros(len(values), read.targets, read.last.key.shape[2], dtype=torch.float64)
    for item, (where, own) in enumerate(zip(players(read), values, strict=True)):
        tokens[item, :, where] = own.T
    return tokens


def all_coalitions(count: int) -> Coalitions:
    """Return every coalition of `count` players, the empty one first and the full one last."""
    numbers = torch.arange(2**count)
    return (numbers[:, None] >> torch.arange(count)[None, :]) % 2 == 1


def check_removable(read: ReadPass) -> None:
    """Raise a `ReadingError` where masking keys does not take a token away."""
    counts = {layer.key.shape[2] for layer in read.trace.layers}
    if read.batch.readout is None:
        raise ReadingError(
            "tokens cannot be taken away from this model: its readout is a mean over the rows of "
            "all patches, masked or not; try remove=pixels"
        )
    if len(counts) > 1:
        raise ReadingError(
            f"tokens cannot be taken away from this model: its calls attend over {min(counts)} to "
            f"{max(counts)} tokens; try remove=pixels"
        )


# --- pixels -----------------------------------------------------------------------------------


def patch_size(read: ReadPass) -> tuple[int, int]:
    """Height and width of a patch in pixels; rows that no patch covers are left over."""
    assert read.batch.pixels is not None
    height, width = read.batch.pixels.shape[-2:]
    return height // read.batch.grid[0], width // read.batch.grid[1]


def on_patches(
    read: ReadPass, maps: Float[Tensor, "*batch height width"]
) -> Float[Tensor, "*batch patch"]:
    """Average over each patch."""
    (rows, cols), (high, wide) = read.batch.grid, patch_size(read)
    cut = maps[..., : rows * high, : cols * wide]
    return cut.unflatten(-1, (cols, wide)).unflatten(-3, (rows, high)).mean((-3, -1)).flatten(-2)


def fill_of(read: ReadPass, item: int, fill: Fill) -> Float[Tensor, "3 height width"]:
    """Return what is painted over an image's missing parts, as a whole image."""
    assert read.batch.pixels is not None
    image = read.batch.pixels[item]
    match fill:
        case "zero":
            return torch.zeros_like(image)
        case "mean":
            return image.mean((1, 2), keepdim=True).expand_as(image)
        case "blur":
            # In double precision, so that kernels of any size add up to 1 in float32.
            exact, (high, wide) = image[None].double(), patch_size(read)
            smooth = blurred(exact, (float(high), float(wide)), reach=2.0, padding="replicate")
            return smooth[0].to(image.dtype)
        case "black":
            if read.batch.black is None:
                raise InputError("fill=black needs the model's preprocessing; try fill=zero")
            return read.batch.black().to(image).expand_as(image)


def image_scores(
    read: ReadPass,
    item: int,
    masks: Iterable[Float[Tensor, "chunk 1 height width"]],
    fill: Float[Tensor, "3 height width"],
) -> Float[Tensor, "variant target"]:
    """Score one image where it shows through each mask (1: it does, 0: the fill does)."""
    assert read.batch.pixels is not None
    with torch.no_grad():
        scores = [
            _exact(read.rerun(_painted(read.batch.pixels[item], mask, fill)))
            for mask in masks
            if len(mask)
        ]
    return torch.cat([torch.zeros(0, read.targets, dtype=torch.float64), *scores])


def _painted(pixels: Tensor, mask: Tensor, fill: Tensor) -> Float[Tensor, "variant 3 height width"]:
    mask = mask.to(pixels)
    return pixels * mask + fill * (1 - mask)


def _pixel_masks(
    read: ReadPass, keep: Coalitions
) -> Iterable[Float[Tensor, "chunk 1 height width"]]:
    (rows, cols), (high, wide) = read.batch.grid, patch_size(read)
    assert read.batch.pixels is not None
    height, width = read.batch.pixels.shape[-2:]
    for part in keep.split(BATCH):
        cells = part.double().unflatten(1, (1, rows, cols))
        mask = cells.repeat_interleave(high, 2).repeat_interleave(wide, 3)
        yield F.pad(mask, (0, width - cols * wide, 0, height - rows * high), value=1.0)


# --- tokens -----------------------------------------------------------------------------------


def _key_masks(read: ReadPass, item: int, keep: Coalitions) -> Bool[Tensor, "coalition key"]:
    masks = torch.ones(len(keep), read.last.key.shape[2], dtype=torch.bool)
    masks[:, players(read)[item]] = keep
    return masks


def _masked(
    read: ReadPass, pixels: Tensor | None, keys: Bool[Tensor, "variant key"]
) -> Float[Tensor, "variant target"]:
    change = masked_keys(keys.to(read.last.key.device))
    paths = {layer.path: change for layer in read.trace.layers}
    with torch.no_grad():
        return _exact(read.rerun(pixels, interventions=paths))


def _image_token_scores(
    read: ReadPass, item: int, masks: Bool[Tensor, "coalition key"]
) -> Float[Tensor, "coalition target"]:
    assert read.batch.pixels is not None
    if not len(masks):
        return torch.zeros(0, read.targets, dtype=torch.float64)
    same = read.batch.pixels[item].expand(BATCH, -1, -1, -1)
    paths = [layer.path for layer in read.trace.layers]
    keys = masks.to(read.last.key.device)

    def run(rows: Int[Tensor, " _"]) -> Tensor:
        return _exact(read.rerun(same[: len(rows)]))

    with torch.no_grad():
        return without_tokens(read.root, paths, keys, run, BATCH)


def _text_token_scores(
    read: ReadPass, masks: Sequence[Bool[Tensor, "_ key"]]
) -> list[Float[Tensor, "_ target"]]:
    # The encoder takes all prompts at once: the n-th coalition of every prompt goes together.
    whole = torch.ones(1, read.last.key.shape[2], dtype=torch.bool)
    longest = max(map(len, masks), default=0)
    scores = torch.zeros(longest, len(masks), read.targets, dtype=torch.float64)
    for n in range(longest):
        now = [own[n : n + 1] if n < len(own) else whole for own in masks]
        scores[n] = _masked(read, None, torch.cat(now))
    return [scores[: len(own), item] for item, own in enumerate(masks)]


def _exact(scores: Tensor) -> Tensor:
    return scores.detach().cpu().double()
