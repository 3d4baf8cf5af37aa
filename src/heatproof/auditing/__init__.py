"""The two principles as checks: any method, ours or a stranger's, with verdict and evidence.

`heatproof.audit` runs them. One check, one file; each is a function that returns a `Finding`.
"""
