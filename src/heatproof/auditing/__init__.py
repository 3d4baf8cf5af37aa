"""The two principles as checks: any method, ours or a stranger's, holds or is violated.

`heatproof.audit` runs them. One check, one file; each is a function that returns a `Finding`.
"""
