"""timm's vision transformers (ViT, EVA), as classifiers and as image towers of open_clip."""

from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from heatproof.errors import ModelError
from heatproof.models.projection import EmbeddingHead, projection
from heatproof.models.resizing import Size, pair
from heatproof.models.towers import Readout, TokenLayout

TimmViT = VisionTransformer | Eva


def patch_of(trunk: Any) -> Size:
    """Return height and width of a patch in pixels."""
    return pair(trunk.patch_embed.feat_ratio(as_scalar=False))


def layout(trunk: Any, height: int, width: int) -> TokenLayout:
    """Return the layout of the keys of the last attention call."""
    rows, cols = trunk.patch_embed.dynamic_feat_size((height, width))
    # EVA's pool always reads the prefix tokens; a ViT's may read the patches alone.
    pools_patches = trunk.attn_pool is not None and not getattr(trunk, "pool_include_prefix", True)
    return TokenLayout(rows, cols, () if pools_patches else _prefix(trunk))


def _prefix(trunk: Any) -> tuple[str, ...]:
    named = ("class",) if trunk.cls_token is not None else ()
    if getattr(trunk, "dist_token", None) is not None:
        named = (*named, "distillation")
    registers = trunk.num_prefix_tokens - len(named)
    return (*named, *(f"register {number}" for number in range(1, registers + 1)))


def readout_of(trunk: Any) -> Readout:
    """Return where the trunk reads out.

    Raises:
        ModelError: it averages two heads, or pools so that no set of query rows is the readout.
    """
    if getattr(trunk, "head_dist", None) is not None:
        raise ModelError(
            "the model averages two heads, on its class and its distillation token, so that no one "
            "readout explains it; expected one head, such as timm:deit_base_patch16_224"
        )
    if trunk.attn_pool is not None:
        return _pool_readout(trunk.attn_pool)
    if trunk.global_pool == "token":
        return Readout("class token", 0)
    # A mean that counts class token and registers is no mean over patches.
    whole = getattr(trunk, "pool_include_prefix", False) and trunk.num_prefix_tokens
    if trunk.global_pool == "avg" and not whole:
        return Readout("mean of tokens", None)
    raise ModelError(
        f"the model pools by {trunk.global_pool!r}{' over prefix tokens too' if whole else ''}, "
        "whose readout is no mean over patches; expected global_pool 'token', 'avg' or 'map'"
    )


def _pool_readout(pool: Any) -> Readout:
    latents = getattr(pool, "latent_len", 0)
    if not latents:
        raise ModelError(
            f"the model pools by a {type(pool).__name__}, which reads out no queries of its own; "
            "expected an attention pool with latents"
        )
    # Several latents are averaged, unless the pool takes the first of them.
    return Readout("pool probe", None if latents > 1 and pool.pool != "token" else 0)


def projection_of(trunk: Any, *heads: nn.Module) -> EmbeddingHead | None:
    """Return what a class token goes through after the last block, `heads` last."""
    if trunk.attn_pool is not None or trunk.global_pool != "token":
        return None
    return projection((trunk.norm, trunk.fc_norm), (trunk.head, *heads))
