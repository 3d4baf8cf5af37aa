"""`python -m heatproof`."""

from heatproof.cli.main import main

if __name__ == "__main__":
    main()
