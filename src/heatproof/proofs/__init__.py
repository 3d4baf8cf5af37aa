"""Is method A the same function as method B? By algebra, in exact arithmetic, and on models.

Nothing is imported here: the command line asks for this package before it may import torch.
"""
