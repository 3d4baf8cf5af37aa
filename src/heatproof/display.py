"""How maps lie over photos. Nothing here imports torch: the command line checks it first."""

from dataclasses import dataclass

from heatproof import checking

BACKGROUNDS = ("gray", "color")
STRENGTH = 0.85  # of the colour at the end of the scale: the photo shows through it


@dataclass(frozen=True)
class Display:
    """How a map lies over its photo: on a grey or a coloured one; `alpha` is the end's opacity.

    Over grey, all colour in a drawing is the map's, and equal values look equally strong.
    """

    background: str = "gray"
    alpha: float = STRENGTH

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            InputError: no such background, or an opacity that shows no map.
        """
        checking.choice("background", self.background, BACKGROUNDS)
        checking.number("alpha", self.alpha, least=0.1, most=1)


GREY = Display()
