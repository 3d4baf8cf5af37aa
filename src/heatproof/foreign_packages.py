"""Methods of other packages: captum's attributions and pytorch-grad-cam's CAMs, as `Foreign`.

Neither package is imported: the user hands their classes in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from heatproof import checking
from heatproof import scores as scoring
from heatproof.engine import inputs
from heatproof.errors import InputError, PromptError
from heatproof.methods.foreign import Foreign
from heatproof.models.model import Model


class ScoreOf(nn.Module):
    """The model's scores of given prompts as a module of pixels alone."""

    def __init__(self, model: Model, prompts: inputs.PromptInput, score: str | None = None) -> None:
        super().__init__()
        if not isinstance(model, Model):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"got {checking.shown(model)} as a model, expected one of heatproof.load or wrap"
            )
        self.inner = model.module
        self.model, self.asked = model, inputs.prompts(model, prompts)
        self.score = scoring.score_of(scoring.default(model) if score is None else score)
        self.score.check(model, len(self.asked.labels))
        against = self.score.against
        self.against = inputs.prompts(model, against).embeddings if against else None

    def forward(
        self, pixels: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image prompt"]:
        """Compute the scores of preprocessed images."""
        embedding = self.model.image.encode(pixels)
        texts = self.asked.embeddings
        return self.score(
            scoring.pairs(self.model, embedding.to(texts.dtype), texts, against=self.against)
        )

    def prompt(self, label: str) -> int:
        """Return which output stands for a prompt.

        Raises:
            PromptError: the module was made for other prompts.
        """
        try:
            return self.asked.labels.index(label)
        except ValueError:
            raise PromptError(
                f"got prompt {label!r}, and the method was made for "
                f"{', '.join(map(repr, self.asked.labels))}; make it for the prompts to explain"
            ) from None


def captum_method(
    attribution: Callable[[Any], Any],
    model: Model,
    prompts: inputs.PromptInput,
    *,
    score: str | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Foreign:
    """Take a captum attribution of pixels as a method; channels are added up.

    attribution: a class such as `captum.attr.Occlusion`, or any function of a module that gives an
        object with `attribute(pixels, target=..., **arguments)`.
    prompts: those that will be explained: captum needs the module beforehand.
    arguments: for `attribute`.
    """
    checking.called("attribution", attribution, "module")
    asked = checking.settings("arguments", arguments)
    if name is not None:
        checking.text("name", name)
    module = ScoreOf(model, prompts, score)
    try:
        attributor = attribution(module)
    except TypeError as error:
        raise InputError(
            f"{checking.shown(attribution)} cannot be made from a module ({error}), expected a "
            "class such as captum.attr.Occlusion"
        ) from error
    if not callable(getattr(attributor, "attribute", None)):
        raise InputError(
            f"got an attribution that makes {checking.shown(attributor)}, expected an object with "
            "attribute(pixels, target=...), such as captum.attr.Occlusion makes"
        )

    def call(pixels: Tensor, prompt: str) -> Tensor:
        values = attributor.attribute(pixels[None].clone(), target=module.prompt(prompt), **asked)
        if not isinstance(values, Tensor) or values.shape[2:] != pixels.shape[1:]:
            raise InputError(
                f"{type(attributor).__name__} attributed no pixels, expected a tensor like its "
                "input; try one of captum's methods that attribute inputs"
            )
        return values[0].sum(0)

    return Foreign(call, takes="pixels", name=name or type(attributor).__name__)


def grad_cam_method(
    cam: Callable[..., Any],
    model: Model,
    prompts: inputs.PromptInput,
    layers: Sequence[nn.Module],
    *,
    score: str | None = None,
    name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Foreign:
    """Take a CAM of pytorch-grad-cam as a method.

    cam: a class such as `pytorch_grad_cam.GradCAM`.
    layers: modules of `model.module` whose outputs it weighs. Token sequences are laid out on the
        model's own grid, patches alone.
    arguments: for the class, beside those above (`compute_input_gradient`, `tta_transforms`, ...).
    """
    if not callable(cam):
        raise InputError(f"got cam={checking.shown(cam)}, expected a class of pytorch_grad_cam")
    for layer in checking.several("layers", layers, "a list of modules"):
        if not isinstance(layer, nn.Module):
            raise InputError(f"got {checking.shown(layer)} as a layer, expected a module")
    asked = checking.settings("arguments", arguments)
    if name is not None:
        checking.text("name", name)
    module = ScoreOf(model, prompts, score)

    def call(pixels: Tensor, prompt: str) -> Any:
        layout = model.image.layout(*pixels.shape[-2:])
        target = module.prompt(prompt)

        def on_grid(state: Any) -> Tensor:
            state = state if isinstance(state, Tensor) else state[0]
            return state if state.dim() == 4 else layout.grid(state.transpose(1, 2))

        def wanted(scores: Tensor) -> Tensor:
            return scores[..., target]

        before = [(parameter, parameter.grad) for parameter in module.parameters()]
        given = {"model": module, "target_layers": list(layers), "reshape_transform": on_grid}
        try:
            with cam(**given, **asked) as attributor:
                maps = attributor(pixels[None], [wanted])
        finally:  # CAMs leave gradients on the model's own weights
            for parameter, grad in before:
                parameter.grad = grad
        return maps[0]

    return Foreign(call, takes="pixels", name=name or getattr(cam, "__name__", "cam"))
