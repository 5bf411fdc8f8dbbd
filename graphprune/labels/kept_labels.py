"""From kept indices to the labels that survive."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.program.tensors import Kept


def kept_labels(dependencies: Dependencies, kept: Kept) -> Tensor:
    """Bool per label: what is left of the user's model, padding and the like going with their channels."""
    labels = torch.ones(dependencies.space.size, dtype=torch.bool)
    for owner in dependencies.stored:
        indices = kept.get((owner.name, owner.dim))
        if indices is not None:
            labels[owner.start : owner.start + owner.size] = False
            labels[owner.start + indices] = True
    alive = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
    stored = torch.cat([owner.labels for owner in dependencies.stored])
    alive[dependencies.channel_of[stored[labels[stored]]]] = True
    made = torch.ones_like(labels)
    made[stored] = False
    prunable = made & (dependencies.channel_of >= 0)
    labels[prunable] = alive[dependencies.channel_of[prunable]]
    return labels
