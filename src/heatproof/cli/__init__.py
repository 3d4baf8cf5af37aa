"""The command line: `main.py` holds the command `heatproof`, every other file a subcommand.

`options.py` and `terminal.py` are what subcommands share. Torch is imported inside the functions
that need it, so that help and bad input answer at once.
"""
