"""How good a map is, and how sure one may be: one need, one file; a metric is a function.

`localisation` needs maps and masks alone. `intervals` turns values into figures with intervals.
"""
