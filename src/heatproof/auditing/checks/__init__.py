"""The checks of `heatproof audit`, one a file."""
