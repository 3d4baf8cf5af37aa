"""The tiny open_clip models, which the package itself proves things on."""

from heatproof.specimens.open_clip import *  # noqa: F403 (names of the specimens)
