"""open_clip's models by name: built from the library's own configurations, weights read safely.

`NAME` is one of `open_clip.list_models()`, `hf-hub:OWNER/REPOSITORY` or `local-dir:FOLDER`, as
open_clip itself names them; `NAME/PRETRAINED` adds a tag or a file of weights. The library's own
`create_model` is not used: it would unpickle, retry for minutes offline, and fetch text towers.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
    set_model_preprocess_cfg,
)
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import Tensor, nn

from heatproof import specs
from heatproof.errors import ModelError, UnknownName
from heatproof.models import checkpoints, tokenizers
from heatproof.models import open_clip as adapter
from heatproof.models.model import Model

SEED = 0
"""Random weights are drawn from this seed, so that a name always means the same model."""

_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_LOCAL_WEIGHTS = (*_WEIGHTS, "model.safetensors", "pytorch_model.bin", "model.pth")
_CONFIG = "open_clip_config.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a name stands for. `weights` is None where they are to be random.

    `by_architecture` says that activation and preprocessing are those of the architecture, and that
    the weights are a file that does not say its own.
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    tokenizer: Any = None
    notices: tuple[str, ...] = ()
    by_architecture: bool = False


def load(name: str, *, allow_download: bool = True) -> Model:
    """Load a model of open_clip's, in float32 on the CPU. Raises `ModelError`, `UnknownName`."""
    recipe = _recipe(name, allow_download=allow_download)
    return build(recipe, spec=f"open_clip:{name}")


def build(recipe: Recipe, *, spec: str) -> Model:
    """Build the model of a recipe, and describe it."""
    weights = None if recipe.weights is None else checkpoints.read(recipe.weights)
    if weights is not None and recipe.by_architecture:
        recipe = _informed(recipe, weights)
    module = _build(recipe.config)
    preprocess = merge_preprocess_dict(PreprocessCfg(), recipe.preprocess)
    set_model_preprocess_cfg(module, {**preprocess, "size": module.visual.image_size})
    notices = recipe.notices
    if weights is None:
        notices += (_random_notice(spec),)
    else:
        notices += _install(module, weights, recipe)
    return adapter.wrap(
        module.eval(),
        spec=spec,
        tokenizer=recipe.tokenizer,
        weights="random" if recipe.weights is None else "loaded",
        notices=notices,
    )


def _random_notice(spec: str) -> str:
    return (
        f"{spec} names no weights, so they are random: its maps say nothing about a trained model. "
        f"Name a tag or a file, such as {spec}/FILE."
    )


# What a file of weights does not say -------------------------------------------------------------

# OpenAI's state dicts have these beside the weights, and nobody else's do.
_OPENAI = ("input_resolution", "context_length", "vocab_size")
_QUICK = "-quickgelu"


def _informed(recipe: Recipe, weights: dict[str, Tensor]) -> Recipe:
    """Return the recipe with what the weights tell, and notices of what had to be guessed."""
    name, file = recipe.name.removesuffix(_QUICK), recipe.weights
    # OpenAI trained with QuickGELU, and no state dict says its activation.
    if all(key in weights for key in _OPENAI):
        config = {**recipe.config, "quick_gelu": True}
        preprocess = get_pretrained_cfg(name, "openai") or recipe.preprocess
        notices = ()
        if not recipe.config.get("quick_gelu"):
            notices = (f"{file} is OpenAI's, trained with QuickGELU: the model is built with it",)
        return replace(recipe, config=config, preprocess=preprocess, notices=notices)
    quick = bool(recipe.config.get("quick_gelu"))
    other = name if quick else name + _QUICK
    notices = list[str]()
    if other in open_clip.list_models():
        kinds = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
        notices.append(
            f"{file} does not say its activation; {kinds[0]} is taken, as {recipe.name} says "
            f"(for {kinds[1]}: open_clip:{other}/{file})"
        )
    published = _published(recipe.name)
    unlike = sorted(key for key in PREPROCESSING if len({str(p[key]) for p in published}) > 1)
    if unlike:
        notices.append(
            f"{file} does not say how pictures are preprocessed, and the published weights of "
            f"{recipe.name} differ in {', '.join(unlike)}; open_clip's usual way is taken (for "
            "another: heatproof.wrap(module, preprocess=...))"
        )
    return replace(recipe, notices=tuple(notices))


PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


# From a name to a recipe -------------------------------------------------------------------------


