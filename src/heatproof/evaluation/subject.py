"""Hold a method that is evaluated: a catalogue name, a method object, or a user's callable."""

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
    """A method that is evaluated.

    Its maps are always computed from the model as it now is: checks change `model.module` in place
    and restore it, so that user code, which holds the module itself, sees the change too.
    """

    method: Method

    @classmethod
    def of(cls, auditable: Auditable, **settings: Any) -> "Subject":
        """Return the subject for a method, or for a name and its options.

        Raises:
            UnknownName: the name is in no catalogue.
        """
        return cls(methods.method_of(auditable, **settings))

    def on(self, model: Model) -> "Subject":
        """Return the subject for this model: a function of the model is called with it."""
        return Subject(method_of(self.method, model))

    @property
    def name(self) -> str:
        """The name on the method's card."""
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
        """Return signed maps on the patch grid, without certificates."""
        explanation = explain(
            model,
            images if isinstance(images, Tensor) else list(images),
            prompts,
            method=self.method,
            certify=False,
            seed=seed,
            batch_size=batch_size,
        )
        return explanation.maps
