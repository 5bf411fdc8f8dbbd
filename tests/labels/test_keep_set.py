"""What is kept of a program: labels, sizes, indices and groups say the same, index by index."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import NOT_PRUNABLE
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.labels import LabelSpace
from graphprune.program.tensors import Kept
from tests.small_models import NETWORKS, Chain, analysed, group_of, images

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **NETWORKS,
    "flattened": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3)), (2, 6, 6)),
}


@cache
def dependencies_of(name: str) -> Dependencies:
    factory, shape = MODELS[name]
    return analysed(factory(), torch.randn(2, *shape))[1]


@st.composite
def keep_sets(draw: st.DrawFn) -> KeepSet:
    """Any channels of any of the models, of all channels to none of them."""
    dependencies = dependencies_of(draw(st.sampled_from(sorted(MODELS))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    return KeepSet(dependencies, torch.rand(dependencies.channels, generator=generator) < share)


def stays(keep: KeepSet, label: int) -> bool:
    channel = int(keep.dependencies.channel_of[label])
    return channel == NOT_PRUNABLE or bool(keep.channels[channel])


def naive_indices(keep: KeepSet) -> dict[tuple[str, int], list[int]]:
    """Indices that stay, of each stored dim."""
    return {
        (owner.name, owner.dim): [index for index in range(owner.size) if stays(keep, owner.start + index)]
        for owner in keep.dependencies.space.owners
        if owner.stored
    }


def as_lists(kept: Kept) -> dict[tuple[str, int], list[int]]:
    return {key: indices.tolist() for key, indices in kept.items()}


def stored_sizes(dependencies: Dependencies) -> dict[tuple[str, int], int]:
    return {(owner.name, owner.dim): owner.size for owner in dependencies.stored}


@settings(max_examples=200)
@given(keep_sets())
def test_labels_sizes_and_indices_are_those_of_the_oracle(keep: KeepSet) -> None:
    assert keep.labels.tolist() == [stays(keep, label) for label in range(keep.dependencies.space.size)]
    expected, full = naive_indices(keep), stored_sizes(keep.dependencies)
    assert keep.sizes.tolist() == [len(indices) for indices in expected.values()]
    shrunk = {key: indices for key, indices in expected.items() if len(indices) < full[key]}
    assert as_lists(keep.indices) == shrunk
    assert list(keep.indices) == list(shrunk), "in the order of the dims"
    assert all(indices.dtype == torch.long for indices in keep.indices.values())


@given(keep_sets())
def test_groups_and_removals_are_counted(keep: KeepSet) -> None:
    groups = keep.dependencies.groups
    assert keep.left_of_groups == [sum(keep.channels[group.start : group.stop].tolist()) for group in groups]
    assert keep.removed == keep.channels.tolist().count(False)
    assert sum(keep.left_of_groups) + keep.removed == keep.dependencies.channels


@given(keep_sets())
def test_each_member_loses_as_many_indices_as_its_group_says(keep: KeepSet) -> None:
    lost = dict.fromkeys(stored_sizes(keep.dependencies), 0)
    for group, left in zip(keep.dependencies.groups, keep.left_of_groups, strict=True):
        for member in group.members:
            lost[member.name, member.dim] += (group.channels - left) * member.per_channel
    left_of_dims = dict(zip(stored_sizes(keep.dependencies), keep.sizes.tolist(), strict=True))
    assert {key: size - lost[key] for key, size in stored_sizes(keep.dependencies).items()} == left_of_dims


@given(keep_sets())
def test_the_channels_are_found_again_from_the_indices(keep: KeepSet) -> None:
    again = KeepSet.of_indices(keep.dependencies, keep.indices)
    assert torch.equal(again.channels, keep.channels)
    assert as_lists(again.indices) == as_lists(keep.indices)


@given(keep_sets(), st.data())
def test_a_channel_that_indices_take_apart_goes_as_a_whole(keep: KeepSet, data: st.DataObject) -> None:
    """Of any one dim one more index: a channel's, which goes everywhere then, or a frozen one, which stays."""
    full = stored_sizes(keep.dependencies)
    key = data.draw(st.sampled_from([key for key, indices in naive_indices(keep).items() if indices]))
    kept = keep.indices
    before = kept.get(key, torch.arange(full[key]))
    gone = int(before[data.draw(st.integers(0, len(before) - 1))])
    channel = int(keep.dependencies.classes()[key][gone])
    found = KeepSet.of_indices(keep.dependencies, {**kept, key: before[before != gone]})
    expected = keep.channels.clone()
    if channel != NOT_PRUNABLE:
        expected[channel] = False
    assert torch.equal(found.channels, expected)
    assert (gone in naive_indices(found)[key]) == (channel == NOT_PRUNABLE)


