"""Finds what each channel of a group consists of: its indices in every member."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group

Indices = dict[tuple[str, int], Tensor]
"""By (name of parameter or buffer, dim): the indices of each channel, ascending, shape ``(channels, per_channel)``."""


def member_indices(dependencies: Dependencies) -> list[Indices]:
    """Indices of the channels of each group in its members, in the order of ``dependencies.groups``."""
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    found = []
    for group in dependencies.groups:
        of_group = {}
        for member in group.members:
            owner = owners[member.name, member.dim]
            channels = dependencies.channel_of[owner.start : owner.start + owner.size]
            of_group[member.name, member.dim] = _by_channel(channels, group).view(group.channels, member.per_channel)
        found.append(of_group)
    return found


def _by_channel(channels: Tensor, group: Group) -> Tensor:
    """Indices whose channel is in the group, ordered by channel."""
    of_group = ((channels >= group.start) & (channels < group.stop)).nonzero().flatten()
    return of_group[torch.argsort(channels[of_group], stable=True)]
