"""Anybody's method: a callable (image, prompt) -> map, taken as a method of the catalogue."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heatproof import checking, index
from heatproof.errors import HeatproofError, InputError, UserCodeError
from heatproof.methods.base import (
    Factors,
    Method,
    MethodCard,
    ReadPass,
    ScoreMethod,
    Side,
)
from heatproof.methods.registry import create


def method_of(value: object, **settings: Any) -> Method:
    """Return a method as it is, by its name in the catalogue, or user code as a `Foreign`.

    "default" and "fast" mean their first method on the image side.

    `heatproof.user_code` makes a `Foreign` of code for a model.

    Raises:
        UnknownName: no method is called so. InputError: it is none of these, or several of them.
    """
    one = "; one method is asked at a time: [explain(..., method=m) for m in methods]"
    if isinstance(value, str):
        if "," in value:
            raise InputError(f"got the method {checking.shown(value)}{one}")
        return create(index.meant(value, "image")[0], **settings)
    if isinstance(value, Method):
        return value
    if isinstance(value, list | tuple | set | frozenset | dict):
        raise InputError(f"got {checking.shown(value)} as a method{one}")  # pyright: ignore
    if not callable(value):
        raise InputError(
            f"got {checking.shown(value)} as a method, expected a name such as 'grad-eclip', a "
            "method object or a callable (image, prompt) -> map"
        )
    return Foreign(value)


class Foreign(ScoreMethod):
    """Maps that user code computes; nothing is known of the pass that they explain.

    call: (image, prompt) -> map. The map has two axes of any size, rows first: a tensor, an array
        or nested lists; it is averaged over each patch (or interpolated where it is coarser).
    takes: what the callable is given: "photo", a PIL image as the user handed it in, or "pixels",
        the model's preprocessed input (3, height, width).
    """

    foreign = True

    def __init__(
        self,
        call: Callable[[Any, str], Any],
        *,
        takes: Literal["photo", "pixels"] = "photo",
        name: str | None = None,
    ) -> None:
        if not callable(call):
            raise InputError(f"got the method {checking.shown(call)}, expected something to call")
        self.call = call
        checking.choice("takes", takes, ("photo", "pixels"))
        if name is not None:
            checking.text("name", name)
        self.takes: Literal["photo", "pixels"] = takes
        self.name = name or getattr(call, "__name__", type(call).__name__)
        self.card = MethodCard(  # pyright: ignore[reportAttributeAccessIssue]
            name=self.name,
            summary="a callable (image, prompt) -> map",
            source="handed in",
            reads="unknown",
            changes="unknown; see `heatproof audit`",
            values="unknown",
            cost="unknown",
            sides=("image",),
        )

    def attribute(self, read: ReadPass) -> Float[Tensor, "item target token"]:
        pictures = self._pictures(read)
        keys = read.last.key.shape[2]
        values = torch.zeros(len(pictures), read.targets, keys, dtype=torch.float64)
        with torch.inference_mode(False), torch.enable_grad():
            for item, picture in enumerate(pictures):
                for target, label in enumerate(read.batch.labels):
                    patches = on_grid(self._map(picture, label), read.batch.grid, self.name)
                    values[item, target, read.batch.content] = patches.flatten()
        return values

    def _map(self, picture: Any, prompt: str) -> Any:
        try:
            return self.call(picture, prompt)
        except HeatproofError:  # ours: it says already what to do
            raise
        except (Exception, SystemExit) as error:
            raise UserCodeError(self.name, error) from error

    def _pictures(self, read: ReadPass) -> Sequence[Any]:
        if self.takes == "pixels":
            assert read.batch.pixels is not None
            return list(read.batch.pixels)
        if not read.batch.photos:
            raise InputError(
                f"{self.name} takes photos, and tensors were handed in; pass paths or PIL "
                "images, or say takes='pixels'"
            )
        return [photo.image for photo in read.batch.photos]

    def factors(self, side: Side) -> Factors:
        del side
        return Factors(())

    def settings(self) -> dict[str, Any]:
        return {"takes": self.takes}


def on_grid(values: Any, grid: tuple[int, int], name: str) -> Float[Tensor, "row col"]:
    """Put a map of any size on the patch grid: averaged over patches, or interpolated.

    Raises:
        InputError: it has not two axes, or holds no numbers.
    """
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.array(values))
        tensor = tensor.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name} returned {type(values).__name__}, expected a map (row, col)"
        ) from None
    if tensor.dim() > 2:
        tensor = tensor.squeeze()
    if tensor.dim() != 2 or not tensor.numel():
        raise InputError(
            f"{name} returned a map of shape {tuple(tensor.shape)}, expected (row, col)"
        )
    if tuple(tensor.shape) == grid:
        return tensor
    coarser = tensor.shape[0] < grid[0] or tensor.shape[1] < grid[1]
    if coarser:
        return F.interpolate(tensor[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    return F.adaptive_avg_pool2d(tensor[None], grid)[0]
