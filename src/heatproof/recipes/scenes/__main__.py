from heatproof.recipes.scenes.commands import app

app()