def test_indices_of_one_side_of_a_coupling_take_the_other_side_along() -> None:
    dependencies = dependencies_of("chain")
    found = KeepSet.of_indices(dependencies, {("fc.weight", 1): torch.tensor([0, 1, 3, 4, 5])})
    assert found.removed == 1
    assert found.indices["conv.weight", 0].tolist() == found.indices["norm.running_mean", 0].tolist() == [0, 1, 3, 4, 5]


def test_of_no_indices_everything_stays() -> None:
    assert KeepSet.of_indices(dependencies_of("residual"), {}).removed == 0


@pytest.mark.parametrize("name", MODELS)
def test_everything(name: str) -> None:
    keep = KeepSet.everything(dependencies_of(name))
    assert keep.removed == 0 and keep.indices == {} and bool(keep.labels.all())
    assert keep.left_of_groups == [group.channels for group in keep.dependencies.groups]
    assert keep.sizes.tolist() == [owner.size for owner in keep.dependencies.stored]


@given(keep_sets(), st.data())
def test_without_some_channels(keep: KeepSet, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, keep.dependencies.channels))
    stop = data.draw(st.integers(start, keep.dependencies.channels))
    before, removed = keep.channels.clone(), keep.removed
    less = keep.without(slice(start, stop))
    assert less.channels.tolist() == [bool(kept) and not start <= channel < stop for channel, kept in enumerate(before)]
    assert torch.equal(keep.channels, before) and keep.removed == removed, "the keep set itself is as it was"


def test_nothing_can_go_where_all_is_protected() -> None:
    keep = KeepSet.everything(analysed(Chain(), images(), ("*",))[1])
    assert keep.dependencies.channels == 0 and keep.left_of_groups == [] and keep.removed == 0
    assert keep.indices == {} and bool(keep.labels.all())


def test_a_program_without_stored_dims() -> None:
    dependencies = Dependencies(LabelSpace(), torch.tensor([NOT_PRUNABLE]), (), {}, ())
    keep = KeepSet.everything(dependencies)
    assert keep.labels.tolist() == [True] and keep.indices == {} and keep.sizes.tolist() == []
    assert KeepSet.of_indices(dependencies, {}).channels.shape == (0,)


# --- remembered keep sets ---------------------------------------------------------------------------------------------


def test_the_same_tensor_has_the_same_keep_set() -> None:
    dependencies = dependencies_of("chain")
    channels = torch.ones(6, dtype=torch.bool)
    keep = KeepSet.of(dependencies, channels)
    assert KeepSet.of(dependencies, channels) is keep
    other = KeepSet.of(dependencies, channels.clone())
    assert other is not keep and torch.equal(other.channels, keep.channels)


@pytest.mark.parametrize(
    "write", [lambda c: c[2:].zero_(), lambda c: c.__setitem__(0, False), lambda c: c.logical_not_()]
)
def test_what_is_written_in_place_is_noticed(write: Callable[[Tensor], object]) -> None:
    dependencies = dependencies_of("chain")
    channels = torch.ones(6, dtype=torch.bool)
    assert KeepSet.of(dependencies, channels).indices == {}
    write(channels)
    keep = KeepSet.of(dependencies, channels)
    assert as_lists(keep.indices)["conv.weight", 0] == channels.nonzero().flatten().tolist()
    assert KeepSet.of(dependencies, channels) is keep, "until the next write"


def test_writes_to_tensors_of_inference_mode_are_noticed() -> None:
    """Those have no version that counts writes."""
    dependencies = dependencies_of("chain")
    with torch.inference_mode():
        channels = torch.ones(6, dtype=torch.bool)
        assert KeepSet.of(dependencies, channels).indices == {}
        channels[0] = False
    assert as_lists(KeepSet.of(dependencies, channels).indices)["conv.weight", 0] == [1, 2, 3, 4, 5]


def test_programs_do_not_share_keep_sets() -> None:
    first, second = (analysed(Chain(), images())[1] for _ in range(2))
    channels = torch.ones(6, dtype=torch.bool)
    assert KeepSet.of(first, channels).dependencies is first
    assert KeepSet.of(second, channels).dependencies is second


def test_group_bounds_hold_for_a_group_in_the_middle() -> None:
    dependencies = dependencies_of("residual")
    group = group_of(dependencies, "conv1.weight")
    keep = KeepSet.everything(dependencies).without(slice(group.start, group.stop - 1))
    expected = [1 if one is group else one.channels for one in dependencies.groups]
    assert keep.left_of_groups == expected and keep.removed == group.channels - 1
