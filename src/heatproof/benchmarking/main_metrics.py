"""The metrics that a table shows unless it is asked for others.

Perturbation with ten steps, under three imputers, so that it can be said whether the ranking is
the imputer's; and localisation that has a stated chance. `mif` costs nothing beside `srg`.
"""

IMPUTERS = ("mean", "blur", "tokens")


def main(steps: int = 10) -> tuple[str, ...]:
    """Their names with options; `steps` of each perturbation curve."""
    return (
        f"deletion:steps={steps}",
        f"insertion:steps={steps}",
        *(f"srg:imputer={imputer}:steps={steps}" for imputer in IMPUTERS),
        *(f"mif:imputer={imputer}:steps={steps}" for imputer in IMPUTERS),
        "pointing",
        "energy-pointing",
        "average-precision",
        "multi-object-pointing",
    )


MAIN = main()
