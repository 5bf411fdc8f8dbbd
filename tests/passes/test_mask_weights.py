"""Zeros where a selection has none of the weights; nothing else changes."""

from __future__ import annotations

import torch

from graphprune.costs.pool import pool_of
from graphprune.pass_manager.runner import Runner
from graphprune.passes.mask_weights import MaskWeights
from graphprune.program.program import Origin, Program
from graphprune.selection.record import Selection
from tests.small_models import Mlp, analysed


def selected(live: float = 0.5, seed: int = 0) -> Program:
    program, dependencies = analysed(Mlp(), torch.randn(2, 5))
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(w.shape, generator=generator) < live for name, w in pool_of(program).items()}
    masks["head.weight"] = torch.ones_like(masks["head.weight"])
    everything = torch.ones(dependencies.channels, dtype=torch.bool)
    return program.knowing(Selection(everything, masks={n: m for n, m in masks.items() if not m.all()}))


def test_dead_weights_become_zero() -> None:
    program = selected()
    before = {name: value.clone() for name, value in program.module.state_dict().items()}
    masked = Runner().run((MaskWeights(),), program)
    for name, value in masked.module.state_dict().items():
        mask = program[Selection].masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, torch.where(mask, before[name], 0)), name
        assert torch.equal(program.module.state_dict()[name], before[name]), "the program that it came from"
    assert masked.history.masks.keys() == {"fc1.weight", "fc2.weight"} and not masked.history.dormant
    assert masked.module.head.weight is program.module.head.weight  # type: ignore[union-attr]


def test_nothing_changes_without_masks() -> None:
    program = selected(live=2.0)
    result = MaskWeights().run(program)
    assert not result.modified and result.program is program


def test_twice_is_once() -> None:
    once = Runner().run((MaskWeights(),), selected())
    twice = MaskWeights().run(once).program
    for first, second in zip(once.module.parameters(), twice.module.parameters(), strict=True):
        assert torch.equal(first, second)


def test_values_wait_where_weights_can_come_back() -> None:
    program = selected()
    dead = Runner().run((MaskWeights(resurrect=True),), program)
    everything = Selection(torch.ones(14, dtype=torch.bool))
    back = Runner().run((MaskWeights(resurrect=True),), dead.knowing(everything).without(Origin))
    for name, parameter in program.module.named_parameters():
        assert torch.equal(back.module.get_parameter(name), parameter), name
    assert not back.history.masks


def test_a_result_that_is_wrong_is_noticed() -> None:
    program = selected()
    masking = MaskWeights()
    result = masking.run(program)
    assert masking.ensures(program, result) == []
    weight = result.program.module.get_parameter("fc1.weight")
    dead = ~result.program.history.masks["fc1.weight"]
    with torch.no_grad():
        weight[dead] = 1.0
    assert masking.ensures(program, result) == ["fc1.weight: dead weights are not zero, or live ones changed"]
    with torch.no_grad():
        weight[dead] = 0.0
        weight[~dead] += 1.0
    assert masking.ensures(program, result) == ["fc1.weight: dead weights are not zero, or live ones changed"]
