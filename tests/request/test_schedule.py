"""Schedules against the paper's numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import OptionError
from graphprune.request.schedule import SCHEDULES, Schedule, targets_of


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.90, [0.5, 0.7, 0.8, 0.85, 0.875, 0.8875, 0.9]),
        (0.98, [0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]),
        (0.4, [0.2, 0.3, 0.35, 0.375, 0.3875, 0.39375, 0.4]),
    ],
)
def test_the_papers_halving(sparsity: float, expected: list[float]) -> None:
    assert targets_of("halving", sparsity) == pytest.approx(expected, abs=1e-12)


def test_geometric_removes_the_same_share_of_what_is_left() -> None:
    densities = [1.0, *(1 - target for target in targets_of("geometric", 0.999))]
    ratios = [after / before for before, after in pairwise(densities)]
    assert ratios == pytest.approx([ratios[0]] * 7)


def test_linear_removes_the_same_share_of_the_original() -> None:
    assert targets_of("linear", 0.7) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_one_shot() -> None:
    assert targets_of("one-shot", 0.3) == [0.3]


@given(st.floats(0, 0.999), st.sampled_from(SCHEDULES.names()))
def test_every_schedule_ascends_to_exactly_the_goal(sparsity: float, name: str) -> None:
    targets = targets_of(name, sparsity)
    assert targets[-1] == sparsity
    assert targets == sorted(targets) and targets[0] >= 0


def test_a_function_is_a_schedule() -> None:
    assert targets_of(lambda sparsity: [sparsity / 2, sparsity], 0.5) == [0.25, 0.5]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda s: [],
        lambda s: [s, s / 2],
        lambda s: [s / 2],
        lambda s: [-0.1, s],
        lambda s: [0.9, s],
        lambda s: [float("nan")],
    ],
)
def test_functions_that_do_not_lead_to_the_goal(schedule: Schedule) -> None:
    with pytest.raises(OptionError, match=r"expected ascending sparsities that end at 0.5, got \["):
        targets_of(schedule, 0.5)


def test_an_unknown_name() -> None:
    message = "schedule 'halve' is unknown; known are geometric, halving, linear, one-shot"
    with pytest.raises(OptionError, match=message):
        targets_of("halve", 0.5)


def test_something_else() -> None:
    with pytest.raises(OptionError, match="expected a name or a function, got float"):
        targets_of(0.5, 0.5)  # type: ignore[arg-type]
