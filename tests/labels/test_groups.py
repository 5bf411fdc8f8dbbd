"""Channels and groups: every labelled index has one channel, every channel one group, against a naive oracle."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphprune.labels.groups import NOT_PRUNABLE, Group, Member, number_channels
from graphprune.labels.labels import PINNED, Cause, LabelSpace

CAUSE = Cause("node", "op", "reason")


@dataclass
class Labels:
    """A space with the labels of its dims, stored ones first, and planes of tensors that were moved."""

    space: LabelSpace = field(default_factory=LabelSpace)
    dims: list[Tensor] = field(default_factory=list)
    moved: list[Tensor] = field(default_factory=list)

    def add(self, name: str, size: int, *, stored: bool = True) -> Tensor:
        self.dims.append(self.space.allocate(name, 0, size, stored=stored))
        return self.dims[-1]

    def numbered(self) -> tuple[Tensor, tuple[Group, ...]]:
        return number_channels(self.space, self.space.solve(), self.moved)


@st.composite
def labelled(draw: st.DrawFn) -> Labels:
    """Dims of a few sizes, tied index by index (some in blocks, some turned around), label by label, or pinned."""
    labels = Labels()
    for index, size in enumerate(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=6))):
        labels.add(f"weight{index}", size)
    for index, size in enumerate(draw(st.lists(st.sampled_from([2, 3, 4, 6]), max_size=3))):
        labels.add(f"made{index}", size, stored=False)
    places = st.integers(0, len(labels.dims) - 1)
    for first, second, turned in draw(st.lists(st.tuples(places, places, st.booleans()), max_size=5)):
        one, other = labels.dims[first], labels.dims[second]
        one = one.flip(0) if turned else one
        labels.space.union(one[torch.arange(len(other)) % len(one)], other, CAUSE)
    label = st.integers(0, labels.space.size - 1)
    for first, second in draw(st.lists(st.tuples(label, label), max_size=3)):
        labels.space.union(torch.tensor([first]), torch.tensor([second]), CAUSE)
    for parts in draw(st.lists(st.lists(places, min_size=1, max_size=2), max_size=3)):
        labels.moved.append(torch.cat([labels.dims[part] for part in parts]))
    for picked in draw(st.lists(st.lists(label, min_size=4, max_size=4), max_size=2)):
        labels.moved.append(torch.tensor(picked).view(2, 2))
    return labels


def naive(labels: Labels) -> tuple[list[int], list[tuple[int, dict[str, int]]]]:
    """The channel of each label, and of each group the number of channels and how often each stored dim has one."""
    space, root = labels.space, labels.space.solve().tolist()
    owner_of = {label: owner for owner in space.owners if owner.stored for label in owner.labels.tolist()}
    classes = sorted({root[label] for label in owner_of} - {PINNED})
    members = {one: Counter(owner.name for label, owner in owner_of.items() if root[label] == one) for one in classes}
    held = [{root[label] for label in plane.flatten().tolist()} for plane in labels.moved]
    held = [roots for roots in held if roots <= set(classes)]  # the others keep something in any case
    alike: dict[object, list[int]] = {}
    for one in classes:
        key = frozenset(members[one].items()), tuple(one in roots for roots in held)
        alike.setdefault(key, []).append(one)
    order = [one for group in alike.values() for one in group]
    channels = [order.index(one) if one in order else NOT_PRUNABLE for one in root]
    return channels, [(len(group), dict(members[group[0]])) for group in alike.values()]


@settings(max_examples=300)
@given(labelled())
def test_channels_and_groups_are_those_of_the_oracle(labels: Labels) -> None:
    channel_of, groups = labels.numbered()
    channels, expected = naive(labels)
    assert channel_of.tolist() == channels
    found = [(group.channels, {member.name: member.per_channel for member in group.members}) for group in groups]
    assert found == expected
    assert [list(names) for _, names in found] == [list(names) for _, names in expected], "members in order, too"
    assert [group.id for group in groups] == [f"g{index}" for index in range(len(groups))]


@given(labelled())
def test_groups_partition_the_channels(labels: Labels) -> None:
    channel_of, groups = labels.numbered()
    covered = [channel for group in groups for channel in range(group.start, group.stop)]
    assert covered == list(range(len(covered)))
    assert set(channel_of.tolist()) - {NOT_PRUNABLE} == set(covered)


@given(labelled())
def test_every_channel_of_a_group_takes_as_many_indices_of_each_member(labels: Labels) -> None:
    channel_of, groups = labels.numbered()
    indices = Counter[tuple[str, int]]()
    for owner in labels.space.owners:
        if owner.stored:
            indices.update((owner.name, int(channel)) for channel in channel_of[owner.labels])
    for group in groups:
        for channel in range(group.start, group.stop):
            found = {name: count for (name, one), count in indices.items() if one == channel}
            assert found == {member.name: member.per_channel for member in group.members}


@given(labelled())
def test_labels_have_the_channel_of_their_class_and_frozen_ones_none(labels: Labels) -> None:
    root = labels.space.solve()
    channel_of, _ = labels.numbered()
    assert torch.equal(channel_of, channel_of[root])
    assert bool((channel_of[root == PINNED] == NOT_PRUNABLE).all())
    stored = torch.arange(labels.space.size) < labels.space.stored_size
    assert bool((channel_of[stored & (root != PINNED)] != NOT_PRUNABLE).all())
    reached = {int(label) for label in channel_of.unique() if label != NOT_PRUNABLE}
    assert len(reached) == len({int(one) for one in root[stored] if one != PINNED}), "one channel for each class"


@given(labelled())
def test_groups_come_in_the_order_of_their_first_parameters(labels: Labels) -> None:
    channel_of, groups = labels.numbered()
    firsts = [int((channel_of == channel).nonzero()[0]) for channel in range(groups[-1].stop if groups else 0)]
    starts = [firsts[group.start] for group in groups]
    assert starts == sorted(starts)
    for group in groups:
        inside = firsts[group.start : group.stop]
        assert inside == sorted(inside), "and channels in the order of their first indices"


def test_nothing_to_number() -> None:
    empty = Labels()
    assert empty.numbered()[0].tolist() == [NOT_PRUNABLE] and empty.numbered()[1] == ()
    frozen = Labels()
    frozen.space.pin(frozen.add("weight", 3), CAUSE)
    frozen.add("zeros", 2, stored=False)
    channel_of, groups = frozen.numbered()
    assert channel_of.tolist() == [NOT_PRUNABLE] * 6 and groups == ()


def test_what_the_program_makes_is_a_channel_only_with_a_parameter() -> None:
    labels = Labels()
    labels.space.union(labels.add("weight", 2), labels.add("zeros", 3, stored=False)[1:], CAUSE)
    channel_of, groups = labels.numbered()
    assert channel_of.tolist() == [NOT_PRUNABLE, 0, 1, NOT_PRUNABLE, 0, 1]
    assert [member.name for member in groups[0].members] == ["weight"]


def test_flattened_features_count_as_often_as_they_occur() -> None:
    labels = Labels()
    conv, linear = labels.add("conv", 3), labels.add("linear", 12)
    labels.space.union(conv.repeat_interleave(4), linear, CAUSE)
    channel_of, (group,) = labels.numbered()
    assert group.members == (Member("conv", 0, 1), Member("linear", 0, 4))
    assert channel_of[linear].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (group.name, group.channels, group.indices_per_channel) == ("conv", 3, 1)
    assert group.dims == {("conv", 0), ("linear", 0)}


def split(*, frozen: bool) -> tuple[Group, ...]:
    """A dim whose two halves are cut apart; a part of the first half is frozen, or not."""
    labels = Labels()
    whole = labels.add("weight", 6)
    labels.moved += [whole[:3], whole[3:]]
    if frozen:
        labels.space.pin(whole[:1], CAUSE)
    return labels.numbered()[1]


def test_parts_of_a_tensor_are_groups_of_their_own() -> None:
    assert [(group.start, group.stop) for group in split(frozen=False)] == [(0, 3), (3, 6)]
    assert [group.members for group in split(frozen=False)] == [(Member("weight", 0, 1),)] * 2


def test_a_part_that_keeps_something_frozen_still_parts_from_one_that_could_be_emptied() -> None:
    assert [(group.start, group.stop) for group in split(frozen=True)] == [(0, 2), (2, 5)]


def test_a_whole_that_was_moved_is_one_group() -> None:
    labels = Labels()
    whole = labels.add("weight", 6)
    labels.moved += [whole, whole.view(2, 3), whole.flip(0)]
    assert [group.channels for group in labels.numbered()[1]] == [6]


def test_a_part_with_what_belongs_to_no_parameter_separates_nothing() -> None:
    labels = Labels()
    whole, zeros = labels.add("weight", 4), labels.add("zeros", 1, stored=False)
    labels.moved.append(torch.cat([whole[:2], zeros]))
    assert [group.channels for group in labels.numbered()[1]] == [4]


def test_channels_of_one_group_need_not_lie_together() -> None:
    labels = Labels()
    first, second = labels.add("first", 4), labels.add("second", 2)
    labels.space.union(first[::2], second, CAUSE)
    channel_of, groups = labels.numbered()
    assert channel_of[first].tolist() == [0, 2, 1, 3] and channel_of[second].tolist() == [0, 1]
    assert [(group.start, group.stop, group.name) for group in groups] == [(0, 2, "first"), (2, 4, "first")]


def test_members_are_told_apart_by_dims() -> None:
    space = LabelSpace()
    rows, columns = space.allocate("weight", 0, 2, stored=True), space.allocate("weight", 1, 2, stored=True)
    _, groups = number_channels(space, space.solve(), [])
    assert [group.members for group in groups] == [(Member("weight", 0, 1),), (Member("weight", 1, 1),)]
    space.union(rows, columns, CAUSE)
    _, groups = number_channels(space, space.solve(), [])
    assert [group.members for group in groups] == [(Member("weight", 0, 1), Member("weight", 1, 1))]
