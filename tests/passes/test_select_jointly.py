"""select-jointly: channels and weights under one threshold, exactly as many weights as are allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphprune.costs.pool import pool_of
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.errors import InternalError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.select_jointly import SelectJointly
from graphprune.paths.dead import dead_paths_of
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.record import Selection, weights_left
from tests.small_models import Mlp, analysed

TOTAL = 8 * 5 + 6 * 8 + 3 * 6


def scored(channels: float = 0.7) -> Program:
    """Random importances of channels up to ``channels``, and of weights up to one."""
    program, dependencies = analysed(Mlp(), torch.randn(2, 5))
    generator = torch.Generator().manual_seed(4)
    weights = {
        name: torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in pool_of(program).items()
    }
    importance = channels * torch.rand(dependencies.channels, generator=generator, dtype=torch.float64)
    return program.knowing(Scores(importance, "test"), WeightScores(weights, "test"))


def test_the_selection_is_filled_in_and_nothing_else_changes() -> None:
    program = scored()
    result = SelectJointly(30, Limits()).run(program)
    assert result.modified and result.program.module is program.module and Selection not in program
    selection = result.program[Selection]
    removed = int((~selection.keep).sum())
    assert 0 < removed < 14 and selection.masks, "both kinds go"
    assert result.remarks == (f"{removed} of 14 channels go, 30 weights stay",)


def test_channels_and_weights_are_ranked_together() -> None:
    """The least important channel goes, then three weights; the fourth and the next channel are not reached."""
    program = scored()
    importance, weights = torch.full((14,), 2.0).double(), {n: torch.ones_like(w) for n, w in _weights(program).items()}
    importance[3], importance[9] = 0.0, 0.5
    weights["fc2.weight"][0, 1], weights["fc2.weight"][5, 7], weights["head.weight"][2, 0] = 0.1, 0.2, 0.3
    weights["fc1.weight"][0, 0] = 0.4
    ranked = program.knowing(Scores(importance, "test"), WeightScores(weights, "test"))
    selection = SelectJointly(TOTAL - (5 + 6) - 3, Limits()).run(ranked).program[Selection]
    assert (~selection.keep).nonzero().flatten().tolist() == [3]
    gone = {name: (~mask).nonzero().tolist() for name, mask in selection.masks.items()}
    assert gone == {
        "fc1.weight": [[3, index] for index in range(5)],  # those of the channel
        "fc2.weight": sorted([[0, 1], [5, 7], *([index, 3] for index in range(6))]), "head.weight": [[2, 0]],
    }  # fmt: skip


def _weights(program: Program) -> dict[str, torch.Tensor]:
    return dict(program[WeightScores].importance)


@pytest.mark.parametrize("allowed", [9, 30, 77, TOTAL])
def test_as_many_weights_are_left_when_it_is_carried_out(allowed: int) -> None:
    selected = Runner().run([SelectJointly(allowed, Limits())], scored())
    assert weights_left(selected) == allowed
    after = Runner().run(pipelines.pruning_jointly(resurrect=False, verify=True, seed=0), selected)
    alive = sum(int((weight != 0).sum()) for weight in pool_of_any(after))
    assert alive == allowed


def pool_of_any(program: Program) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in program.module.parameters() if parameter.dim() == 2]


def test_where_all_are_allowed_nothing_goes() -> None:
    result = SelectJointly(TOTAL, Limits()).run(scored())
    selection = result.program[Selection]
    assert bool(selection.keep.all()) and selection.masks == {}
    assert result.remarks == (f"0 of 14 channels go, {TOTAL} weights stay",)


def test_a_second_run_selects_the_same() -> None:
    once = Runner().run([SelectJointly(30, Limits())], scored())
    twice = Runner().run([SelectJointly(30, Limits())], once)
    assert torch.equal(once[Selection].keep, twice[Selection].keep)
    assert once[Selection].masks.keys() == twice[Selection].masks.keys()
    assert all(torch.equal(mask, twice[Selection].masks[name]) for name, mask in once[Selection].masks.items())


def test_floors_and_alignment_hold() -> None:
    selected = Runner().run([SelectJointly(20, Limits(min_channels=4, align=2))], scored(channels=0.01))
    keep = selected[Selection].keep
    assert (int(keep[:8].sum()), int(keep[8:].sum())) == (4, 4) and weights_left(selected) == 20


@pytest.mark.parametrize("allowed", [9, 15, 30])
def test_on_paths_as_many_lead_from_input_to_output(allowed: int) -> None:
    program = Runner().run([SelectJointly(allowed, Limits(), on_paths=True)], scored(channels=3.0))
    plain = Runner().run([SelectJointly(allowed, Limits())], scored(channels=3.0))
    assert weights_left(program) - dead_paths_of(program).weights == allowed
    assert dead_paths_of(plain).weights > 0, "without it some lead nowhere"


@pytest.mark.parametrize("missing", [Scores, WeightScores])
def test_without_scores_of_both_kinds_it_is_refused(missing: type[Scores] | type[WeightScores]) -> None:
    with pytest.raises(InternalError, match=f"select-jointly needs {missing.__name__}, which no earlier pass provides"):
        Runner().run([SelectJointly(30, Limits())], scored().without(missing))


def test_a_selection_that_breaks_its_promise_is_caught() -> None:
    program = scored()
    right = SelectJointly(30, Limits()).run(program)
    assert SelectJointly(30, Limits()).ensures(program, right) == []
    assert SelectJointly(29, Limits()).ensures(program, right) == ["30 weights left, 29 allowed"]
    keep = torch.ones(14, dtype=torch.bool)
    keep[1:8] = False
    narrow = PassResult(program.knowing(replace(right.program[Selection], keep=keep, masks={})), True)
    assert SelectJointly(5 + 6 + 18, Limits(2)).ensures(program, narrow) == [
        "group g0 keeps 1 of 8 channels, which the limits forbid"
    ]
