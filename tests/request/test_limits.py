"""Limits: floors, steps and the numbers of channels that they leave, against brute force."""

from __future__ import annotations

from dataclasses import replace
from math import lcm

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group, Member
from graphprune.labels.labels import LabelSpace
from graphprune.request.limits import Limits

SMALL = st.integers(1, 12)


def group_of(channels: int, *per_channel: int, name: str = "weight") -> Group:
    members = tuple(Member(f"{name}{index}", 0, count) for index, count in enumerate(per_channel or (1,)))
    return Group("g0", 0, channels, members)


def having(*groups: Group) -> Dependencies:
    return Dependencies(LabelSpace(), torch.tensor([-1]), groups, {}, ())


@given(st.integers(1, 40), st.lists(SMALL, min_size=1, max_size=3), SMALL, SMALL, st.integers(1, 50))
def test_counts_are_all_that_the_limits_allow(
    channels: int, per_channel: list[int], align: int, step: int, floor: int
) -> None:
    group = group_of(channels, *per_channel)
    limits = Limits(floor, align).with_steps(having(group), [step])
    allowed = [
        count
        for count in reversed(range(channels))
        if count >= floor and count >= 1 and count * min(per_channel) % align == 0 and count % step == 0
    ]
    assert list(limits.counts(group)) == allowed


@given(st.integers(1, 40), SMALL, SMALL, SMALL)
def test_a_step_is_the_smallest_that_keeps_the_width_aligned(
    channels: int, indices: int, align: int, step: int
) -> None:
    group = group_of(channels, indices, 3 * indices)
    limits = Limits(align=align).with_steps(having(group), [step])
    fitting = (n for n in range(1, align * step + 1) if n * indices % align == 0 and n % step == 0)
    assert limits.step(group) == next(fitting)


@given(st.integers(1, 40), st.integers(-3, 50))
def test_a_floor_is_between_one_channel_and_all(channels: int, wanted: int) -> None:
    group = group_of(channels)
    expected = sorted([1, wanted, channels])[1]
    assert Limits(wanted).floor(group) == expected
    assert Limits(lambda size: wanted).floor(group) == expected


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_function_is_asked_for_the_width_before_the_first_round(first: int, left: int) -> None:
    asked: list[int] = []

    def half(size: int) -> int:
        asked.append(size)
        return size // 2

    group = group_of(first)
    limits = Limits(half).at_first(having(group))
    assert limits.floor(replace(group, stop=left)) == max(1, min(first // 2, left))
    assert asked == [first]


def test_groups_are_known_by_their_members() -> None:
    first, second = group_of(10, 1, 2), group_of(20, 1, name="other")
    limits = Limits(lambda size: size // 2).at_first(having(first, second)).with_steps(having(first, second), [4, 3])
    for group, floor, step in ((first, 5, 4), (second, 10, 3)):
        later = Group("g7", 100, 100 + group.channels, group.members[::-1])
        assert (limits.floor(later), limits.step(later)) == (floor, step)
    unknown = group_of(8, name="new")
    assert (limits.floor(unknown), limits.step(unknown)) == (4, 1)


def test_limits_are_not_changed_in_place() -> None:
    limits = Limits(2, 4)
    group = group_of(8)
    limits.at_first(having(group)), limits.with_steps(having(group), [2])
    assert limits == Limits(2, 4)


@pytest.mark.parametrize("given_back", [2.0, "2", None])
def test_a_function_that_gives_no_whole_number_is_named(given_back: object) -> None:
    with pytest.raises(OptionError) as caught:
        Limits(lambda size: given_back).floor(group_of(6))  # type: ignore[arg-type, return-value]
    assert str(caught.value) == f"min_channels(6) gives {given_back!r}; expected a whole number of channels"


def test_without_limits_all_counts_above_zero_are_allowed() -> None:
    assert list(Limits().counts(group_of(5))) == [4, 3, 2, 1]
    assert list(Limits().counts(group_of(1))) == []


def test_the_member_with_the_fewest_indices_tells_the_width() -> None:
    group = group_of(16, 4, 2, 8)
    assert [Limits(align=align).step(group) for align in (1, 2, 4, 6, 8)] == [1, 1, 2, 3, 4]
    assert Limits(align=8).with_steps(having(group), [6]).step(group) == lcm(4, 6)
