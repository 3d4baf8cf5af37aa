"""Every family that heatproof describes, tiny and random, with pictures and prompts for it."""

from heatproof.models.specimens import FAMILIES, ids, ids_for, model_of, picture, prompts_for

__all__ = ["FAMILIES", "ids", "ids_for", "model_of", "picture", "prompts_for"]
