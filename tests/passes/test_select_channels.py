"""select-channels: fills in the selection, and checks it against the goal and the limits."""

from __future__ import annotations

import pytest
import torch

from graphprune.criteria.scores import Scores
from graphprune.errors import BudgetError, InternalError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.select_channels import SelectChannels
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection
from tests.small_models import Residual, analysed, images

IMPORTANCE = torch.arange(18.0)


def scored() -> Program:
    program, _ = analysed(Residual(), images())
    return program.knowing(Scores(IMPORTANCE, "test"))


def test_the_selection_is_filled_in_and_nothing_else_changes() -> None:
    program = scored()
    result = SelectChannels(Goal({"channels": 14}), Limits()).run(program)
    assert result.modified and result.program.module is program.module and Selection not in program
    assert result.program[Selection].keep.tolist() == [False] * 4 + [True] * 14
    assert result.remarks == ("4 of 18 channels go",)


def test_what_a_floor_held_back_is_remarked() -> None:
    result = SelectChannels(Goal({"channels": 12}), Limits(min_channels=4)).run(scored())
    assert result.remarks[1:] == (
        "g0 (stem.weight) at its floor of 4 of 6 channels",
        "g1 (conv1.weight) at its floor of 4 of 4 channels",
    )


def test_a_goal_that_is_met_keeps_everything() -> None:
    result = SelectChannels(Goal({"channels": 18}), Limits()).run(scored())
    assert Selection in result.program and bool(result.program[Selection].keep.all())


def test_a_second_run_selects_the_same() -> None:
    once = Runner().run([SelectChannels(Goal({"channels": 9}), Limits())], scored())
    twice = Runner().run([SelectChannels(Goal({"channels": 9}), Limits())], once)
    assert torch.equal(once[Selection].keep, twice[Selection].keep)


def test_a_goal_out_of_reach() -> None:
    with pytest.raises(BudgetError, match="channels: at most 2 asked for, 3 are left at the least"):
        Runner().run([SelectChannels(Goal({"channels": 2}), Limits())], scored())


def test_without_scores_it_is_refused() -> None:
    program, _ = analysed(Residual(), images())
    with pytest.raises(InternalError, match="select-channels needs Scores"):
        Runner().run([SelectChannels(Goal({"channels": 9}), Limits())], program)


def test_a_selection_that_breaks_its_promise_is_caught() -> None:
    program = scored()
    keep = torch.ones(18, dtype=torch.bool)
    keep[1:6] = False
    claim = PassResult(program.knowing(Selection(keep)), True)
    transformation = SelectChannels(Goal({"channels": 9}), Limits(min_channels=2))
    assert transformation.ensures(program, claim) == [
        "the goal is not met",
        "group g0 keeps 1 of 6 channels, which the limits forbid",
    ]
