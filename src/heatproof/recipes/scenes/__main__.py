"""`python -m heatproof.recipes.scenes`."""

from heatproof.recipes.scenes.commands import app

app()
