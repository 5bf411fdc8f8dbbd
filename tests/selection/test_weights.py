"""Exact numbers of weights by one ranking, compared with a walk along the ranking, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphprune.costs.model import costs_of
from graphprune.costs.pool import pool_of
from graphprune.criteria.scores import Scores
from graphprune.criteria.weights import WeightScores
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.channels import violations
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection, weights_left
from graphprune.selection.weights import select_jointly, select_weights
from tests.small_models import Chain, Mlp, Residual, analysed, images

MODELS = {"chain": (Chain, images(2)), "mlp": (Mlp, torch.randn(2, 5)), "residual": (Residual, images(2))}


def scored(name: str, seed: int, levels: int = 0) -> Program:
    """With random importances; ``levels`` makes them whole numbers, so that many are equal."""
    model, example = MODELS[name]
    program, dependencies = analysed(model(), example)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        values = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (values * levels).floor() if levels else values

    weights = {name: draw(*weight.shape) for name, weight in pool_of(program).items()}
    # a channel counts as much as some of its weights together, so that both kinds come in turns
    return program.knowing(
        Scores(draw(dependencies.channels) * (1 if levels else 0.7), "test"), WeightScores(weights, "test")
    )


def walked(program: Program, allowed: int, floor: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Channels and live weights after a walk along the ranking, in which whatever does not fit is passed over."""
    classes, groups = program[Dependencies].classes(), program[Dependencies].groups
    live = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in pool_of(program).items()}
    keep = torch.ones(program[Dependencies].channels, dtype=torch.bool)
    entries: list[tuple[float, str, int]] = [
        (float(value), "", index) for index, value in enumerate(program[Scores].importance)
    ]
    for name, importance in program[WeightScores].importance.items():
        entries += [(float(value), name, index) for index, value in enumerate(importance.flatten())]
    left = sum(mask.numel() for mask in live.values()) - allowed
    for _, name, index in sorted(entries):
        if name:
            alive = live[name].view(-1)
            if left and bool(alive[index]):
                alive[index] = False
                left -= 1
            continue
        without = {name: mask.clone() for name, mask in live.items()}
        for (owner, dim), channels in classes.items():
            if owner in without:
                without[owner].movedim(dim, 0)[channels == index] = False
        gone = sum(int(mask.sum()) for mask in live.values()) - sum(int(mask.sum()) for mask in without.values())
        group = next(group for group in groups if group.start <= index < group.stop)
        if gone <= left and int(keep[group.start : group.stop].sum()) > floor:
            keep[index], live, left = False, without, left - gone
    return keep, live


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8, 0.97])
def test_exactly_as_many_weights_stay(name: str, share: float) -> None:
    program = scored(name, seed=1)
    total = sum(weight.numel() for weight in pool_of(program).values())
    allowed = total - int(total * share)
    selection = select_weights(program, allowed)
    assert weights_left(program.knowing(selection)) == allowed and bool(selection.keep.all())
    rows = program[WeightScores].importance
    live = torch.cat([selection.masks.get(n, torch.ones_like(v, dtype=torch.bool)).flatten() for n, v in rows.items()])
    every = torch.cat([value.flatten() for value in rows.values()])
    assert share == 0 or every[~live].max() < every[live].min()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("floor", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_jointly_is_a_walk_along_the_ranking(name: str, floor: int, seed: int) -> None:
    program = scored(name, seed)
    total = sum(weight.numel() for weight in pool_of(program).values())
    for share in (0.0, 0.2, 0.5, 0.8, 0.95):
        allowed = total - int(total * share)
        keep, live = walked(program, allowed, floor)
        selection = select_jointly(program, allowed, Limits(floor))
        assert torch.equal(selection.keep, keep)
        for weight, mask in live.items():
            assert torch.equal(selection.masks.get(weight, torch.ones_like(mask)), mask), weight
        assert weights_left(program.knowing(selection)) == allowed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("align", [1, 2])
@pytest.mark.parametrize("levels", [1, 3])
def test_ties_and_alignment_do_not_spoil_the_number(name: str, align: int, levels: int) -> None:
    program, limits = scored(name, seed=2, levels=levels), Limits(1, align)
    total = sum(weight.numel() for weight in pool_of(program).values())
    for share in (0.3, 0.6, 0.9):
        allowed = total - int(total * share)
        selected = program.knowing(select_jointly(program, allowed, limits))
        assert Selection in selected and weights_left(selected) == allowed
        assert not violations(costs_of(selected), selected[Selection].keep, Goal({}), limits)


def test_dead_weights_stay_dead_unless_they_can_come_back() -> None:
    program = scored("mlp", seed=3)
    first = select_weights(program, 40)
    masked = program.masked(dict(first.masks))
    turned = {name: 1 - value for name, value in _importance(program).items()}
    turned_round = masked.knowing(WeightScores(turned, "test"))
    again = select_weights(turned_round, 30).masks
    assert all(not bool((mask & ~first.masks[name]).any()) for name, mask in again.items())
    dormant = {name: weight.detach() for name, weight in pool_of(program).items()}
    back = select_weights(replace(turned_round, history=replace(turned_round.history, dormant=dormant)), 30).masks
    assert any(bool((mask & ~first.masks[name]).any()) for name, mask in back.items())


def _importance(program: Program) -> dict[str, Tensor]:
    return dict(program[WeightScores].importance)


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(torch.relu(self.first(x)))
            return out

    program, _ = analysed(Tied(), torch.randn(2, 5))
    assert costs_of(program).before()["weights"] == 25