def _recipe(name: str, *, allow_download: bool) -> Recipe:
    if name.startswith("local-dir:"):
        return _local_recipe(name.removeprefix("local-dir:"))
    if name.startswith("hf-hub:"):
        return _hub_recipe(name.removeprefix("hf-hub:"), allow_download=allow_download)
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip.list_models():
        raise UnknownName("open_clip model", architecture, open_clip.list_models())
    config = deepcopy(open_clip.get_model_config(architecture))
    assert config is not None
    recipe = Recipe(name=architecture, config=config, preprocess=_usual_preprocess(architecture))
    if not pretrained:
        return _completed(recipe, allow_download=False)
    if specs.is_file_name(pretrained):
        file = Path(pretrained)
        recipe = replace(recipe, weights=file, by_architecture=True)
        return _completed(recipe, folder=file.parent, allow_download=False)
    return _tagged_recipe(architecture, config, pretrained, allow_download=allow_download)


def _tagged_recipe(name: str, config: dict[str, Any], tag: str, *, allow_download: bool) -> Recipe:
    known: dict[str, Any] = get_pretrained_cfg(name, tag)
    if not known:
        tags = list_pretrained_tags_by_model(name)
        raise UnknownName(f"weights of {name}", tag, tags or ["FILE"])
    repository, _, file = known["hf_hub"].rpartition("/")
    weights = checkpoints.fetch(
        repository,
        _alternatives(file) if file else _WEIGHTS,
        instead=f"get it there where there is a network and name the file: open_clip:{name}/FILE",
        allow_download=allow_download,
    )
    notices = ()
    if known.get("quick_gelu") and not config.get("quick_gelu"):
        config = {**config, "quick_gelu": True}
        notices = (f"{name}/{tag} was trained with QuickGELU, so the model is built with it.",)
    recipe = Recipe(name=name, config=config, preprocess=known, weights=weights, notices=notices)
    return _completed(recipe, allow_download=allow_download)


def _usual_preprocess(name: str) -> dict[str, Any]:
    """Return the preprocessing of all published weights of an architecture, if they agree."""
    known = _published(name)
    return known[0] if known and all(one == known[0] for one in known) else {}


def _published(name: str) -> list[dict[str, Any]]:
    """Return the preprocessing of each of the published weights of an architecture."""
    empty = PreprocessCfg()
    return [
        merge_preprocess_dict(empty, get_pretrained_cfg(name, tag))
        for tag in list_pretrained_tags_by_model(name)
    ]


def _alternatives(file: str) -> tuple[str, ...]:
    return (f"{file.rpartition('.')[0]}.safetensors", file)


