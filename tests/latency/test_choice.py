"""Widths meet a latency, and lose about as little squared importance as any others would."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphprune.costs.widths import Counts
from graphprune.latency.choice import Keeping, choose_widths
from graphprune.latency.model import Calibration, LatencyModel
from tests.latency.stepped import HERE, Stepped
from tests.small_models import analysed


def model_and_importance(*widths: int, step: int = 4) -> tuple[LatencyModel, Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for before, after in zip(widths, [*widths[1:], 4], strict=True):
        layers += [nn.ReLU(), nn.Conv2d(before, after, 3, padding=1)]
    program, dependencies = analysed(nn.Sequential(*layers), torch.randn(2, 3, 8, 8))
    importance = torch.rand(dependencies.channels, generator=torch.Generator().manual_seed(1))
    return LatencyModel(program, Stepped(HERE, step=step)), importance


def permitted(model: LatencyModel, step: int) -> list[range]:
    return [range(step, group.channels, step) for group in model.dependencies.groups]


def widths(model: LatencyModel, importance: Tensor, limit_ms: float, permitted: Sequence[range]) -> Counts:
    counts = choose_widths(model, importance, lambda _, ms: ms <= limit_ms, permitted)
    assert float(model.ms(counts)) <= limit_ms * (1 + 1e-9)  # sums in another order
    return counts


def keep_of(model: LatencyModel, importance: Tensor, counts: Counts) -> Tensor:
    return Keeping.of(model.dependencies.groups, importance).keep(counts)


def lost(model: LatencyModel, importance: Tensor, counts: list[int]) -> float:
    squares = importance * importance.abs()
    return float(squares[~keep_of(model, importance, np.array(counts))].sum())


@pytest.mark.parametrize("worse_than_none", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_near_the_best_of_all_widths(share: float, worse_than_none: float) -> None:
    """Also where some channels are better removed than kept, as a criterion with signs may say (GraSP)."""
    model, importance = model_and_importance(16, 12, 16)
    negative = torch.rand(len(importance), generator=torch.Generator().manual_seed(2)) < worse_than_none
    importance = torch.where(negative, -importance, importance)
    limit_ms = share * float(model.ms(model.full))
    counts = widths(model, importance, limit_ms, permitted(model, 4))
    assert float(model.ms(counts)) <= limit_ms
    every = product(
        *([*each, group.channels] for each, group in zip(permitted(model, 4), model.dependencies.groups, strict=True))
    )
    best = min(lost(model, importance, list(each)) for each in every if float(model.ms(np.array(each))) <= limit_ms)
    # greedy: at most one step of one group away from the best, which removes some tenths of all importance
    assert lost(model, importance, counts.tolist()) <= best + 0.15 * float(importance.square().sum())


def test_a_step_that_gains_nothing_is_taken_with_the_next() -> None:
    model, importance = model_and_importance(16, 16, step=8)
    counts = widths(model, importance, 0.6 * float(model.ms(model.full)), permitted(model, 1))
    assert all(count % 8 == 0 for count in counts.tolist()), counts


def test_equal_channels_go_evenly() -> None:
    model, _ = model_and_importance(32, 32, 32)
    counts = widths(model, torch.zeros(96), 0.4 * float(model.ms(model.full)), permitted(model, 4))
    assert max(counts) - min(counts) <= 4


def test_the_most_important_channels_stay() -> None:
    model, importance = model_and_importance(16, 12)
    keep = keep_of(model, importance, np.array([5, 7]))
    for group, count in zip(model.dependencies.groups, (5, 7), strict=True):
        of_group, kept = importance[group.start : group.stop], keep[group.start : group.stop]
        assert int(kept.sum()) == count
        assert float(of_group[kept].min()) >= float(of_group[~kept].max())


def test_what_cannot_be_met_is_as_narrow_as_permitted() -> None:
    model, importance = model_and_importance(16, 12)
    counts = choose_widths(model, importance, lambda _, ms: ms <= 1e-6, permitted(model, 4))
    assert counts.tolist() == [4, 4]


def test_a_part_is_what_a_group_changes_of_the_whole() -> None:
    program, dependencies = analysed(network_with_residual(), torch.randn(2, 3, 8, 8))
    model = LatencyModel(program, Stepped(HERE, step=4), Calibration(0.9, 1e-5))
    rng = np.random.default_rng(0)
    for _ in range(20):
        first = np.array([rng.integers(1, group.channels + 1) for group in dependencies.groups])
        index = int(rng.integers(len(first)))
        second = first.copy()
        second[index] = rng.integers(1, dependencies.groups[index].channels + 1)
        parts = model.part_ms(index, np.stack([first, second]))
        whole = model.ms(np.stack([first, second]))
        np.testing.assert_allclose(parts[1] - parts[0], whole[1] - whole[0], rtol=1e-9, atol=1e-12)


def test_latency_goes_along_while_widths_are_chosen() -> None:
    model, importance = model_and_importance(16, 12, 16)
    seen: list[tuple[Counts, float]] = []

    def is_enough(counts: Counts, ms: float) -> bool:
        seen.append((counts.copy(), ms))
        return ms <= 0.4 * full_ms

    full_ms = float(model.ms(model.full))
    choose_widths(model, importance, is_enough, permitted(model, 4))
    assert len(seen) > 5
    for counts, ms in seen:
        assert ms == pytest.approx(float(model.ms(counts)), rel=1e-9)


def network_with_residual() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.first(x))
            found: Tensor = self.head(torch.relu(self.norm(self.second(y)) + y))
            return found

    return Residual().eval()
