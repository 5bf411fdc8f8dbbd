"""Groups of channels: the channels of a group occur in the same parameters, equally often in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from graphprune.labels.labels import PINNED, LabelSpace

NOT_PRUNABLE = -1


@dataclass(frozen=True)
class Member:
    """A dim of a parameter or buffer that loses ``per_channel`` indices with each channel of the group."""

    name: str
    dim: int
    per_channel: int


@dataclass(frozen=True)
class Group:
    """Channels with the same members; channel indices of a group are the range ``start:stop``."""

    id: str
    start: int
    stop: int
    members: tuple[Member, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.stop - self.start

    @cached_property
    def dims(self) -> frozenset[tuple[str, int]]:
        """Names and dims of the members, by which the group is recognised in later rounds."""
        return frozenset((member.name, member.dim) for member in self.members)

    @cached_property
    def indices_per_channel(self) -> int:
        """Smallest number of indices that one channel has in any member: the unit in which widths shrink."""
        return min(member.per_channel for member in self.members)

    @property
    def name(self) -> str:
        """The first member's name, by which a reader recognises the group."""
        return self.members[0].name


def number_channels(space: LabelSpace, root: Tensor, moved: Sequence[Tensor]) -> tuple[Tensor, tuple[Group, ...]]:
    """Numbers the channels group by group; the channels of a group have equally many labels in the same owners.

    The channels of a group also lie in the same parts of split tensors: no part may become empty, because some ops
    refuse that.

    Args:
        space: The labels.
        root: Representative of the class of each label, shape ``(size,)``.
        moved: Planes of the tensors that were cut into parts or put together.

    Returns:
        The channel of each label, `NOT_PRUNABLE` where it is frozen, and the groups.
    """
    labels = (root[: space.stored_size] != PINNED).nonzero().flatten()
    if len(labels) == 0:
        return torch.full((space.size,), NOT_PRUNABLE), ()
    roots, owners = root.index_select(0, labels), _owner_of(space).index_select(0, labels)
    is_class = torch.zeros(space.size, dtype=torch.bool).index_fill_(0, roots, True)
    classes = is_class.nonzero().flatten()  # the first label of each class, which is a stored one
    signature = _signatures(owners, (is_class.cumsum(0) - 1).index_select(0, roots), len(classes))
    signature += _parts(root, classes, moved)
    # most groups are one piece of consecutive classes, so there are far fewer pieces to sort than classes
    pieces, piece_of = signature.unique_consecutive(return_inverse=True)
    _, group_of_piece = pieces.unique(return_inverse=True)
    group_of = group_of_piece.index_select(0, piece_of)
    counts = torch.bincount(group_of)
    first_of_group = torch.full((len(counts),), space.size).scatter_reduce(0, group_of, classes, "amin")
    order = torch.argsort(first_of_group.index_select(0, group_of) * space.size + classes)
    channel_of_root = torch.full((space.size,), NOT_PRUNABLE)
    channel_of_root[classes[order]] = torch.arange(len(classes))
    channel_of = channel_of_root.index_select(0, root)
    sizes = counts[group_of.index_select(0, order).unique_consecutive()].tolist()
    members = _members_of_first(space, channel_of.index_select(0, labels), owners, sizes)
    starts = [0, *accumulate(sizes)]
    groups = (Group(f"g{index}", starts[index], starts[index + 1], found) for index, found in enumerate(members))
    return channel_of, tuple(groups)


def _owner_of(space: LabelSpace) -> Tensor:
    """Index of each label's owner plus one; 0 for the pinned label."""
    first = space.owners[0].start if space.owners else space.size
    sizes = torch.tensor([first] + [owner.size for owner in space.owners])
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def _signatures(owners: Tensor, class_of: Tensor, classes: int) -> Tensor:
    """A 63-bit hash of each class's multiset of owners; for any real number of groups, collisions are most unlikely."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(2**62, (int(owners.max()) + 1,), generator=generator)
    return torch.zeros(classes, dtype=torch.long).scatter_add(0, class_of, random[owners])


def _parts(root: Tensor, classes: Tensor, planes: Sequence[Tensor]) -> Tensor:
    """A hash of the tensors that hold each class, shape of ``classes``, without tensors that always keep something."""
    generator = torch.Generator().manual_seed(1)
    index_of_root = torch.full((len(root),), NOT_PRUNABLE)
    index_of_root[classes] = torch.arange(len(classes))
    index_of = index_of_root.index_select(0, root)
    total = torch.zeros(len(classes), dtype=torch.long)
    for plane, random in zip(planes, torch.randint(2**62, (len(planes),), generator=generator), strict=True):
        held = index_of.index_select(0, plane.reshape(-1))
        if int(held.min()) != NOT_PRUNABLE:  # otherwise something stays in any case
            total.index_copy_(0, held, total.index_select(0, held) + random)
    return total


def _members_of_first(
    space: LabelSpace, channels: Tensor, owners: Tensor, sizes: Sequence[int]
) -> list[tuple[Member, ...]]:
    """The members of the first channel of each group, given the channel and the owner of each stored label."""
    firsts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    is_first = torch.zeros(sum(sizes), dtype=torch.bool).index_fill_(0, firsts, True)
    of_firsts = is_first.index_select(0, channels).nonzero().flatten()
    counted: dict[int, Counter[int]] = {first: Counter() for first in firsts.tolist()}
    for channel, owner in zip(channels[of_firsts].tolist(), owners[of_firsts].tolist(), strict=True):
        counted[channel][owner - 1] += 1
    return [
        tuple(Member(space.owners[index].name, space.owners[index].dim, count) for index, count in counts.items())
        for counts in counted.values()
    ]