def _local_recipe(folder: str) -> Recipe:
    path = Path(folder)
    weights = next((path / name for name in _LOCAL_WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{path} holds no weights; expected one of {', '.join(_LOCAL_WEIGHTS)}")
    model, preprocess = _read_config(path / _CONFIG)
    recipe = Recipe(
        name=f"local-dir:{folder}", config=model, preprocess=preprocess, weights=weights
    )
    return _completed(recipe, folder=path, allow_download=False)


def _hub_recipe(repository: str, *, allow_download: bool) -> Recipe:
    instead = (
        f"get {_CONFIG} and the weights there where there is a network, put both into a folder and "
        "name it: open_clip:local-dir:FOLDER"
    )
    config, weights = (
        checkpoints.fetch(repository, files, instead=instead, allow_download=allow_download)
        for files in ((_CONFIG,), _WEIGHTS)
    )
    model, preprocess = _read_config(config)
    recipe = Recipe(
        name=f"hf-hub:{repository}", config=model, preprocess=preprocess, weights=weights
    )
    return _completed(recipe, allow_download=allow_download)


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `model_cfg` and `preprocess_cfg` of an `open_clip_config.json`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        model = config["model_cfg"]
        assert all(key in model for key in ("embed_dim", "vision_cfg", "text_cfg"))
        return model, config.get("preprocess_cfg", {})
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise ModelError(
            f"{path} is missing or no open_clip configuration; expected JSON with model_cfg "
            "(embed_dim, vision_cfg, text_cfg)"
        ) from None


# What the text tower needs from elsewhere --------------------------------------------------------


def _completed(recipe: Recipe, *, allow_download: bool, folder: Path | None = None) -> Recipe:
    """Return the recipe with its tokenizer and the configuration of a Hugging Face text tower."""
    config = recipe.config
    text = config["text_cfg"]
    if text.get("hf_model_name"):
        local = _text_tower_folder(text["hf_model_name"], folder, allow_download)
        config = {**config, "text_cfg": {**text, "hf_model_name": str(local)}}
    tokenizer = _tokenizer(text, folder, allow_download)
    return replace(recipe, config=config, tokenizer=tokenizer)


def _text_tower_folder(name: str, folder: Path | None, allow_download: bool) -> Path:
    for local in (folder, Path(name)):
        if local is not None and (local / "config.json").is_file():
            return local
    instead = "put that file beside the weights and name them: open_clip:NAME/FILE"
    found = checkpoints.fetch(name, ["config.json"], instead=instead, allow_download=allow_download)
    return found.parent


def _tokenizer(text: dict[str, Any], folder: Path | None, allow_download: bool) -> Any:
    """Return the tokenizer that open_clip would give, or why there is none."""
    context = text.get("context_length", 77)
    settings = text.get("tokenizer_kwargs") or {}
    name = text.get("hf_tokenizer_name")
    if not name:
        return open_clip.SimpleTokenizer(context_length=context, **settings)
    mode = text.get("tokenizer_mode")
    build = partial(HFTokenizer, context_length=context, tokenizer_mode=mode, **settings)
    local = next((p for p in (folder, Path(name)) if p is not None and _has_tokenizer(p)), None)
    try:
        if local is None and allow_download:
            checkpoints.fetch(name, _TOKENIZER_FILES, instead="", allow_download=True)
        return build(str(local or name), local_files_only=local is not None or not allow_download)
    except (OSError, ValueError, ImportError, ModelError) as error:
        where = "is not on this computer" if local is None else f"in {local} cannot be used"
        reason = " ".join(str(error).split())[:160]
        return tokenizers.Missing(
            f"the model's tokenizer {where}; put {' and '.join(_TOKENIZER_FILES)} "
            f"of https://huggingface.co/{name} beside the weights file, or pass token ids "
            f"({reason})"
        )


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def _has_tokenizer(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _TOKENIZER_FILES)


# Building and filling ----------------------------------------------------------------------------


def _build(config: dict[str, Any]) -> Any:
    """Build the module of a configuration, with random weights; nothing is fetched."""
    config = deepcopy(config)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    kind: Callable[..., nn.Module] = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    # The caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = kind(**config)
        adapter.fill_uninitialised(module)
    return module


def _install(module: Any, weights: dict[str, Tensor], recipe: Recipe) -> tuple[str, ...]:
    """Fill the model as open_clip's `load_checkpoint` does; says what had to be interpolated."""
    assert recipe.weights is not None
    weights = convert_state_dict(module, weights)
    # Older files hold the text tower's parts without the prefix that CustomTextCLIP has.
    if "positional_embedding" in weights and not hasattr(module, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for key in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's, no weights
        weights.pop(key, None)
    weights.pop("text.transformer.embeddings.position_ids", None)
    for key in ("logit_scale", "logit_bias"):
        own = getattr(module, key)
        if key in weights and own is not None:
            weights[key] = weights[key].reshape(own.shape)
    # SigLIP's architecture with weights of CLIP: a bias of 0 is CLIP's score.
    if module.logit_bias is not None and "logit_bias" not in weights:
        weights["logit_bias"] = torch.zeros_like(module.logit_bias)
    notices = _fit_positions(module, weights)
    checkpoints.install(module, weights, file=recipe.weights, name=recipe.name)
    return notices


def _fit_positions(module: Any, weights: dict[str, Tensor]) -> tuple[str, ...]:
    """Resample position embeddings of another input size or context, as open_clip does."""
    notices = list[str]()
    for key, fit in _POSITIONS:
        own, given = module.state_dict().get(key), weights.get(key)
        if own is None or given is None or own.shape == given.shape:
            continue
        if own.shape[1:] != given.shape[1:]:
            continue  # another architecture: said where the weights are installed
        try:
            fit(weights, module)
        except RuntimeError:
            continue
        notices.append(
            f"the weights have {len(given)} position embeddings ({key}), the model {len(own)}: "
            "they were interpolated, as open_clip does"
        )
    return tuple(notices)


_POSITIONS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("visual.positional_embedding", resize_pos_embed),
    ("positional_embedding", resize_text_pos_embed),
    ("text.positional_embedding", resize_text_pos_embed),
)
