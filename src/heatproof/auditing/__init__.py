"""The two principles as checks: any method, ours or the user's, with verdict and evidence.

`heatproof.audit` runs them. One check, one file; each is a function that returns a `Finding`.
"""
