"""Selection: exact counts, ties, floors, alignment and budgets, against a brute-force oracle on small cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphprune.costs.model import CostModel
from graphprune.errors import BudgetError
from graphprune.labels.keep_set import KeepSet
from graphprune.request.budget import Budget
from graphprune.request.limits import Limits
from graphprune.selection.channels import check_reachable, select
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection
from tests.small_models import CLASSES, Mlp, Residual, analysed, images


def mlp(*widths: int) -> nn.Module:
    """Hidden layers of these widths: one group each, in this order."""
    sizes = [5, *widths]
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def costs_of(*widths: int) -> CostModel:
    program, dependencies = analysed(mlp(*widths), torch.randn(2, 5))
    return CostModel(program, dependencies)


def kept(costs: CostModel, selection: Selection) -> list[int]:
    return [int(selection.keep[group.start : group.stop].sum()) for group in costs.dependencies.groups]


def goal(costs: CostModel, **shares: float) -> Goal:
    everything = KeepSet.everything(costs.dependencies)
    original = {name: getattr(costs, name)(everything) for name in ("channels", "params", "macs")}
    return Goal.of(Budget(**shares), original)  # type: ignore[arg-type]


COSTS = costs_of(6, 4)


def test_exactly_the_least_important_channels_go() -> None:
    importance = torch.tensor([5.0, 1, 7, 2, 9, 8, 3, 6, 4, 10])
    for removed in range(9):
        selection = select(COSTS, importance, Goal({"channels": 10 - removed}), Limits())
        if 10 - removed >= 2:
            assert int((~selection.keep).sum()) == removed
    selection = select(COSTS, importance, Goal({"channels": 6}), Limits())
    assert (~selection.keep).nonzero().flatten().tolist() == [1, 3, 6, 8]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.8])
def test_shares_are_met_exactly(share: float) -> None:
    selection = select(COSTS, torch.rand(10), goal(COSTS, channels=share), Limits())
    assert int((~selection.keep).sum()) == round(10 * share)


def test_shares_are_the_decimal_fractions_that_they_look_like() -> None:
    """In floats 1000 * (1 - 0.9) is less than 100."""
    original = {"channels": 1000, "params": 1000, "macs": 100}
    assert Goal.of(Budget(params=0.9), original).limits == {"params": 100}  # type: ignore[arg-type]
    assert Goal.of(Budget(macs=0.55), original).limits == {"macs": 45}  # type: ignore[arg-type]
    assert Goal.of(Budget(params=0.0005), original).limits == {"params": 999}  # type: ignore[arg-type]


def test_a_goal_that_is_met_removes_nothing() -> None:
    assert bool(select(COSTS, torch.rand(10), Goal({"channels": 10}), Limits()).keep.all())


def test_ties_go_evenly_and_from_the_front() -> None:
    costs = costs_of(8, 4)
    selection = select(costs, torch.zeros(12), Goal({"channels": 6}), Limits())
    assert kept(costs, selection) == [4, 2]
    assert selection.keep[:8].tolist() == [False] * 4 + [True] * 4


def test_ties_are_stable() -> None:
    importance = torch.tensor([1.0, 1, 1, 0, 0, 0, 2, 2, 1, 1])
    first = select(COSTS, importance, Goal({"channels": 5}), Limits())
    second = select(COSTS, importance.clone(), Goal({"channels": 5}), Limits())
    assert torch.equal(first.keep, second.keep)


def test_a_layer_is_never_emptied() -> None:
    importance = torch.tensor([0.0] * 6 + [1.0] * 4)
    selection = select(COSTS, importance, Goal({"channels": 3}), Limits())
    assert kept(COSTS, selection) == [1, 2]
    assert selection.bound == ("g0 (0.weight) at its floor of 1 of 6 channels",)


@pytest.mark.parametrize("floor", [3, lambda size: size // 2])
def test_floors_move_removals_to_the_next_ranked_channels(floor: object) -> None:
    importance = torch.tensor([0.0] * 6 + [1.0] * 4)
    limits = Limits(min_channels=floor)  # type: ignore[arg-type]
    selection = select(COSTS, importance, Goal({"channels": 6}), limits)
    assert kept(COSTS, selection) == [3, 3]


def test_a_floor_above_the_width_keeps_the_whole_layer() -> None:
    selection = select(COSTS, torch.arange(10.0).flip(0), Goal({"channels": 9}), Limits(min_channels=5))
    assert kept(COSTS, selection) == [5, 4]


def test_floors_count_from_the_width_before_the_first_round() -> None:
    limits = Limits(min_channels=lambda size: size // 2).at_first(COSTS.dependencies)
    group = COSTS.dependencies.groups[0]
    assert limits.floor(group) == 3
    assert limits.floor(replace(group, stop=group.start + 4)) == 3, "and not half of what is left"
    assert Limits(min_channels=lambda size: size // 2).floor(replace(group, stop=group.start + 4)) == 2


def test_alignment() -> None:
    costs = costs_of(16, 12)
    importance = torch.rand(28)
    selection = select(costs, importance, Goal({"channels": 15}), Limits(align=4))
    widths = kept(costs, selection)
    assert all(width % 4 == 0 for width in widths) and sum(widths) == 12


def test_alignment_brings_an_unaligned_width_in_line_when_it_shrinks() -> None:
    costs = costs_of(10, 7)
    selection = select(costs, torch.rand(17), Goal({"channels": 12}), Limits(align=4))
    assert all(width % 4 == 0 or width == full for width, full in zip(kept(costs, selection), (10, 7), strict=True))


def test_blocks_of_equal_channels_keep_their_order_in_spite_of_roundings() -> None:
    costs = costs_of(10, 23)
    importance = torch.full((33,), 0.1, dtype=torch.float64)
    for limit in range(9, 33):
        selection = select(costs, importance, Goal({"channels": limit}), Limits(align=4))
        assert all(w % 4 == 0 or w == full for w, full in zip(kept(costs, selection), (10, 23), strict=True))


def test_flattened_features_count_for_alignment() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    _, dependencies = analysed(model, torch.randn(2, 2, 4, 4))
    assert [Limits(align=4).step(group) for group in dependencies.groups] == [4, 4]
    heads = replace(dependencies.groups[0], members=(replace(dependencies.groups[0].members[0], per_channel=6),))
    assert Limits(align=4).step(heads) == 2, "two channels of six indices are a multiple of four"


@pytest.mark.parametrize("measure", ["params", "macs"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cost_budgets_are_met_with_as_few_removals_as_the_ranking_allows(measure: str, share: float) -> None:
    program, dependencies = analysed(Residual(), images())
    costs = CostModel(program, dependencies)
    importance, target = torch.rand(dependencies.channels), goal(costs, **{measure: share})
    keep = select(costs, importance, target, Limits()).keep
    assert target.is_met(costs, keep)
    most_important = (~keep).nonzero().flatten()
    last = most_important[importance[most_important].argmax()]
    keep[last] = True
    assert not target.is_met(costs, keep)


def test_several_budgets_hold_at_once() -> None:
    program, dependencies = analysed(Residual(), images())
    costs = CostModel(program, dependencies)
    importance = torch.rand(dependencies.channels)
    both = goal(costs, channels=0.3, params=0.6, macs=0.5)
    keep = select(costs, importance, both, Limits()).keep
    for name in ("channels", "params", "macs"):
        share = {"channels": 0.3, "params": 0.6, "macs": 0.5}[name]
        alone = select(costs, importance, goal(costs, **{name: share}), Limits()).keep
        assert bool((keep <= alone).all()), f"{name} alone needs no more than all together"
    assert both.is_met(costs, keep)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(min_channels=3), r"min_channels=3, align=1 keep g0 \(0.weight\): 3 of 6; g1 \(2.weight\): 3 of 4"),
        (Limits(align=4), r"min_channels=1, align=4 keep g0 \(0.weight\): 4 of 6; g1 \(2.weight\): 4 of 4"),
        (Limits(), "each of the 2 groups keeps one channel"),
    ],
)
def test_budgets_out_of_reach_name_what_binds(limits: Limits, message: str) -> None:
    target = Goal({"channels": 1})
    with pytest.raises(BudgetError, match=message) as caught:
        select(COSTS, torch.rand(10), target, limits)
    assert "channels: at most 1 asked for" in str(caught.value)
    with pytest.raises(BudgetError, match=message):
        check_reachable(COSTS, target, limits)


def test_a_floor_given_as_a_function_is_named_without_its_address() -> None:
    def half(size: int) -> int:
        return size // 2

    with pytest.raises(BudgetError, match="min_channels=half, align=1 keep g0"):
        check_reachable(COSTS, Goal({"channels": 1}), Limits(half))


WIDTHS = ((3, 2), (4, 3), (2, 5), (6, 1), (5, 5))
SMALL = {widths: costs_of(*widths) for widths in WIDTHS}


def brute_force(costs: CostModel, importance: Tensor, target: Goal, limits: Limits) -> Tensor | None:
    """Walks down the ranking one permitted block at a time until the goal is met."""
    groups = costs.dependencies.groups
    keep = torch.ones(costs.dependencies.channels, dtype=torch.bool)
    while not target.is_met(costs, keep):
        best: tuple[float, list[int]] | None = None
        for group in groups:
            left = [c for c in range(group.start, group.stop) if keep[c]]
            counts = [count for count in limits.counts(group) if count < len(left)]
            if not counts:
                continue
            gone = sorted(left, key=lambda channel: (float(importance[channel]), channel))[: len(left) - counts[0]]
            mean = sum(float(importance[channel]) for channel in gone) / len(gone)
            if best is None or mean < best[0]:
                best = (mean, gone)
        if best is None:
            return None
        keep[best[1]] = False
    return keep


@settings(max_examples=150)
@given(
    widths=st.sampled_from(WIDTHS),
    order=st.permutations(list(range(10))),
    share=st.floats(0.0, 0.95),
    measure=st.sampled_from(["channels", "params", "macs"]),
    floor=st.integers(1, 3),
)
def test_selection_equals_brute_force(
    widths: tuple[int, int], order: list[int], share: float, measure: str, floor: int
) -> None:
    costs = SMALL[widths]
    importance = torch.tensor(order[: costs.dependencies.channels], dtype=torch.float64)
    target, limits = goal(costs, **{measure: share}), Limits(min_channels=floor)
    expected = brute_force(costs, importance, target, limits)
    if expected is None:
        with pytest.raises(BudgetError):
            select(costs, importance, target, limits)
        return
    assert torch.equal(select(costs, importance, target, limits).keep, expected)


@settings(max_examples=150)
@given(
    widths=st.sampled_from(WIDTHS),
    importance=st.lists(st.integers(0, 3), min_size=10, max_size=10),
    share=st.floats(0.0, 0.9),
    align=st.integers(1, 3),
)
def test_what_always_holds(widths: tuple[int, int], importance: list[int], share: float, align: int) -> None:
    costs, limits = SMALL[widths], Limits(align=align)
    scores = torch.tensor(importance[: costs.dependencies.channels], dtype=torch.float64)
    target = goal(costs, channels=share)
    if brute_force(costs, scores, target, limits) is None:
        with pytest.raises(BudgetError):
            select(costs, scores, target, limits)
        return
    selection = select(costs, scores, target, limits)
    assert target.is_met(costs, selection.keep)
    for group, left in zip(costs.dependencies.groups, kept(costs, selection), strict=True):
        assert left == group.channels or left in limits.counts(group)
        of_group = slice(group.start, group.stop)
        gone, stays = scores[of_group][~selection.keep[of_group]], scores[of_group][selection.keep[of_group]]
        assert len(gone) == 0 or gone.max() <= stays.min(), "within a group the least important go"
    if align == 1:
        left = costs.channels(KeepSet.of(costs.dependencies, selection.keep))
        assert left == target.limits["channels"], "exactly as many as asked for"


def test_no_removal_is_wasted_under_alignment() -> None:
    """The last block is replaced by a smaller one where that is enough."""
    costs = costs_of(8, 2)
    importance = torch.tensor([0.0, 0, 0, 0, 5, 5, 5, 5, 6, 6])
    selection = select(costs, importance, Goal({"channels": 9}), Limits(align=2))
    assert sum(kept(costs, selection)) == 8


def test_mlp_groups_are_as_expected() -> None:
    _, dependencies = analysed(Mlp((6, 4)), torch.randn(2, 5))
    assert [group.channels for group in dependencies.groups] == [6, 4]
