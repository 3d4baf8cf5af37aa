from heatproof.training.commands import app

app()
