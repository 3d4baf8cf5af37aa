"""Agglomerative clustering by complete linkage, up to a distance."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def complete_linkage(
    distance: Float[Tensor, "point point"], threshold: float
) -> Int[Tensor, " point"]:
    """Return the cluster of each point, numbered in the order in which clusters first appear.

    The two nearest clusters are merged again and again, until none are nearer than `threshold`; two
    clusters are as far apart as their farthest points. Quadratic in memory, cubic in time.
    """
    count = len(distance)
    far = distance.clone().fill_diagonal_(torch.inf)
    member = torch.arange(count)
    for _ in range(count - 1):
        first, second = divmod(int(far.argmin()), count)
        if not far[first, second] < threshold:
            break
        keep, drop = min(first, second), max(first, second)
        joint = torch.maximum(far[keep], far[drop])
        far[keep], far[:, keep] = joint, joint
        far[drop], far[:, drop] = torch.inf, torch.inf
        far[keep, keep] = torch.inf
        member[member == drop] = keep
    return torch.unique(member, return_inverse=True)[1]
