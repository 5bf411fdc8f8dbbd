"""Costs of a keep set against counts on the module that it gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.costs.model import CostModel, count_macs, count_parameters
from graphprune.labels.keep_set import KeepSet
from graphprune.rewrite.compact import compact_module
from tests.small_models import (
    CLASSES,
    NETWORKS,
    Chain,
    Residual,
    analysed,
    images,
)


def one_dimensional() -> nn.Module:
    last = nn.Linear(8, CLASSES)
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2), nn.Flatten(), last)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, CLASSES)
    )


def transposed() -> nn.Module:
    up, pool = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), up, pool, nn.Flatten(), nn.Linear(4, CLASSES))


def three_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1), nn.Flatten(2))


class Attention(nn.Module):
    """Attention written out with matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        out: Tensor = self.head(functional.softmax(scores, -1) @ self.v(x))
        return out


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **NETWORKS,
    "matmul": (Attention, (5, 4)),
    "conv1d": (one_dimensional, (2, 8)),
    "conv3d": (three_dimensional, (2, 4, 4, 4)),
    "grouped": (grouped, (2, 6, 6)),
    "transposed": (transposed, (2, 6, 6)),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_params_and_macs_of_random_keep_sets(name: str, batch: int) -> None:
    factory, shape = CASES[name]
    program, dependencies = analysed(factory(), torch.randn(batch, *shape))
    costs = CostModel(program, dependencies)
    everything = torch.ones(dependencies.channels, dtype=torch.bool)
    for keep in (everything, *(_random_keep(dependencies.channels, dependencies.groups) for _ in range(3))):
        module = compact_module(program, KeepSet.of(dependencies, keep))
        assert costs.params(KeepSet.of(dependencies, keep)) == count_parameters(module)
        assert costs.macs(KeepSet.of(dependencies, keep)) == count_macs(
            module, program.inputs(), program.example.batch_size
        )
        assert costs.channels(KeepSet.of(dependencies, keep)) == int(keep.sum())


def _random_keep(channels: int, groups: tuple[object, ...]) -> Tensor:
    keep = torch.rand(channels) < 0.6
    for group in groups:
        keep[group.start] = True  # type: ignore[attr-defined]
    return keep


def test_macs_do_not_depend_on_the_batch_size() -> None:
    counts = set()
    for batch in (1, 2, 5):
        program, dependencies = analysed(Residual(), images(batch))
        counts.add(CostModel(program, dependencies).macs(KeepSet.everything(dependencies)))
    assert len(counts) == 1


def test_macs_of_a_layer_by_hand() -> None:
    program, dependencies = analysed(Chain(6), images())
    everything = KeepSet.everything(dependencies)
    assert CostModel(program, dependencies).macs(everything) == 2 * 9 * 36 * 6 + 6 * CLASSES


def test_tied_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.second(torch.relu(self.first(x))))
            return out

    program, dependencies = analysed(Tied(), torch.randn(2, 6))
    everything = KeepSet.everything(dependencies)
    assert CostModel(program, dependencies).params(everything) == 36 + 6 + 6 + 21
