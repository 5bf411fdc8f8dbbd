"""select-widths: the narrowest loss of importance for a latency and a goal, under hard limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.costs.model import costs_of
from graphprune.criteria.scores import Scores
from graphprune.errors import BudgetError, InternalError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.latency.model import LatencyModel
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.select_widths import SelectWidths
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection
from tests.latency.stepped import HERE, Stepped
from tests.small_models import analysed


def scored(step: int = 4) -> tuple[Program, LatencyModel]:
    """Two groups of 16 channels, on a target that works in steps of so many."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)
    )
    program, dependencies = analysed(model, torch.randn(2, 3, 8, 8))
    drawn = torch.rand(dependencies.channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = program.knowing(Scores(drawn, "test"))
    return known, LatencyModel(known, Stepped(HERE, step=step))


def full_ms(model: LatencyModel) -> float:
    return float(model.ms(model.full))


def left(program: Program) -> list[int]:
    return list(KeepSet.of(program[Dependencies], program[Selection].keep).left_of_groups)


def predicted_ms(model: LatencyModel, program: Program) -> float:
    return float(model.ms(np.array(left(program))))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_the_latency_is_met_and_nothing_else_changes(share: float) -> None:
    program, model = scored()
    limit_ms = share * full_ms(model)
    result = SelectWidths(Goal({}), Limits(), model, limit_ms).run(program)
    assert result.modified and result.program.module is program.module and Selection not in program
    assert predicted_ms(model, result.program) <= limit_ms * (1 + 1e-9)  # sums in another order
    assert all(count % 4 == 0 for count in left(result.program)), "narrower than a step gains nothing"
    removed = int((~result.program[Selection].keep).sum())
    assert removed > 0 and result.remarks == (f"{removed} of 32 channels go",)


def test_of_each_group_the_least_important_go() -> None:
    program, model = scored()
    keep = Runner().run([SelectWidths(Goal({}), Limits(), model, 0.5 * full_ms(model))], program)[Selection].keep
    for group in program[Dependencies].groups:
        importance, kept = program[Scores].importance[group.start : group.stop], keep[group.start : group.stop]
        assert bool(kept.all()) or importance[kept].min() > importance[~kept].max()


def test_a_latency_that_is_met_keeps_everything() -> None:
    program, model = scored()
    result = SelectWidths(Goal({}), Limits(), model, full_ms(model)).run(program)
    assert bool(result.program[Selection].keep.all()) and result.remarks == ("0 of 32 channels go",)


def test_a_goal_that_the_latency_does_not_meet_is_met_besides() -> None:
    program, model = scored()
    alone = SelectWidths(Goal({}), Limits(), model, 0.9 * full_ms(model)).run(program).program
    goal = Goal({"channels": 24})
    both = SelectWidths(goal, Limits(), model, 0.9 * full_ms(model)).run(program).program
    assert sum(left(alone)) > 24 and goal.is_met(costs_of(both), both[Selection].keep)
    assert left(both) == [8, 16], "by what each step gains in latency"


def test_where_latency_has_no_more_to_gain_the_ranking_goes_on() -> None:
    program, model = scored(step=8)
    limit_ms = 0.4 * full_ms(model)
    alone = SelectWidths(Goal({}), Limits(), model, limit_ms).run(program).program
    assert left(alone) == [8, 8]
    both = SelectWidths(Goal({"channels": 11}), Limits(), model, limit_ms).run(program).program
    importance, keep = program[Scores].importance, alone[Selection].keep
    last = importance[keep].sort().values[5]  # sixteen are left without the goal, five of them go
    assert torch.equal(both[Selection].keep, keep & (importance >= last))


def test_on_the_way_it_stops_before_the_step_that_goes_beyond() -> None:
    program, model = scored()
    limit_ms = 0.55 * full_ms(model)
    before = SelectWidths(Goal({}), Limits(), model, limit_ms, at_least=False).run(program).program
    after = SelectWidths(Goal({}), Limits(), model, limit_ms).run(program).program
    assert predicted_ms(model, after) <= limit_ms < predicted_ms(model, before) < full_ms(model)


@pytest.mark.parametrize("share", [0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
def test_scores_that_are_squares_are_taken_as_such(share: float) -> None:
    """Sensitivities decide; squares of them say the same."""
    program, model = scored(step=1)
    plain = SelectWidths(Goal({}), Limits(), model, share * full_ms(model)).run(program).program
    squares = program.knowing(Scores(program[Scores].importance.square(), "test", is_squared=True))
    squared = SelectWidths(Goal({}), Limits(), model, share * full_ms(model)).run(squares).program
    assert torch.equal(plain[Selection].keep, squared[Selection].keep)


def test_a_second_run_selects_the_same() -> None:
    program, model = scored()
    transformation = SelectWidths(Goal({}), Limits(), model, 0.5 * full_ms(model))
    once = Runner().run([transformation], program)
    twice = Runner().run([transformation], once)
    assert torch.equal(once[Selection].keep, twice[Selection].keep)


def test_floors_and_alignment_hold() -> None:
    program, model = scored()
    limits = Limits(min_channels=8, align=8)
    result = Runner().run([SelectWidths(Goal({}), limits, model, 0.6 * full_ms(model))], program)
    assert all(count in (8, 16) for count in left(result)) and sum(left(result)) < 32


def test_a_latency_out_of_reach() -> None:
    program, model = scored()
    with pytest.raises(BudgetError) as caught:
        Runner().run([SelectWidths(Goal({}), Limits(min_channels=8), model, 1e-5)], program)
    message = str(caught.value)
    assert message.startswith("latency: at most 1e-05 ms asked for; ")
    assert f"{full_ms(model):.4g} ms for the present ones. Ask for less" in message
    on_the_way = SelectWidths(Goal({}), Limits(min_channels=8), model, 1e-5, at_least=False)
    assert left(Runner().run([on_the_way], program)) == [8, 8], "on the way it goes as far as it can"


def test_a_goal_out_of_reach() -> None:
    program, model = scored()
    with pytest.raises(BudgetError, match="channels: at most 1 asked for, 2 are left at the least"):
        Runner().run([SelectWidths(Goal({"channels": 1}), Limits(), model, full_ms(model))], program)


def test_without_scores_it_is_refused() -> None:
    program, model = scored()
    with pytest.raises(InternalError, match="select-widths needs Scores"):
        Runner().run([SelectWidths(Goal({}), Limits(), model, 1.0)], program.without(Scores))


def test_a_selection_that_breaks_its_promise_is_caught() -> None:
    program, model = scored()
    everything = PassResult(program.knowing(Selection(torch.ones(32, dtype=torch.bool))), True)
    limit_ms = 0.5 * full_ms(model)
    transformation = SelectWidths(Goal({"channels": 30}), Limits(), model, limit_ms)
    assert transformation.ensures(program, everything) == [
        "the goal is not met", f"{full_ms(model)} ms predicted, {limit_ms} allowed"
    ]  # fmt: skip
    assert transformation.ensures(program, transformation.run(program)) == []
    on_the_way = SelectWidths(Goal({"channels": 30}), Limits(), model, limit_ms, at_least=False)
    assert on_the_way.ensures(program, everything) == [], "on the way neither has to be met"
    keep = torch.ones(32, dtype=torch.bool)
    keep[:15] = False
    narrow = PassResult(program.knowing(Selection(keep)), True)
    found = SelectWidths(Goal({}), Limits(2), model, full_ms(model)).ensures(program, narrow)
    assert found == ["group g0 keeps 1 of 16 channels, which the limits forbid"]
