"""The metrics that a table shows unless it is asked for others."""

MAIN: tuple[str, ...] = ()
