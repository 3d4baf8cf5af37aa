"""Maps for prompts that are not known yet: an image's maps of all coordinates of its embedding.

A map that is linear in the score's gradient is, by the chain rule, a sum over the embedding's
coordinates: dS/df_c times the map of coordinate c. So the image tower runs once, and any number of
prompts is explained afterwards by a matrix product.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from heatproof import checking
from heatproof.certificate import Certificate, certificate_from
from heatproof.engine import inputs
from heatproof.engine.inputs import PromptInput
from heatproof.errors import InputError, PromptError
from heatproof.image_maps import Record
from heatproof.methods.pass_context import score_gradient as by_autograd
from heatproof.models.model import Model
from heatproof.reading.attention_call import exact
from heatproof.scores import Margin, Score, pairs, score_gradient, score_of

SCHEMA = "heatproof jacobian 2"


@dataclass(frozen=True)
class Scale:
    """What a model compares embeddings by: enough to score pairs without the model."""

    classes: tuple[str, ...] = ()
    logit_scale: float = 1.0
    logit_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Jacobian:
    """The signed map of each coordinate of each image's embedding, on the patch grid.

    `model` is needed for prompts that are texts; None after `load_jacobian` without one.
    `certificate` is that of the coordinates' maps. `embeddings` are the untouched model's,
    `explained` those of the pass that was explained, which the maps are about.
    """

    by_coordinate: Float[Tensor, "image dim row col"]
    embeddings: Float[Tensor, "image dim"]
    explained: Float[Tensor, "image dim"]
    scale: Scale
    record: Record
    certificate: Certificate
    model: Model | None = None

    def maps(
        self, prompts: PromptInput, *, score: str | Score = ""
    ) -> Float[Tensor, "image prompt row col"]:
        """Return signed maps in float32: those that `explain` gives.

        prompts: texts, token ids or class names (with a model), or embeddings (prompt, dim).

        Raises:
            PromptError: texts without a model, or embeddings of another width.
        """
        chosen, texts, against = self._resolve(prompts, score)
        gradient = score_gradient(self.scale, chosen, self.explained, texts, against=against)
        # Scores without a closed form are differentiated here: by the embedding, so without a pass.
        if gradient is None:
            gradient = by_autograd(
                lambda image: chosen(pairs(self.scale, image, texts, against=against)),
                self.explained,
            )
        # The chain rule: dS/d(embedding) times the coordinates' maps.
        flat = self.by_coordinate.flatten(2)
        with exact(flat):
            return (gradient @ flat).unflatten(2, self.by_coordinate.shape[2:]).float()

    def scores(
        self, prompts: PromptInput, *, score: str | Score = ""
    ) -> Float[Tensor, "image prompt"]:
        """Return the untouched model's scores."""
        return self._scores(self.embeddings, *self._resolve(prompts, score))

    def explained_scores(
        self, prompts: PromptInput, *, score: str | Score = ""
    ) -> Float[Tensor, "image prompt"]:
        """Return the scores of the pass that `maps` explains."""
        return self._scores(self.explained, *self._resolve(prompts, score))

    def _scores(
        self,
        embeddings: Float[Tensor, "image dim"],
        chosen: Score,
        texts: Tensor,
        against: Tensor | None,
    ) -> Float[Tensor, "image prompt"]:
        return chosen(pairs(self.scale, embeddings, texts, against=against)).float()

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: the tensors, and everything else as its metadata.

        Raises:
            InputError: the place cannot be written to.
        """
        path = checking.path("path", path)
        about = {
            "schema": SCHEMA,
            "scale": asdict(self.scale),
            "record": asdict(self.record),
            "certificate": asdict(self.certificate),
        }
        tensors = {
            "by_coordinate": self.by_coordinate.contiguous(),
            "embeddings": self.embeddings.contiguous(),
            "explained": self.explained.contiguous(),
        }
        try:
            save_file(tensors, path, {"heatproof": json.dumps(about)})
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot write {path}: {error}; try another place") from error
        return path

    def _resolve(
        self, prompts: PromptInput, score: str | Score
    ) -> tuple[Score, Tensor, Tensor | None]:
        if isinstance(score, str) and not score:
            score = "class-logit" if self.scale.classes else "cosine"
        chosen = score_of(score)
        if not isinstance(prompts, Tensor):
            prompts = checking.prompts(prompts, indices=bool(self.scale.classes))
            if not self.scale.classes:
                checking.no_files(prompts)
        texts = self._embedded(prompts)
        # A margin of one prompt has nothing to be compared with.
        if isinstance(chosen, Margin) and len(texts) < 2:
            raise InputError("score 'margin' compares prompts: got 1, expected at least 2")
        if self.model is not None:
            chosen.check(self.model, len(texts))
        against = self._embedded(list(chosen.against)) if chosen.against else None
        return chosen, texts, against

    def _embedded(self, prompts: PromptInput) -> Float[Tensor, "prompt dim"]:
        if self.model is not None:
            texts = inputs.prompts(self.model, prompts).embeddings.cpu()
        elif isinstance(prompts, Tensor) and prompts.dim() == 2 and prompts.is_floating_point():
            if not inputs.is_plain(prompts) or not inputs.is_finite(prompts):
                raise PromptError("got embeddings that are not finite, or not there to be read")
            texts = prompts.detach().cpu()
        else:
            raise PromptError(
                f"a jacobian of {self.record.model} without its model reads no texts; expected "
                "embeddings (prompt, dim), or load_jacobian(path, model=...)"
            )
        width = self.embeddings.shape[1]
        if texts.shape[1] != width:
            raise PromptError(
                f"got embeddings of width {texts.shape[1]}, {self.record.model} has {width}"
            )
        # In the precision that the maps were computed in.
        return texts.to(self.embeddings.dtype)


def load_jacobian(path: str | Path, model: Model | None = None) -> Jacobian:
    """Read what `Jacobian.save` wrote; `model`, where it is given, embeds texts.

    Raises:
        InputError: no such file, another kind of file, or a model of other weights.
    """
    path = checking.path("path", path)
    if model is not None and not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"got {checking.shown(model)} as a model, expected one of heatproof.load")
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("heatproof", "{}"))
            if about.get("schema") != SCHEMA:
                raise InputError(
                    f"{path} holds no jacobian of this version; expected a file of Jacobian.save"
                )
            names = ("by_coordinate", "embeddings", "explained")
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot read {path}: {error}; expected a file of Jacobian.save"
        ) from error
    certificate = certificate_from(about["certificate"])
    # Weights of the same shape would embed prompts into another space, without a word.
    made_by = certificate.environment.get("weights_sha256")
    if model is not None and made_by is not None and model.weights_hash != made_by:
        raise InputError(f"{path} is of other weights than {model.spec}; pass the model it is of")
    scale: dict[str, Any] = {**about["scale"], "classes": tuple(about["scale"]["classes"])}
    record: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["record"].items()
    }
    return Jacobian(
        by_coordinate=tensors["by_coordinate"],
        embeddings=tensors["embeddings"],
        explained=tensors["explained"],
        scale=Scale(**scale),
        record=Record(**record),
        certificate=certificate,
        model=model,
    )
