"""Check any method, ours or the user's, against two principles, with verdict and evidence.

`heatproof.audit` runs the checks. Each lives in one file of `checks`: question, measurement,
verdict rule and figure; `base` says what a check is.
"""
