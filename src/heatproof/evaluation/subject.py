"""What is audited: a catalogue name, a method object, or any callable (picture, prompt) -> map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heatproof import methods
from heatproof.engine.api import explain
from heatproof.methods import Method
from heatproof.models import Model
from heatproof.user_code import method_of

Auditable = str | Method | Callable[[Any, str], Any]


@dataclass(frozen=True)
class Subject:
    """A method under audit. Its maps are always made anew from the model as it now is: checks
    change `model.module` in place and put it back, so that user code sees it too."""

    method: Method

    @classmethod
    def of(cls, auditable: Auditable, **settings: Any) -> "Subject":
        """Raises `UnknownName` for a name that is in no catalogue."""
        return cls(methods.method_of(auditable, **settings))

    def on(self, model: Model) -> "Subject":
        """The same for this model: what a function of the model makes of it."""
        return Subject(method_of(self.method, model))

    @property
    def name(self) -> str:
        return self.method.card.name

    def maps(
        self,
        model: Model,
        images: Sequence[Image.Image] | Tensor,
        prompts: Sequence[str] | Tensor,
        *,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Float[Tensor, "image prompt row col"]:
        """Signed maps on the patch grid, uncertified."""
        found = explain(
            model,
            images if isinstance(images, Tensor) else list(images),
            prompts,
            method=self.method,
            certify=False,
            seed=seed,
            batch_size=batch_size,
        )
        return found.maps
